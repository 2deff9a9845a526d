"""Lists of videos or folders of frames, as mmaction2's data sets read them."""

import re
from typing import Any, List, Optional, Sequence, Tuple

from mmengine.fileio import list_from_file


def _read(ann_file: str) -> List[Tuple[int, str]]:
    """Number and text of the lines that are not empty, without a byte order mark."""
    try:
        lines = list_from_file(ann_file)
    except UnicodeError as error:
        raise ValueError(
            f'{ann_file} is no text in UTF-8 ({error}): save it in that encoding'
        ) from error
    lines = [line.lstrip('\ufeff').strip() for line in lines]
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def read_lines(ann_file: str, *args, **kwargs) -> List[str]:
    """What stands in place of ``list_from_file`` in mmaction2's data sets."""
    return [line for _, line in _read(ann_file)]


def _check_line(
    line: str,
    counts: Sequence[str],
    delimiter: Optional[str],
    multi_class: bool,
    num_classes: Optional[int],
    labeled: bool,
) -> Optional[str]:
    """What is wrong with a line, and the cure."""
    path, *fields = line.split(delimiter)
    form = ' '.join(['path', *counts, 'label'])
    blanks = (
        "for a path with blanks, write lines like 'my video.mp4;3' and set "
        "delimiter=';' of the data set, or rename it"
        if delimiter is not None
        else 'folders need names without blanks'
    )
    other = re.search(r'\t|[,; ]\s*-?\d+$', line)
    if not fields and other and delimiter is not None:
        return (
            f'is not divided by {delimiter!r} into {form!r}: set delimiter='
            f'{other[0][0]!r} of the data set, or write the line so'
        )
    if len(fields) < len(counts):
        return f'is not of the form {form!r}: write the missing numbers'
    for name, value in zip(counts, fields):
        if not re.fullmatch(r'\d+', value):
            return f'has {name} {value!r}, no whole number, in {form!r}: {blanks}'
    labels = fields[len(counts) :]
    if not multi_class and len(labels) > 1:
        return (
            f'has {len(labels)} fields in place of the label in {form!r}: {blanks}; '
            'for several labels, set multi_class=True'
        )
    for label in labels:
        if not re.fullmatch(r'-?\d+', label):
            return (
                f'has the label {label!r}: write the number of the class, from 0 on; '
                f'{blanks}'
            )
        if num_classes is not None and not 0 <= int(label) < num_classes:
            return (
                f'has the label {label}, but the {num_classes} classes are numbered '
                f'from 0 to {num_classes - 1}: correct the list or num_classes'
            )
    if labeled and not labels:
        return f'has no label: the form is {form!r}'
    return None


def check_video_list(
    ann_file: str,
    counts: Sequence[str] = (),
    delimiter: Optional[str] = ' ',
    multi_class: bool = False,
    num_classes: Optional[int] = None,
    labeled: bool = False,
) -> None:
    """Check each line of a list before hours go into it.

    Args:
        ann_file: The list, as the data set has it after ``data_root``.
        counts: The numbers between path and label: ``('total_frames', )`` for raw
            frames, ``('offset', 'total_frames')`` with offsets.
        delimiter: What is between the fields; None for any blanks.
        multi_class: Whether there may be several labels.
        num_classes: Labels have to be below. None if not known.
        labeled: Whether there has to be a label, as for training and evaluation.

    Raises:
        ValueError: naming file, line, what is wrong there and the cure. Empty lines, a
            byte order mark and line ends of Windows are not.
    """
    lines = _read(ann_file)
    if not lines:
        raise ValueError(f'{ann_file} lists no videos: write a line for each')
    for number, line in lines:
        problem = _check_line(
            line, counts, delimiter, multi_class, num_classes, labeled
        )
        if problem:
            raise ValueError(f'{ann_file}, line {number}: {line!r} {problem}')


def check_video_dataset(
    dataset: Any, num_classes: Optional[int] = None, labeled: bool = False
) -> None:
    """:func:`check_video_list` of a ``VideoDataset`` or ``RawframeDataset``.

    Args:
        dataset: Built, or about to read its list. Others are left alone.
        num_classes: Of the model's head; by default the data set's own, which it has
            if ``multi_class``.
        labeled: Whether each line needs a label.
    """
    if hasattr(dataset, 'with_offset'):
        counts = ['total_frames']
        if dataset.with_offset:
            counts.insert(0, 'offset')
        delimiter = None
    elif hasattr(dataset, 'delimiter'):
        counts, delimiter = [], dataset.delimiter
    else:
        return
    if num_classes is None and dataset.multi_class:
        num_classes = dataset.num_classes
    check_video_list(
        dataset.ann_file, counts, delimiter, dataset.multi_class, num_classes, labeled
    )
