"""What it means where a neck or head fails on what the backbone gives it."""

from typing import Optional, Sequence

from torch import nn

from ..models import SparseFormer
from .data_errors import frames_of

_GIVES = dict(
    pooled='one vector per image',
    featmap='one pixel per image',
    tokens='tokens, for the heads of sparseformer_mm',
)


def explain_model_error(error: BaseException) -> Optional[str]:
    """One line that names cause and cure where maps are wanted and there are none.

    Args:
        error: raised in a training or test.

    Returns:
        None unless it comes from a part of another library, such as FPN, which has
        convolutions for what a SparseFormer gives it, and which gets no maps.
    """
    calls = [(frame.f_locals.get('self'), frame) for frame in frames_of(error)]
    calls = [
        (x, frame.f_code.co_name) for x, frame in calls if isinstance(x, nn.Module)
    ]
    owners = [
        i
        for i, (module, _) in enumerate(calls)
        if isinstance(getattr(module, 'backbone', None), SparseFormer)
    ]
    if not owners or any(isinstance(module, SparseFormer) for module, _ in calls):
        return None
    owner, called = calls[owners[-1]][0], calls[owners[-1] + 1 :]
    out_type = owner.backbone.out_type
    if not called or out_type not in _GIVES or 'out of memory' in str(error):
        return None
    part = called[0][0]
    # In its loss or in decoding it had what it takes.
    late = any(x is part and name.endswith('by_feat') for x, name in called)
    if late or not _takes_maps(part):
        return None
    name, wanted = type(part).__name__, getattr(part, 'in_channels', None)
    widths = f', {list(wanted)}' if isinstance(wanted, Sequence) else ''
    return (
        f'{name} takes maps, and out_type={out_type!r} of the backbone gives '
        f"{_GIVES[out_type]}: set out_type='maps' there, and map_channels to the "
        f'in_channels of {name}{widths} '
        f'({type(error).__name__}: {str(error).strip() or "without a message"})'
    )


def _takes_maps(part: nn.Module) -> bool:
    """Whether a part is somebody else's and convolves what it gets."""
    ours = type(part).__module__.split('.')[0] == __package__.split('.')[0]
    return not ours and any(isinstance(x, nn.Conv2d) for x in part.modules())
