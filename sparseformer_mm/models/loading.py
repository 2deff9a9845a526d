"""Checkpoints: names of other layouts, other sizes, and an honest report.

Three layouts of parameter names are known: 'mm' (this package), 'v1' (the authors'
training code) and 'v2' (their later library). :func:`to_mm` and :func:`from_mm` are
pure functions between them; :func:`load_into_backbone` is what every loading of a
:class:`~.sparseformer.SparseFormer` passes through.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from .rois import corners_to_rois, inflate_rois, init_offsets, rois_to_corners

# The key that tells a layout: the initial RoIs.
_MARKERS = dict(mm='latent.token_rois', v1='token_roi.weight', v2='initial_roi.weight')

# Where training codes put weights, best first: averaged weights are the ones that
# were evaluated. mmengine's own 'ema_state_dict' is absent on purpose: its EMA hook
# stores the averaged weights as 'state_dict', and the others there.
_WRAPPERS = ('model_ema', 'state_dict_ema', 'ema', 'state_dict', 'model')

# (mm, v1, v2) within the model, and within a block.
_TOP_NAMES = (
    ('stem.conv.', 'feat_extractor.conv1.', 'feat_extractor.conv1.'),
    ('latent.token_rois', 'token_roi.weight', 'initial_roi.weight'),
    ('latent.token_embeddings', 'token_embedding.weight', 'initial_embedding.weight'),
    ('transition.', 'layers.1.', 'layers.1.'),
    ('norm.', 'head.norm.', 'norm.'),
    ('head.', 'head.classifier.', 'proj.'),
)
_BLOCK_NAMES = (
    ('attn_norm.', 'ln_attn.', 'norm1.'),
    ('attn.qkv.weight', 'attn.in_proj_weight', 'attn.qkv.weight'),
    ('attn.qkv.bias', 'attn.in_proj_bias', 'attn.qkv.bias'),
    ('attn.proj.', 'attn.out_proj.', 'attn.proj.'),
    ('ffn_norm.', 'ffn.0.', 'norm2.'),
    ('ffn.fc1.', 'ffn.1.', 'mlp.fc1.'),
    ('ffn.fc2.', 'ffn.3.', 'mlp.fc2.'),
    ('roi_adjust.norm.', 'roi_adjust_module.0.', 'roi_adjust_module.0.'),
    ('roi_adjust.proj.', 'roi_adjust_module.1.', 'roi_adjust_module.1.'),
    ('sampler.norm.', 'roi_offset_module.0.', 'roi_offset_module.0.'),
    ('sampler.proj.', 'roi_offset_module.1.', 'roi_offset_module.1.'),
    ('sampler.bias', 'roi_offset_bias', 'roi_offset_bias'),
    (
        'decoder.norm.',
        'adaptive_mixing.parameter_generator.0.',
        'adaptive_mixing.parameter_generator.0.',
    ),
    (
        'decoder.squeeze.',
        'adaptive_mixing.parameter_generator.1.',
        'adaptive_mixing.parameter_generator.1.',
    ),
    (
        'decoder.generate.',
        'adaptive_mixing.parameter_generator.2.',
        'adaptive_mixing.parameter_generator.2.',
    ),
    ('decoder.channel_bias', 'adaptive_mixing.m_beta', 'adaptive_mixing.m_beta'),
    ('decoder.point_bias', 'adaptive_mixing.s_beta', 'adaptive_mixing.s_beta'),
    ('decoder.proj.', 'adaptive_mixing.tuo_proj.', 'adaptive_mixing.out_proj.'),
)
_LAYOUTS = ('mm', 'v1', 'v2')


def unwrap(checkpoint: Mapping) -> Tuple[Mapping, str]:
    """Find the weights in a checkpoint file's content.

    Returns:
        tuple: the state dict and the name of the key it was under ('' if none). Of
        several copies an averaged (EMA) one is taken.
    """
    for key in _WRAPPERS:
        if isinstance(checkpoint.get(key), Mapping) and checkpoint[key]:
            return checkpoint[key], key
    return checkpoint, ''


def detect_layout(state: Mapping) -> Optional[Tuple[str, str]]:
    """Return (layout, prefix) of a state dict, or None if it is no SparseFormer."""
    for key in state:
        for layout, marker in _MARKERS.items():
            if isinstance(key, str) and re.search(rf'(^|\.){re.escape(marker)}$', key):
                return layout, key[: -len(marker)]
    return None


def _rename(key: str, source: str, target: str) -> Optional[str]:
    """Translate one parameter name, None if it is unknown."""
    here, there = _LAYOUTS.index(source), _LAYOUTS.index(target)
    head, rest, names = '', key, _TOP_NAMES
    block = re.match(r'(focusing|cortex\.(\d+)|layers\.(\d+))\.', key)
    if block and not key.startswith('layers.1.'):
        rest, names = key[block.end() :], _BLOCK_NAMES
        # The authors count on from the focusing block (0) and the transition (1).
        index = 0
        if not key.startswith('focusing.'):
            index = int(block[3] or int(block[2]) + 2)
        if target != 'mm':
            head = f'layers.{index}.'
        else:
            head = f'cortex.{index - 2}.' if index else 'focusing.'
    for name in names:
        if rest.startswith(name[here]):
            return head + name[there] + rest[len(name[here]) :]
    return None


def to_mm(state: Mapping, layout: str, prefix: str = '') -> 'OrderedDict[str, Tensor]':
    """Translate a state dict to this package's names.

    RoIs become center and size; a video stem's (C, 3, 1, k, k) weight becomes 2D. The
    classifier, if any, is under ``head.``. Names that are unknown are left out.

    Args:
        state: under ``layout`` names, each starting with ``prefix``.
        layout: 'mm', 'v1' or 'v2'.
        prefix: e.g. 'module.'; other names are left out.
    """
    result = OrderedDict()
    for key, value in state.items():
        if not key.startswith(prefix) or not isinstance(value, Tensor):
            continue
        name = key[len(prefix) :]
        if layout != 'mm':
            name = _rename(name, layout, 'mm')
            if name is None:
                continue
            if name == 'latent.token_rois':
                value = corners_to_rois(value)
            elif name == 'stem.conv.weight' and value.dim() == 5:
                value = value.squeeze(2)
        result[name] = value
    return result


def unknown_names(state: Mapping, layout: str, prefix: str = '') -> List[str]:
    """Tensors of an authors' state dict that :func:`to_mm` has to leave out."""
    return [
        str(key)
        for key, value in state.items()
        if isinstance(value, Tensor)
        and not (key.startswith(prefix) and _rename(key[len(prefix) :], layout, 'mm'))
    ]


def from_mm(state: Mapping, layout: str) -> 'OrderedDict[str, Tensor]':
    """Translate this package's names (classifier under ``head.``) to the authors'.

    Args:
        state: as :func:`to_mm` returns it.
        layout: 'v1' or 'v2'. A video model's stem weight becomes (C, 3, 1, k, k).

    Raises:
        KeyError: for a parameter that the authors' models do not have.
    """
    is_video = state['latent.token_rois'].shape[-1] == 6
    result = OrderedDict()
    for key, value in state.items():
        name = _rename(key, 'mm', layout)
        if name is None:
            raise KeyError(
                f"the authors' {layout} layout has no counterpart of {key!r}"
            )
        if key == 'latent.token_rois':
            value = rois_to_corners(value)
        elif key == 'stem.conv.weight' and is_video:
            value = value.unsqueeze(2)
        result[name] = value
    return result


def to_openmmlab(
    state: Mapping, classifier: Optional[str] = None
) -> 'OrderedDict[str, Tensor]':
    """Name a backbone's and classifier's state as in a model of OpenMMLab.

    Args:
        state: as :func:`to_mm` returns it.
        classifier: name of the linear layer that gets ``head.*``, e.g. 'head.fc';
            None leaves it out.

    Returns:
        OrderedDict with 'backbone.' before the backbone's names.
    """
    result = OrderedDict()
    for key, value in state.items():
        if not key.startswith('head.'):
            result[f'backbone.{key}'] = value
        elif classifier:
            result[classifier + key[len('head') :]] = value
    return result


def convert_checkpoint(
    checkpoint: Mapping, classifier: Optional[str] = None
) -> 'Optional[OrderedDict[str, Tensor]]':
    """Translate a file of the authors to the state dict of an OpenMMLab model.

    Args:
        checkpoint: the file's content, wrapped or not.
        classifier: see :func:`to_openmmlab`.

    Returns:
        The state dict, or None if this is no file of the authors.
    """
    weights, wrapper = unwrap(checkpoint)
    found = detect_layout(weights)
    if found is None or found[0] == 'mm':
        return None
    unknown = unknown_names(weights, *found)
    print_log(
        f"SparseFormer: checkpoint with the authors' {found[0]} names"
        f'{f" under {wrapper!r}" if wrapper else ""} translated'
        f'{f", but for the unknown {_shorten(unknown)}" if unknown else ""}',
        logger='current',
        level=logging.WARNING if unknown else logging.INFO,
    )
    return to_openmmlab(to_mm(weights, *found), classifier)


def inflate_state(
    state: Mapping, inflation: int, time_offsets: str = 'middle'
) -> 'OrderedDict[str, Tensor]':
    """Make an image model's 'mm' state a video model's (paper, section 3.2).

    Tokens are copied along time; nothing that depends on a token moves points or
    tubes in time yet.

    Args:
        state: of an image model.
        inflation: n_t.
        time_offsets: what points have in time in all tubes, see
            :func:`~.rois.init_offsets`. 'middle' is the authors' inflation.
    """
    result = OrderedDict(state)
    result['latent.token_rois'] = inflate_rois(state['latent.token_rois'], inflation)
    result['latent.token_embeddings'] = state['latent.token_embeddings'].repeat(
        inflation, 1
    )
    for key, value in state.items():
        if key.endswith(
            ('sampler.bias', 'sampler.proj.weight', 'roi_adjust.proj.weight')
        ):
            # Axes come in groups of x, y per point, or of center and size.
            axes = value.unflatten(0, (-1, 2))
            times = torch.zeros_like(axes[:, :1])
            if key.endswith('sampler.bias'):
                times += init_offsets(len(axes), 3, time_offsets)[:, 2:].to(times)
            result[key] = torch.cat([axes, times], 1).flatten(0, 1)
    return result


def _fit(
    source: Dict[str, Tensor], own: Dict[str, Tensor], model
) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Fit a state to the model's shapes.

    Returns:
        tuple: what to load; names that the model re-initialises because its number
        of tokens or points differs; reasons, one sentence each.
    """
    redrawn, reasons = [], []
    rois = source.get('latent.token_rois')
    if rois is not None and rois.shape[-1] == 4 and model.spatial_dims == 3:
        source = inflate_state(source, model.token_inflation, model.time_offsets)
        reasons.append(
            'image weights inflated to tubes with '
            f'token_inflation={model.token_inflation}, '
            f'time_offsets={model.time_offsets!r}'
        )
        rois = source['latent.token_rois']
    own_rois = own['latent.token_rois']
    if rois is not None and len(rois) != len(own_rois):
        redrawn += ['latent.token_embeddings', 'latent.token_rois']
        reasons.append(f'{len(own_rois)} tokens here, {len(rois)} in the checkpoint')

    num_points = model.arch['num_points']
    biases = [v for k, v in source.items() if k.endswith('sampler.bias')]
    dims = model.spatial_dims if rois is None else rois.shape[-1] // 2
    points = len(biases[0]) // dims if biases else num_points
    fitted = {}
    if points != num_points:
        reasons.append(f'{num_points} sampling points here, {points} in the checkpoint')
    for key, mine in own.items():
        value = source.get(key)
        if key in redrawn or value is None:
            continue
        if (
            value.shape != mine.shape
            and points != num_points
            and re.search(
                r'sampler\.(bias|proj)|decoder\.(generate|proj|point_\w+)', key
            )
        ):
            redrawn.append(key)
            channels = model.stem.out_channels**2
            if 'generate' in key and value.shape == (
                channels + points**2,
                *mine.shape[1:],
            ):  # the channel mixing does not depend on P
                fitted[key] = torch.cat([value[:channels].to(mine), mine[channels:]])
            continue
        fitted[key] = value
    return fitted, redrawn, reasons


def load_into_backbone(model, state_dict: MutableMapping, prefix: str):
    """Rewrite ``state_dict`` in place so that ``model`` loads all that fits.

    Finds the model's tensors under ``prefix``, or else anywhere in the dictionary,
    wrapped or not, in any known layout (a backbone that is loaded by itself sees the
    whole file); fits other numbers of tokens or points and image weights for a video
    model; logs what was loaded, re-initialised and left. What is re-initialised keeps
    the values that the model has at this moment.

    Args:
        model: a SparseFormer.
        state_dict: what is being loaded.
        prefix: of the model's own names in it.

    Raises:
        RuntimeError: if tensors of the model are missing or have another shape than
            a different number of tokens or points explains, or if the checkpoint has
            tensors that the model has no place for (a classifier, ``head.*``, may be
            left), unless ``model.allow_partial_load``; also if something would be
            re-initialised and ``model.allow_reinit`` is False.
    """
    own = dict(model.state_dict())
    origin, unknown = '', []
    source = {
        k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)
    }
    if _MARKERS['mm'] not in source:
        weights, wrapper = unwrap(state_dict)
        found = detect_layout(weights)
        if found is not None:
            layout, found_prefix = found
            source = to_mm(weights, layout, found_prefix)
            if layout != 'mm':
                unknown = unknown_names(weights, layout, found_prefix)
            origin = ', '.join(
                filter(
                    None,
                    [
                        f"the authors' {layout} names" if layout != 'mm' else '',
                        f'under {wrapper!r}' if wrapper else '',
                        f'prefix {found_prefix!r}' if found_prefix else '',
                    ],
                )
            )
            state_dict.clear()  # all that is here is ours, under other names

    fitted, redrawn, reasons = _fit(source, own, model)
    wrong = [
        f'{k} (here {tuple(own[k].shape)}, in the checkpoint {tuple(v.shape)})'
        for k, v in fitted.items()
        if own[k].shape != v.shape
    ]
    fitted = {k: v for k, v in fitted.items() if own[k].shape == v.shape}
    missing = [k for k in own if k not in source and k not in redrawn]
    left = [k for k in source if k not in own]
    classifier = [k for k in left if k.startswith('head.')]
    unknown += [k for k in left if k not in classifier]

    num_loaded = len([k for k in fitted if k not in redrawn])
    message = f'SparseFormer: {num_loaded}/{len(own)} tensors loaded'
    message += f' ({origin})' if origin else ''
    if reasons:
        message += f'; {"; ".join(reasons)}'
    if redrawn:
        message += f'; re-initialised: {", ".join(redrawn)}'
    if classifier:
        message += f'; left in the checkpoint: {_shorten(classifier)}'
    problems = ''
    if missing:
        problems += f'; missing in the checkpoint: {_shorten(missing)}'
    if wrong:
        problems += f'; of another shape: {_shorten(wrong)}'
    if unknown:
        problems += f'; unknown to this model: {_shorten(unknown)}'
    rois = source.get('latent.token_rois')
    if rois is not None and rois.shape[-1] > own['latent.token_rois'].shape[-1]:
        problems += (
            '; the checkpoint holds a video model (spatial_dims=3), this model is one '
            'for images'
        )
    if redrawn and not model.allow_reinit:
        problems += '; re-initialising is not allowed here (testing, resuming)'
    if problems and not model.allow_partial_load:
        raise RuntimeError(
            message
            + problems
            + _foreign_hint(prefix, source)
            + '. Check that arch, widths and depth agree with the '
            'checkpoint and that the file is whole and a SparseFormer; to load a part '
            'of the model on purpose, set allow_partial_load=True on the backbone.'
        )
    level = logging.WARNING if problems or redrawn else logging.INFO
    print_log(message + problems, logger='current', level=level)

    for key in left:
        state_dict.pop(prefix + key, None)
    for key, mine in own.items():
        # What is not in the checkpoint keeps its value, without a second complaint.
        state_dict[prefix + key] = fitted[key] if key in fitted else mine.clone()


def _foreign_hint(prefix: str, source: Dict[str, Tensor]) -> str:
    if source or not prefix:
        return ''
    return (
        f'. Nothing in the checkpoint is under {prefix!r}: if it is a file of the '
        "authors or a bare backbone, load it through the backbone's "
        "init_cfg=dict(type='Pretrained', checkpoint=...), or add "
        "dict(type='sparseformer_mm.ConvertCheckpointHook') to custom_hooks, or "
        'convert it with tools/model_converters/showlab_to_mm.py'
    )


def _shorten(names: List[str], most: int = 12) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
