"""Classification with mmpretrain, the only place that imports it.

Importing this module adds the models of configs/classification to mmpretrain's hub, so
that its functions take their names:

    import sparseformer_mm.classification
    import mmpretrain

    mmpretrain.list_models('sparseformer')
    model = mmpretrain.get_model('sparseformer-tiny_8xb128_in1k')

No weights come with them: give `pretrained=PATH` a converted checkpoint.

(Paths of configs, and types such as 'sparseformer_mm.SparseFormer' in them, work
without it. mmdet, mmseg and mmaction2 know names of their own packages only: give them
``sparseformer_mm.config_path(NAME)``.)
"""

from pathlib import Path

try:
    from mmpretrain.apis import ModelHub
except ImportError as error:
    raise ImportError(
        f'sparseformer_mm.classification needs mmpretrain, and {error.name!r} cannot '
        'be imported: pip install onedl-mmpretrain (or mmpretrain); '
        'tools/check_env.py --need classification says more'
    ) from error

from .bootstrap import BootstrapSparseFormer

__all__ = ['BootstrapSparseFormer']

_MIM = Path(__file__).parents[1] / '.mim'


def _register():
    # The other tasks' models are not mmpretrain's to build.
    folder = _MIM / 'configs' / 'classification'
    # Only once: the hub refuses a name that it has.
    if not ModelHub.has('sparseformer-tiny_8xb128_in1k'):
        for index in (folder, folder / 'bootstrapped'):
            ModelHub.register_model_index(index / 'metafile.yml', config_prefix=_MIM)


_register()
