"""What shows that a training goes nowhere, in the figures of one iteration."""

import math
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Symptom(NamedTuple):
    """One thing that is wrong with a training, or may be.

    Attributes:
        name: symptoms of one name are told once.
        seen: the figure that shows it.
        cure: what to try.
        lasts: 'at once' if one look tells, 'long' if healthy trainings have it too, at
            first; else 'some looks'.
    """

    name: str
    seen: str
    cure: str
    lasts: str = 'some looks'


class Limits(NamedTuple):
    """From where on a figure is a symptom.

    Attributes:
        lost_rois: share of RoIs that look at nothing: their center is outside the
            picture, or their width or height is not within ``roi_size``.
        roi_size: smallest and largest, relative to the picture.
        alike: mean cosine between two tokens of a picture.
        clipped: norm of the gradient over the one it is clipped to. (Steps of 10 to
            1000 times less are usual, and AdamW makes up for them.)
        fall: share by which the loss has to fall ...
        fall_within: ... in so many iterations.
        score: highest score of a class that a detector gives in a batch.
        missing: share of the pixels of a batch beyond those of the commonest class (or
            of that one) that a segmentor gives to none of the classes which have them,
            wherever they are.
    """

    lost_rois: float = 0.5
    roi_size: Tuple[float, float] = (1e-3, 10.0)
    alike: float = 0.9995
    clipped: float = 1e4
    fall: float = 0.01
    fall_within: int = 1000
    score: float = 0.05
    missing: float = 0.6


def likeness(tokens: Tensor) -> Tensor:
    """Mean cosine between two tokens of a picture, (B, N, d) -> (); NaN for N = 1."""
    count = tokens.shape[1]
    # The sum of all products of two vectors is the square of their sum.
    total = F.normalize(tokens.float(), dim=-1).sum(1).square().sum(-1).mean()
    return (total - count) / (count * (count - 1))


def lost_shares(rois: Tensor, roi_size: Sequence[float]) -> Tensor:
    """Shares of RoIs (B, N, 2D) that are outside, too small, too large, or any."""
    center, size = rois.float().chunk(2, -1)
    outside = ((center < 0) | (center > 1)).any(-1)
    small, large = (size < roi_size[0]).any(-1), (size > roi_size[1]).any(-1)
    kinds = torch.stack([outside, small, large, outside | small | large])
    return kinds.float().flatten(1).mean(1)


def of_tokens(alike: float, lost: Sequence[float], limits: Limits) -> Iterator[Symptom]:
    """Of what :func:`likeness` and :func:`lost_shares` give."""
    outside, small, large, share = lost
    if share > limits.lost_rois:
        yield Symptom(
            'rois',
            f'{share:.0%} of the RoIs look at nothing ({outside:.0%} have their center '
            f'outside the picture, {small:.0%} are smaller than {limits.roi_size[0]:g} '
            f'of it, {large:.0%} larger than {limits.roi_size[1]:g} times it)',
            'lower the learning rate or lengthen its warm-up, clip gradients '
            "(clip_grad=dict(max_norm=5.0)), leave the backbone's limit_coord_grad on; "
            'with weights from a file, see in the log whether all were loaded',
        )
    if alike > limits.alike:
        yield Symptom(
            'tokens',
            f'all tokens of a picture are alike (mean cosine {alike:.4f})',
            'lower the learning rate, start from a trained backbone, and see that '
            'pictures reach the model normalised (mean and std of data_preprocessor)',
        )


def of_loss(outputs: Mapping[str, Any]) -> Iterator[Symptom]:
    """Of a loss that is NaN or infinite, and its parts."""
    losses = {
        name: float(torch.as_tensor(value).detach())
        for name, value in outputs.items()
        if 'loss' in name
    }
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        yield Symptom(
            'loss',
            f'{", ".join(bad)} is {losses[bad[0]]}: the weights are gone, or will be',
            'stop. Lower the learning rate or lengthen its warm-up, clip gradients; '
            'with --amp have LossScaleHook among the hooks or take --amp-dtype '
            'bfloat16; look for NaN, or nothing but ignored labels, in the data',
            lasts='at once',
        )


def of_loss_curve(means: List[float], looks: int, limits: Limits) -> Iterator[Symptom]:
    """Of the mean losses from look to look."""
    first, last = (sum(part) / looks for part in (means[:looks], means[-looks:]))
    if not first - last >= limits.fall * abs(first):
        yield Symptom(
            'stuck',
            f'the loss has not moved: {first:.4g} in the first {looks} looks, '
            f'{last:.4g} in the last {looks}',
            'see in the log that lr is not 0 and nothing that should learn is frozen '
            '(frozen_stages, lr_mult); try a learning rate 3 times as high and as low; '
            'see whether labels belong to their pictures. (If the training went on '
            'from weights that had learnt this, nothing is wrong.)',
            lasts='at once',
        )


def of_gradients(
    reached: Optional[float],
    norm: Optional[float],
    max_norm: Optional[float],
    limits: Limits,
) -> Iterator[Symptom]:
    """Of gradients that are zero, not finite, or clipped to almost nothing.

    Args:
        reached: largest gradient of a token; None if none is asked for.
        norm: of the gradient of all weights before it is clipped; None if unknown.
        max_norm: what it is clipped to; None for no clipping.
    """
    if reached == 0 or norm == 0:
        yield Symptom(
            'no_gradient',
            'the gradient of the tokens is 0'
            if reached == 0
            else 'the gradient of the weights is 0',
            'see that the loss counts something (labels that are not all ignored, '
            'loss_weight above 0); under float16 take --amp-dtype bfloat16',
        )
    elif norm is not None and not math.isfinite(norm):
        yield Symptom(
            'overflow',
            f'the norm of the gradient is {norm}, so weights are not trained',
            'with --amp take --amp-dtype bfloat16; else lower the learning rate',
        )
    elif norm is not None and max_norm and norm > limits.clipped * max_norm:
        yield Symptom(
            'clipped',
            f'the gradient is cut to less than 1/{limits.clipped:g} (its norm is '
            f'{norm:.4g}, clip_grad allows {max_norm:g})',
            'raise max_norm of clip_grad, or lower loss_weight; in videos leave '
            "time_offsets of the backbone at 'spread'",
        )
