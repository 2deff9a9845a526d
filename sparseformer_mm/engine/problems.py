"""What can be wrong with a data set, and how that is said."""

from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional, Sequence

import numpy as np
from torch import nn

# Losses that compare classes with each other, unless they use sigmoids.
_SOFTMAX_LOSSES = ('CrossEntropyLoss', 'LabelSmoothLoss', 'SoftTargetCrossEntropy')


class DatasetError(ValueError):
    """Data that cannot be meant; the message names file, value and cure."""


class Problem(NamedTuple):
    """One thing that is wrong with data, or may be.

    Attributes:
        message: names the file, the value and the cure.
        fatal: False where it may be meant.
    """

    message: str
    fatal: bool = True


class Use(NamedTuple):
    """What a data set is used for.

    Attributes:
        split: 'train', 'val' or 'test'.
        model: that is trained or tested; None if unknown.
        metrics: that score it.
        sample: number of pictures and masks to open.
        seed: of the choice of these.
    """

    split: str
    model: Optional[nn.Module] = None
    metrics: Sequence[Any] = ()
    sample: int = 48
    seed: int = 0


def some(items: Iterable, limit: int = 3) -> str:
    """The first few of some things, and how many more there are."""
    items = list(items)
    shown = ', '.join(map(str, items[:limit]))
    more = len(items) - limit
    return f'{shown} and {more:,} more' if more > 0 else shown


def class_names(dataset) -> Optional[Sequence[str]]:
    """``metainfo['classes']`` of a data set, if it has any."""
    metainfo = getattr(dataset, 'metainfo', None)
    return metainfo.get('classes') if isinstance(metainfo, dict) else None


def check_class_names(classes, source: str) -> Iterator[Problem]:
    """Class names that are one string."""
    if isinstance(classes, str):
        yield Problem(
            f'metainfo of {source} has classes={classes!r}, a string, which is read '
            f"as {len(classes)} classes of one letter: write ('{classes}',)"
        )


def compare_class_names(
    ours: Sequence[str], source: str, theirs: Sequence[str], their_source: str
) -> Iterator[Problem]:
    """Labels that mean one class here and another there."""
    ours, theirs = list(ours), list(theirs)
    if ours == theirs:
        return
    differing = [pair for pair in zip(ours, theirs) if pair[0] != pair[1]]
    if differing:
        here, there = differing[0]
        label = list(zip(ours, theirs)).index((here, there))
        example = f'label {label} is {here!r} here, {there!r} there'
    else:
        example = f'{len(ours)} classes here, {len(theirs)} there'
    surplus = [
        f'only in {where}: {some(map(repr, names), 5)}'
        for where, names in (
            (source, [name for name in ours if name not in theirs]),
            (their_source, [name for name in theirs if name not in ours]),
        )
        if names
    ]
    moved = any(name in theirs for name, _ in differing)
    yield Problem(
        f'{source} and {their_source} number other classes: {example}'
        + ''.join(f'; {text}' for text in surplus)
        + '. Give both the same classes in the same order (an empty folder for a '
        'class without pictures, or the same metainfo=dict(classes=(...)))',
        fatal=moved or len(ours) != len(theirs),
    )


def check_labels(
    labels: Sequence[int],
    name_of: Callable[[int], str],
    num_classes: Optional[int],
    names: Optional[Sequence[str]],
    source: str,
) -> Iterator[Problem]:
    """Labels of samples that no class has, and classes that no label has.

    Args:
        labels: of the samples; a sample with several labels comes several times.
        name_of: the file that a label is of, by its place in ``labels``.
        num_classes: of the head; None if unknown.
        names: of the classes, if known.
        source: file or folder that the labels are from.
    """
    values = np.asarray(labels, dtype=np.int64)
    negative = np.flatnonzero(values < 0)
    if len(negative):
        first = negative[0]
        yield Problem(
            f'{source}: {len(negative):,} labels are negative, for instance '
            f'{values[first]} of {name_of(first)} (a missing label reads as -1): give '
            'each sample the number of its class, from 0'
        )
    if num_classes is None:
        return
    beyond = np.flatnonzero(values >= num_classes)
    if len(beyond):
        first = beyond[0]
        hint = ''
        if values.min() == 1 and values.max() == num_classes:
            hint = ' (the labels seem to count from 1: subtract 1)'
        yield Problem(
            f'{source}: {len(beyond):,} labels are beyond the classes, for instance '
            f'{values[first]} of {name_of(first)}, but num_classes={num_classes} of '
            f'the head allows 0 to {num_classes - 1}{hint}: correct the labels, or '
            'num_classes'
        )
    unseen = sorted(set(range(num_classes)) - set(values.tolist()))
    if unseen and not len(beyond):
        yield Problem(unseen_classes(unseen, names, source), fatal=False)


def unseen_classes(unseen: Sequence[int], names, source: str) -> str:
    """What to say of classes without a single label."""
    shown = [
        f'{label} ({names[label]})' if names and label < len(names) else str(label)
        for label in unseen
    ]
    return (
        f'{source}: no sample of class {some(shown, 5)}, so nothing is learnt or '
        'measured of it. If that is not meant, compare the labels with the classes '
        'and num_classes'
    )


def check_num_classes(head, name: str, classes, source: str) -> Iterator[Problem]:
    """A head with another number of classes than the data."""
    num_classes = getattr(head, 'num_classes', None)
    if num_classes is None or classes is None or isinstance(classes, str):
        return
    if num_classes != len(classes):
        yield Problem(
            f'num_classes={num_classes} of {name}, but {source} is read with the '
            f'{len(classes)} classes {some(map(repr, classes), 10)}: make num_classes '
            'and metainfo=dict(classes=(...)), or the class folders, agree'
        )


def check_single_class(name: str, outputs: Optional[int], loss) -> Iterator[Problem]:
    """A softmax over one class, which is 1 whatever the model says."""
    losses = loss if isinstance(loss, nn.ModuleList) else [loss]
    for part in losses:
        softmax = type(part).__name__ in _SOFTMAX_LOSSES and not getattr(
            part, 'use_sigmoid', False
        )
        if outputs == 1 and softmax:
            yield Problem(
                f'{name} has one class under {type(part).__name__} with softmax, '
                'whose loss is 0 for ever: give it two classes (the thing and all '
                'else), or a loss with use_sigmoid=True'
            )
