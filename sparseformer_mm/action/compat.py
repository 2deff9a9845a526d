"""Let mmaction2 1.2.0, its last release, be imported.

Two things stand in its way: it asserts mmcv < 2.2 without using anything that
changed there, and its wheel lacks the folder ``mmaction/models/localizers/drn``,
which it imports. Importing this module cures both, in this process only, and only
where needed: nothing on disk changes. The tools of this package do so; elsewhere add

    custom_imports = dict(imports=['sparseformer_mm.action.compat'])

to the config. It must run before mmaction is imported for the first time.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import List

from mmengine.logging import print_log
from mmengine.utils import digit_version

_FIRST_REFUSED_MMCV = '2.2.0'


class DRN:
    """Stands for the localizer whose code the release forgot."""

    def __init__(self, *args, **kwargs):
        raise ImportError(
            'DRN is not in the released mmaction2 1.2.0; install '
            'mmaction2 from its source repository to use it'
        )


def apply() -> List[str]:
    """Import mmaction and fill its gaps.

    Returns:
        list: a sentence per thing that was done; empty where nothing was needed.

    Raises:
        ImportError: if mmaction2 is not installed.
    """
    if importlib.util.find_spec('mmaction') is None:
        raise ImportError(
            'sparseformer_mm.action needs mmaction2: pip install mmaction2==1.2.0'
        )
    if 'mmaction.models' in sys.modules:
        return []  # it works as it is
    done = []
    import mmcv

    version = mmcv.__version__
    refused = digit_version(version) >= digit_version(_FIRST_REFUSED_MMCV)
    if 'mmaction' not in sys.modules and refused:
        done.append(f'its limit on mmcv (here {version}) was lifted')
        mmcv.__version__ = '2.1.0'
    try:
        import mmaction
    finally:
        mmcv.__version__ = version
    folder = Path(mmaction.__file__).parent / 'models' / 'localizers'
    if not (folder / 'drn').is_dir():
        for name in ('drn', 'drn.drn'):
            stub = types.ModuleType(f'mmaction.models.localizers.{name}')
            stub.__path__ = []
            stub.DRN = DRN
            sys.modules[stub.__name__] = stub
        done.append('a stand-in was put for the localizer DRN, which the release lacks')
    if done:
        print_log(f'mmaction2 {mmaction.__version__}: {"; ".join(done)}', 'current')
    return done


apply()
