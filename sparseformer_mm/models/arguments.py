"""Checks of arguments, with errors that name the argument and what is allowed."""

import math
from numbers import Integral, Real
from typing import Collection, Dict, Sequence, Union

from torch import Tensor

from .ops import is_tracing


def is_integer(value) -> bool:
    """Whether a value is an integer, maybe one of numpy's; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether a value is a finite number, maybe one of numpy's."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def check_choice(name: str, value, choices: Collection):
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in tuple(choices):
        raise ValueError(f'{name}={value!r} is unknown; choose one of {choices}')


def check_count(name: str, value, least: int = 1) -> int:
    """Raise ValueError unless ``value`` is an integer of at least ``least``.

    Returns:
        int: ``value``, which may be one of numpy's integers.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f'{name}={value!r} must be an integer of at least {least}')
    return int(value)


def check_positive(name: str, value):
    """Raise ValueError unless ``value`` is a positive finite number."""
    if not is_number(value) or value <= 0:
        raise ValueError(f'{name}={value!r} must be positive and finite')


def as_cfg(name: str, value: Union[str, dict], short_names: Dict[str, str]) -> dict:
    """The config of a part, which is given as dict(type=...) or by a short name.

    Raises:
        ValueError: for a name that is not in ``short_names``, and a dict without type.
    """
    if isinstance(value, dict) and value.get('type'):
        return dict(value)
    if value not in tuple(short_names):
        raise ValueError(
            f'{name}={value!r} is unknown; choose one of '
            f'{sorted(short_names)} or give dict(type=...)'
        )
    return dict(type=short_names[value])


def check_dims(spatial_dims: int, token_inflation: int):
    """Raise ValueError unless these are dimensions, and images have no tubes."""
    check_choice('spatial_dims', spatial_dims, (2, 3))
    check_count('token_inflation', token_inflation)
    if token_inflation > 1 and spatial_dims == 2:
        raise ValueError(
            f'token_inflation={token_inflation} copies tokens along time and needs '
            'spatial_dims=3'
        )


def check_drop_path(rate: float):
    """Raise ValueError unless ``rate`` is a probability below 1."""
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate={rate!r} must be in [0, 1)')


def check_stages(depth: int, frozen_stages: int, out_indices: Sequence[int]):
    """Raise ValueError unless these name stages of a cortex of ``depth`` blocks."""
    if not is_integer(frozen_stages) or not -1 <= frozen_stages <= 1 + depth:
        raise ValueError(
            f'frozen_stages={frozen_stages!r} must be between -1 and {1 + depth} (1 + '
            'cortex_depth)'
        )
    if not isinstance(out_indices, Sequence) or not all(
        is_integer(index) and -depth <= index < depth for index in out_indices
    ):
        raise ValueError(
            f'out_indices={out_indices!r} must be a list of cortex blocks, -{depth} '
            f'to {depth - 1} (cortex_depth={depth})'
        )


def check_pretrained(pretrained):
    """Raise ValueError for weights that a config gives to any backbone it has."""
    if pretrained is not None:
        raise ValueError(
            f'pretrained={pretrained!r} of the model are weights of the backbone that '
            'was here before: set pretrained=None beside backbone=dict(...), and give '
            "the backbone init_cfg=dict(type='Pretrained', checkpoint=...)"
        )


def check_maps(strides, channels, stem_stride: int, spatial_dims: int) -> dict:
    """Raise ValueError unless a stem of this stride can give such maps.

    Args:
        strides: of the maps.
        channels: of all of them, or of each; None is 256.
        stem_stride: of the map that there is.
        spatial_dims: 2 for images.

    Returns:
        dict: ``strides`` and ``channels``, lists of the same length.
    """
    if spatial_dims != 2:
        raise ValueError(
            f"out_type='maps' is for images, not for spatial_dims={spatial_dims}: use "
            "'tokens', whose image_feature and rois have a time axis"
        )
    many = isinstance(strides, Sequence) and not isinstance(strides, str)
    if not many or not strides:
        raise ValueError(f'map_strides={strides!r} must be a list like (4, 8, 16, 32)')
    before = stem_stride
    for stride in strides:
        if check_count('map_strides', stride) % before:
            raise ValueError(
                f'map_strides={strides!r}: the first must be a multiple of the '
                f"stem's stride, {stem_stride}, and each next of the one before, for "
                f'instance {tuple(stem_stride * 2**i for i in range(len(strides)))}'
            )
        before = stride
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        channels = [256 if channels is None else channels] * len(strides)
    if len(channels) != len(strides):
        raise ValueError(
            f'map_channels={channels!r} must be one number, or one for each of '
            f'map_strides={strides!r}'
        )
    channels = [check_count('map_channels', number) for number in channels]
    return dict(strides=[int(stride) for stride in strides], channels=channels)


def check_input(inputs: Tensor, spatial_dims: int, channels: int):
    """Raise an error unless a batch is (B, channels, H, W), or with T for D = 3.

    Raises:
        ValueError: for another shape, also one without pixels.
        TypeError: for what is no tensor of floating-point numbers.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            'SparseFormer expects a tensor of floating-point numbers as input, got '
            f'{kind}: a data preprocessor stacks and normalizes images'
        )
    rank = spatial_dims + 2
    layout = '(B, C, T, H, W)' if rank == 5 else '(B, C, H, W)'
    cure = 'in_channels is the C of the input'
    if inputs.dim() == rank and inputs.shape[1] == channels:
        # (Sizes are tensors, or not known yet, while a tracer records the model.)
        if is_tracing() or 0 not in inputs.shape[2:]:
            return
        cure = 'there is no pixel in it'
    elif inputs.dim() in (4, 5) and inputs.dim() != rank:
        cure = 'set spatial_dims=2 for images, 3 for videos'
    raise ValueError(
        f'SparseFormer with spatial_dims={spatial_dims} expects input {layout} with '
        f'C={channels}, got {tuple(inputs.shape)}: {cure}'
    )
