"""Checks of arguments, with errors that name the argument and what is allowed."""

from typing import Container, Dict, Union

from torch import Tensor


def check_choice(name: str, value, choices: Container):
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown; choose one of {choices}')


def check_count(name: str, value, least: int = 1):
    """Raise ValueError unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name}={value!r} must be an integer of at least {least}')


def as_cfg(name: str, value: Union[str, dict], short_names: Dict[str, str]) -> dict:
    """The config of a part, which is given as dict(type=...) or by a short name.

    Raises:
        ValueError: for a name that is not in ``short_names``.
    """
    if isinstance(value, dict):
        return dict(value)
    if value not in short_names:
        raise ValueError(
            f'{name}={value!r} is unknown; choose one of '
            f'{sorted(short_names)} or give dict(type=...)'
        )
    return dict(type=short_names[value])


def check_input(inputs: Tensor, spatial_dims: int, channels: int):
    """Raise ValueError unless a batch is (B, channels, H, W), or with T for D = 3."""
    rank = spatial_dims + 2
    if inputs.dim() == rank and inputs.shape[1] == channels:
        return
    layout = '(B, C, T, H, W)' if rank == 5 else '(B, C, H, W)'
    cure = 'in_channels is the C of the input'
    if inputs.dim() in (4, 5) and inputs.dim() != rank:
        cure = 'set spatial_dims=2 for images, 3 for videos'
    raise ValueError(
        f'SparseFormer with spatial_dims={spatial_dims} expects input {layout} with '
        f'C={channels}, got {tuple(inputs.shape)}: {cure}'
    )
