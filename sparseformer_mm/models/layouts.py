"""Names of parameters in the files there are: pure functions between state dicts.

Four layouts are known: 'mm' (this package), 'v1' (the authors' training code), 'v2'
(their later library) and 'bootstrapped' (the same library's models of the second
paper). :func:`to_mm` and :func:`from_mm` translate between them.
"""

import re
from collections.abc import Mapping
from typing import Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor

from .rois import corners_to_rois, inflate_rois, init_offsets, rois_to_corners

# The key that tells a layout: the initial RoIs.
MARKERS = dict(mm='latent.token_rois', v1='token_roi.weight', v2='initial_roi.weight')

_LAYOUTS = ('mm', 'v1', 'v2', 'bootstrapped')

# Names within the model and within a block, in the order of the layouts; '' where a
# layout has none.
_TOP_NAMES = (
    ('stem.conv.', *['feat_extractor.conv1.'] * 3),
    ('latent.token_rois', 'token_roi.weight', *['initial_roi.weight'] * 2),
    (
        'latent.token_embeddings',
        'token_embedding.weight',
        *['initial_embedding.weight'] * 2,
    ),
    ('stage_embeddings.', '', '', 'layers.0.stage_embedding.'),
    ('transition.', *['layers.1.'] * 3),
    ('class_token.', '', '', 'cls_embedding.'),
    ('norm.', 'head.norm.', 'norm.', 'norm.'),
    ('head.', 'head.classifier.', 'proj.', 'proj.'),  # the classifier, last
)
_MIXING = 'adaptive_mixing.'
_GENERATOR = f'{_MIXING}parameter_generator.'
_BLOCK_NAMES = (
    ('attn_norm.', 'ln_attn.', 'norm1.', 'norm1.'),
    ('attn.qkv.weight', 'attn.in_proj_weight', *['attn.qkv.weight'] * 2),
    ('attn.qkv.bias', 'attn.in_proj_bias', *['attn.qkv.bias'] * 2),
    ('attn.proj.', 'attn.out_proj.', 'attn.proj.', 'attn.proj.'),
    ('ffn_norm.', 'ffn.0.', 'norm2.', 'norm2.'),
    ('ffn.fc1.', 'ffn.1.', 'mlp.fc1.', 'mlp.fc1.'),
    ('ffn.fc2.', 'ffn.3.', 'mlp.fc2.', 'mlp.fc2.'),
    ('roi_adjust.norm.', *['roi_adjust_module.0.'] * 3),
    ('roi_adjust.hidden.', '', '', 'roi_adjust_module.1.'),
    ('roi_adjust.proj.', *['roi_adjust_module.1.'] * 2, 'roi_adjust_module.3.'),
    ('sampler.norm.', *['roi_offset_module.0.'] * 3),
    ('sampler.proj.', *['roi_offset_module.1.'] * 3),
    ('sampler.bias', *['roi_offset_bias'] * 3),
    ('decoder.norm.', *[f'{_GENERATOR}0.'] * 3),
    ('decoder.squeeze.', *[f'{_GENERATOR}1.'] * 3),
    ('decoder.generate.', *[f'{_GENERATOR}2.'] * 3),
    ('decoder.channel_bias', *[f'{_MIXING}m_beta'] * 2, ''),
    ('decoder.point_bias', *[f'{_MIXING}s_beta'] * 2, ''),
    ('decoder.proj.', f'{_MIXING}tuo_proj.', *[f'{_MIXING}out_proj.'] * 2),
    ('position.norm.', '', '', 'pe_transition.0.'),
    ('position.proj.', '', '', 'pe_transition.1.'),
)
# Any of these tells 'bootstrapped' from 'v2'.
_BOOTSTRAPPED_MARKERS = (
    'cls_embedding.weight',
    'layers.0.stage_embedding.weight',
    'layers.0.pe_transition.1.weight',
)
# Beginnings of mm names that only bootstrapped models have, without numbers of blocks.
_BOOTSTRAPPED = re.compile(
    r'stage_embeddings\.|class_token\.|(focusing|cortex\.\d+)\.position\.'
)

# Where mm files have a linear classifier, beside 'backbone.': those of mmpretrain's
# models and of :func:`sparseformer_mm.build`, of mmaction2's, and without any prefix.
_OWN_CLASSIFIERS = ('head.fc.', 'cls_head.fc_cls.', 'head.')


def layout_of(names: Iterable[str], marker: str, prefix: str = '') -> str:
    """Tell 'bootstrapped' from 'v2', which have the same marker.

    Args:
        names: of a state dict.
        marker: the layout whose one of :data:`MARKERS` is among them.
        prefix: of the model's names.
    """
    if marker == 'v2' and any(prefix + name in names for name in _BOOTSTRAPPED_MARKERS):
        return 'bootstrapped'
    return marker


def is_bootstrapped(names: Iterable[str]) -> bool:
    """Whether mm names are of a model of the second paper."""
    return any(_BOOTSTRAPPED.match(name) for name in names)


def classifier_names(layout: str) -> Tuple[str, ...]:
    """Beginnings of a classifier's names: under mm within the whole model."""
    if layout == 'mm':
        return _OWN_CLASSIFIERS
    return (_TOP_NAMES[-1][_LAYOUTS.index(layout)],)


def _rename(key: str, source: str, target: str) -> Optional[str]:
    """Translate one parameter's name; None if the layout does not have it."""
    here, there = _LAYOUTS.index(source), _LAYOUTS.index(target)

    def translate(rest: str, names) -> Optional[str]:
        for name in names:
            if name[here] and rest.startswith(name[here]):
                return name[there] and name[there] + rest[len(name[here]) :]
        return None

    name = translate(key, _TOP_NAMES)
    block = re.match(r'(focusing|cortex\.(\d+)|layers\.(\d+))\.', key)
    if name is not None or not block:
        return name or None
    name = translate(key[block.end() :], _BLOCK_NAMES)
    # The authors count on from the focusing block (0) and the transition (1).
    index = 0
    if not key.startswith('focusing.'):
        index = int(block[3] or int(block[2]) + 2)
    place = f'layers.{index}'
    if target == 'mm':
        place = f'cortex.{index - 2}' if index else 'focusing'
    return f'{place}.{name}' if name else None


def are_rois(value: Optional[Tensor]) -> bool:
    """Whether a tensor has the shape of RoIs, of images or videos."""
    return value is not None and value.dim() == 2 and value.shape[1] in (4, 6)


def to_mm(state: Mapping, layout: str, prefix: str = '') -> Dict[str, Tensor]:
    """Translate a state dict to this package's names.

    RoIs become center and size; a video stem's (C, 3, 1, k, k) weight becomes 2D. The
    classifier, if any, is under ``head.``. Names that are unknown are left out.

    Args:
        state: under ``layout`` names, each starting with ``prefix``.
        layout: 'mm', 'v1', 'v2' or 'bootstrapped'.
        prefix: e.g. 'module.'; other names are left out.
    """
    result = {}
    for key, value in state.items():
        if not key.startswith(prefix) or not isinstance(value, Tensor):
            continue
        name = key[len(prefix) :]
        if layout != 'mm':
            name = _rename(name, layout, 'mm')
            if name is None:
                continue
            if name == 'latent.token_rois' and are_rois(value):
                value = corners_to_rois(value)
            elif name == 'stem.conv.weight' and value.dim() == 5:
                value = value.squeeze(2)
        result[name] = value
    return result


def unexpected_keys(state: Mapping, layout: str, prefix: str = '') -> List[str]:
    """Keys of an authors' state dict that :func:`to_mm` has to leave out."""
    return [
        str(key)
        for key, value in state.items()
        if isinstance(value, Tensor)
        and not (key.startswith(prefix) and _rename(key[len(prefix) :], layout, 'mm'))
    ]


def looking_blocks(state: Mapping) -> int:
    """How many cortex blocks look at the image, by the names of a state."""
    pattern = re.compile(r'cortex\.(\d+)\.(sampler|decoder)\.')
    return len({found[1] for found in map(pattern.match, state) if found})


def from_mm(state: Mapping, layout: str) -> Dict[str, Tensor]:
    """Translate this package's names (classifier under ``head.``) to the authors'.

    Args:
        state: as :func:`to_mm` returns it.
        layout: 'v1', 'v2' or 'bootstrapped'. A video model's stem weight becomes
            (C, 3, 1, k, k).

    Raises:
        KeyError: for a parameter that the authors' models do not have.
    """
    is_video = state['latent.token_rois'].shape[-1] == 6
    looks = looking_blocks(state)
    if looks > 1:
        raise KeyError(
            f'{looks} cortex blocks look at the image (cortex_looks={looks}): the '
            "authors' models have one"
        )
    result = {}
    for key, value in state.items():
        name = _rename(key, 'mm', layout)
        if name is None:
            cure = ''
            if is_bootstrapped(state) and layout != 'bootstrapped':
                cure = ": a bootstrapped model's layout is 'bootstrapped'"
            raise KeyError(
                f"the authors' {layout} layout has no counterpart of {key!r}{cure}"
            )
        if key == 'latent.token_rois':
            value = rois_to_corners(value)
        elif key == 'stem.conv.weight' and is_video:
            value = value.unsqueeze(2)
        result[name] = value
    return result


def to_openmmlab(state: Mapping, classifier: Optional[str] = None) -> Dict[str, Tensor]:
    """Name a backbone's and classifier's state as in a model of OpenMMLab.

    Args:
        state: as :func:`to_mm` returns it.
        classifier: name of the linear layer that gets ``head.*``, e.g. 'head.fc';
            None leaves it out.

    Returns:
        The state dict, with 'backbone.' before the backbone's names.
    """
    result = {}
    for key, value in state.items():
        if not key.startswith('head.'):
            result[f'backbone.{key}'] = value
        elif classifier:
            result[classifier + key[len('head') :]] = value
    return result


def inflate_state(
    state: Mapping, inflation: int, time_offsets: str = 'middle'
) -> Dict[str, Tensor]:
    """Make an image model's 'mm' state a video model's (paper, section 3.2).

    Tokens are copied along time; nothing that depends on a token moves points or
    tubes in time yet.

    Tensors of a shape that no image model has stay as they are.

    Args:
        state: of an image model.
        inflation: n_t.
        time_offsets: what points have in time in all tubes, see
            :func:`~.rois.init_offsets`. 'middle' is the authors' inflation.
    """
    result = dict(state)
    result['latent.token_rois'] = inflate_rois(state['latent.token_rois'], inflation)
    moving = ('sampler.bias', 'sampler.proj.weight', 'roi_adjust.proj.weight')
    for key, value in state.items():
        if key == 'latent.token_embeddings' and value.dim() == 2:
            shared = len(value) < len(state['latent.token_rois'])
            result[key] = value if shared else value.repeat(inflation, 1)
        elif key.endswith('position.proj.weight') and value.dim() == 2:
            # Its own name, so that time has no say yet.
            times = value.new_zeros(len(value), value.shape[1] // 2)
            result[key.replace('proj', 'time_proj')] = times
        elif (
            key.endswith(moving)
            and value.dim() == (1 if key.endswith('bias') else 2)
            and value.numel()
            and len(value) % 2 == 0
        ):
            # Axes come in groups of x, y per point, or of center and size.
            axes = value.unflatten(0, (-1, 2))
            times = torch.zeros_like(axes[:, :1])
            if key.endswith('sampler.bias'):
                times += init_offsets(len(axes), 3, time_offsets)[:, 2:].to(times)
            result[key] = torch.cat([axes, times], 1).flatten(0, 1)
    return result
