"""Reading a state dict into a SparseFormer: other sizes, and an honest report.

:func:`load_into_backbone` is what every loading of a
:class:`~.sparseformer.SparseFormer` passes through; the names of other layouts are in
:mod:`~.layouts`.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from .layouts import (
    MARKERS,
    detect_layout,
    inflate_state,
    to_mm,
    to_openmmlab,
    unknown_names,
    unwrap,
)


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
    if MARKERS['mm'] not in source:
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
