"""Reading a state dict into a SparseFormer: other sizes, and an honest report.

:func:`load_into_backbone` is what every loading of a
:class:`~.sparseformer.SparseFormer` passes through; the names of other layouts are in
:mod:`~.layouts`.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import Dict, Iterable, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from .finding import find_weights, to_whole_model
from .layouts import (
    MARKERS,
    are_rois,
    inflate_state,
    is_bootstrapped,
    looking_blocks,
    to_mm,
    to_openmmlab,
    unexpected_keys,
)


def convert_checkpoint(
    checkpoint: Mapping, classifier: Optional[str] = None
) -> Optional[Dict[str, Tensor]]:
    """Translate a file of the authors, or of a wrapped model, to OpenMMLab's names.

    Args:
        checkpoint: the file's content, wrapped or not.
        classifier: see :func:`~.layouts.to_openmmlab`.

    Returns:
        The state dict; None if there is nothing to translate, or a bare backbone.

    Raises:
        CheckpointError: see :func:`~.finding.find_weights`.
    """
    weights = find_weights(checkpoint)
    state, layout, prefix = weights.state, weights.layout, weights.prefix
    if layout == 'mm':
        own_name = f'backbone.{MARKERS["mm"]}'
        is_plain = own_name in checkpoint.get('state_dict', checkpoint)
        is_plain &= weights.place in ('backbone.', 'state_dict.backbone.')
        if is_plain or prefix == weights.root:
            return None
        result, unexpected = to_whole_model(weights, classifier or '')
        origin = f'weights of the model under {weights.place!r}'
    elif layout:
        result = to_openmmlab(to_mm(state, layout, prefix), classifier)
        unexpected = unexpected_keys(state, layout, prefix)
        origin = f"checkpoint with the authors' {layout} names"
        origin += f' under {weights.wrapper!r}' if weights.wrapper else ''
    else:
        return None
    print_log(
        f'SparseFormer: {origin} translated'
        f'{f"; unexpected keys: {_shorten(unexpected)}" if unexpected else ""}',
        logger='current',
        level=logging.WARNING if unexpected else logging.INFO,
    )
    return result


def load_into_backbone(model, state_dict: MutableMapping, prefix: str):
    """Rewrite ``state_dict`` in place so that ``model`` loads all that fits.

    Finds the model's tensors under ``prefix``, or else anywhere in the dictionary,
    wrapped or not, in any known layout (a backbone that is loaded by itself sees the
    whole file); fits other numbers of tokens or points and image weights for a video
    model; logs what was loaded, re-initialised and left out. What is re-initialised
    keeps the values that the model has at this moment.

    Args:
        model: a SparseFormer.
        state_dict: what is being loaded.
        prefix: of the model's own names in it.

    Raises:
        RuntimeError: for missing keys (but a map decoder may be, all of it), for
            mismatched ones that a different number of tokens or points does not
            explain, and for unexpected ones (a classifier, ``head.*``, or a map decoder
            may be there), unless ``model.allow_partial_load``; also if
            something would be re-initialised and ``model.allow_reinit`` is False.
        CheckpointError: see :func:`~.finding.find_weights`.
    """
    own = dict(model.state_dict())
    source, unexpected, origin = _find(state_dict, prefix)
    fitted, redrawn, reasons = _fit(source, own, model)
    mismatched = [
        f'{key} (here {tuple(own[key].shape)}, in the checkpoint {tuple(value.shape)})'
        for key, value in fitted.items()
        if own[key].shape != value.shape
    ]
    missing = [key for key in own if key not in fitted and key not in redrawn]
    fitted = {k: v for k, v in fitted.items() if own[k].shape == v.shape}
    extra = [key for key in source if key not in own]
    unneeded = {'classifier': 'head.'}
    if model.map_decoder is None:
        unneeded['map decoder'] = 'map_decoder.'
    unexpected += [k for k in extra if not k.startswith(tuple(unneeded.values()))]

    num_loaded = len([key for key in fitted if key not in redrawn])
    message = f'SparseFormer: {num_loaded}/{len(own)} tensors loaded'
    message += f' ({origin})' if origin else ''
    if reasons:
        message += f'; {"; ".join(reasons)}'
    if redrawn:
        message += f'; re-initialised: {_shorten(redrawn)}'
    for part, start in unneeded.items():
        left = [key for key in extra if key.startswith(start)]
        message += f'; {part} left out: {_shorten(left)}' if left else ''
    problems = ''
    if missing:
        problems += f'; missing keys: {_shorten(missing)}'
    if mismatched:
        problems += f'; mismatched keys: {_shorten(mismatched)}'
    if unexpected:
        problems += f'; unexpected keys: {_shorten(unexpected)}'
    rois = source.get('latent.token_rois')
    if are_rois(rois) and rois.shape[-1] > own['latent.token_rois'].shape[-1]:
        problems += (
            '; the checkpoint holds a video model (spatial_dims=3), this model is one '
            'for images'
        )
    kinds = [_kind(names) for names in (source, own)]
    if source and kinds[0] != kinds[1]:
        problems += '; the checkpoint holds {}, this model is {}'.format(*kinds)
    looks = [looking_blocks(names) for names in (source, own)]
    if source and looks[0] != looks[1]:
        problems += (
            '; the checkpoint looks in {} cortex blocks, this model in {} '
            '(cortex_looks)'.format(*looks)
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

    for key in extra:
        state_dict.pop(prefix + key, None)
    for key, value in own.items():
        # What is not in the checkpoint keeps its value, without a second complaint.
        state_dict[prefix + key] = fitted[key] if key in fitted else value.clone()


def _find(
    state_dict: MutableMapping, prefix: str
) -> Tuple[Dict[str, Tensor], List[str], str]:
    """Find a model in what is being loaded; empty it if names had to be translated.

    Returns:
        tuple: the state under mm names; keys of the authors that have none; where it
        was and under which names, for the report.
    """
    source = {
        k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)
    }
    if MARKERS['mm'] in source:
        return source, [], ''
    weights = find_weights(state_dict)
    state, layout, where = weights.state, weights.layout, weights.prefix
    if not layout:
        return source, [], ''
    source, unexpected, origin = to_mm(state, layout, where), [], []
    if layout != 'mm':
        unexpected = unexpected_keys(state, layout, where)
        origin.append(f"the authors' {layout} names")
    if weights.wrapper:
        origin.append(f'under {weights.wrapper!r}')
    if where:
        origin.append(f'prefix {where!r}')
    if weights.others:
        origin.append(f'not the copy under {" or ".join(map(repr, weights.others))}')
    state_dict.clear()  # all that is here is ours, under other names
    return source, unexpected, ', '.join(origin)


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
    if not are_rois(rois) or not len(rois):
        rois = None  # reported as missing or mismatched
    elif rois.shape[-1] == 4 and model.spatial_dims == 3:
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
        embeddings = source.get('latent.token_embeddings', rois)
        if embeddings.shape == own['latent.token_embeddings'].shape:
            redrawn.remove('latent.token_embeddings')  # all tokens share one
        reasons.append(f'{len(own_rois)} tokens here, {len(rois)} in the checkpoint')

    maps = [key for key in own if key.startswith('map_decoder.')]
    if maps and source and not any(key in source for key in maps):
        redrawn += maps
        reasons.append('no map decoder in the checkpoint')

    num_points = model.arch['num_points']
    biases = [v for k, v in source.items() if k.endswith('sampler.bias')]
    dims = model.spatial_dims if rois is None else rois.shape[-1] // 2
    points = num_points
    if biases and biases[0].dim() == 1 and len(biases[0]) % dims == 0:
        points = len(biases[0]) // dims
    fitted = {}
    if points != num_points:
        reasons.append(f'{num_points} sampling points here, {points} in the checkpoint')
    depends_on_points = re.compile(
        r'sampler\.(bias|proj)|decoder\.(generate|proj|point_\w+)'
    )
    for key, param in own.items():
        value = source.get(key)
        if key in redrawn or value is None:
            continue
        if (
            points == num_points
            or value.shape == param.shape
            or not depends_on_points.search(key)
        ):
            fitted[key] = value
            continue
        redrawn.append(key)
        channels = model.stem.out_channels**2
        if (
            'generate' in key
            and value.shape[1:] == param.shape[1:]
            and len(value) > channels
            and (len(value) - channels) % points == 0
        ):  # the channel mixing does not depend on P
            fitted[key] = torch.cat([value[:channels].to(param), param[channels:]])
    return fitted, redrawn, reasons


def _kind(names: Iterable[str]) -> str:
    """Of which paper's models mm names are."""
    if is_bootstrapped(names):
        return "a bootstrapped SparseFormer (arch='bootstrapped-base' or its like)"
    return "a SparseFormer of the first paper (arch='tiny', 'small', 'base' or 'nano')"


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
