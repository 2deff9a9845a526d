"""The vision transformers of mmpretrain that a SparseFormer can learn from."""

from copy import deepcopy
from typing import Mapping, Optional, Tuple

from mmpretrain.registry import MODELS
from torch import nn

from ..host import type_name
from ..models.files import load_checkpoint
from ..models.finding import CheckpointError, unwrapped_name

# Averaged weights in the files of others, which were what they evaluated.
_AVERAGES = ('state_dict_ema', 'model_ema')
# Where files have the parts of an ``ImageClassifier``: the same, and mmpretrain's CLIP;
# a backbone may also stand alone.
_PLACES = dict(
    backbone=('backbone.', 'visual.', ''),
    neck=('neck.', 'visual_proj.'),
    head=('head.',),
)


def build_teacher(cfg: Mapping) -> Tuple[nn.Module, Optional[str]]:
    """Build a transformer's config as an ``ImageClassifier``, and name its weights.

    Args:
        cfg: of an ``ImageClassifier``; of a model with ``vision_backbone`` and
            ``projection``, as mmpretrain's CLIPs, whose text tower is left out; or of
            a backbone alone. Its ``init_cfg`` may be a 'Pretrained' one.

    Returns:
        tuple: the model, with random weights; path or URL of the checkpoint, None if
        the config names none.
    """
    cfg = deepcopy(dict(cfg))
    init_cfg = cfg.pop('init_cfg', None)
    weights = init_cfg.get('checkpoint') if isinstance(init_cfg, Mapping) else None
    if 'vision_backbone' in cfg:
        parts = dict(backbone=cfg['vision_backbone'], neck=cfg['projection'])
        cfg = dict(type='ImageClassifier', **parts)
    elif 'backbone' not in cfg:
        cfg = dict(type='ImageClassifier', backbone=cfg)
    elif type_name(cfg) != 'ImageClassifier':
        # Self-supervised ones: their backbone may be a subclass, which is refused.
        cfg = dict(type='ImageClassifier', backbone=cfg['backbone'])
    neck = cfg.get('neck') or {}
    if type_name(neck) == 'CLIPProjection':
        cfg['neck'] = linear_neck(neck['in_channels'], neck['out_channels'])
    return MODELS.build(cfg), weights


def linear_neck(in_channels: int, out_channels: int) -> dict:
    """The config of a linear layer as a neck.

    (CLIPProjection is the same, but mmpretrain has it only where all that its models of
    texts need is installed.)
    """
    return dict(
        type='LinearNeck',
        in_channels=in_channels,
        out_channels=out_channels,
        norm_cfg=None,
    )


def load_teacher(teacher: nn.Module, checkpoint: str):
    """Load a model of :func:`build_teacher`, from a file of any of these configs.

    A position embedding of another size is resized by the backbone.

    Raises:
        CheckpointError: if the file lacks tensors of the model, or shapes differ.
    """
    content = load_checkpoint(checkpoint)
    # mmengine's 'state_dict' is the average already.
    keys = [*_AVERAGES, 'state_dict', 'model']
    state = next((content[key] for key in keys if key in content), content)
    state = {unwrapped_name(key): value for key, value in state.items()}
    for place in _PLACES['neck']:
        projection = state.get(f'{place}proj')
        if projection is not None:  # CLIP's, which has no bias
            state[f'{place}fc.weight'] = projection.t()
            state[f'{place}fc.bias'] = projection.new_zeros(projection.shape[1])
    for name, places in _PLACES.items():
        part = getattr(teacher, name)
        if part is None:
            continue
        wanted = list(part.state_dict())
        found = {
            place: {key: state[place + key] for key in wanted if place + key in state}
            for place in places
        }
        place = max(places, key=lambda place: len(found[place]))
        missing = [place + key for key in wanted if key not in found[place]]
        if missing:
            raise CheckpointError(
                f'{checkpoint} does not hold the teacher: {len(missing)} of the '
                f'{len(wanted)} tensors of its {name} are missing, first '
                f'{missing[0]!r}. Give the file that belongs to the config'
            )
        try:
            part.load_state_dict(found[place])
        except RuntimeError as error:
            raise CheckpointError(
                f'{checkpoint} does not fit the {name} of the teacher: '
                f'{str(error).splitlines()[-1].strip()}'
            ) from error
