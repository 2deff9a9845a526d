"""What can be wrong with the data of a video model."""

import os
from array import array
from typing import Iterator, Optional

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

from ..engine.datasets import pick, source_of, with_progress
from ..engine.pictures import MAX_LOOKUPS, is_local, missing_or_empty
from ..engine.problems import (
    Problem,
    Use,
    check_labels,
    check_num_classes,
    check_single_class,
    class_names,
    some,
)
from .lists import check_video_dataset

# A clip takes as long as some pictures.
_PICTURES_PER_CLIP = 4


def check_model(model: nn.Module) -> Iterator[Problem]:
    """Heads that cannot learn."""
    head = getattr(model, 'cls_head', None)
    num_classes = getattr(head, 'num_classes', None)
    yield from check_single_class(
        'cls_head', num_classes, getattr(head, 'loss_cls', None)
    )


def check_dataset(dataset, use: Use) -> Iterator[Problem]:
    """Labels and files of a data set of mmaction2."""
    source, head = source_of(dataset), getattr(use.model, 'cls_head', None)
    names, num_classes = class_names(dataset), getattr(head, 'num_classes', None)
    yield from check_num_classes(head, 'cls_head', names, source)
    theirs = getattr(dataset, 'num_classes', None)
    if getattr(dataset, 'multi_class', False) and num_classes not in (None, theirs):
        yield Problem(
            f'num_classes={num_classes} of cls_head is not num_classes={theirs} of the '
            f'data set of {source}: make them the same'
        )
    labels, owners = array('q'), array('q')
    for index in with_progress(range(len(dataset)), source, len(dataset)):
        # Not mmaction2's, which makes labels of several classes one-hot, or fails.
        info = BaseDataset.get_data_info(dataset, index)
        for label in np.atleast_1d(info.get('label', ())):
            labels.append(int(label))
            owners.append(index)

    def name_of(number: int) -> str:
        return _path(BaseDataset.get_data_info(dataset, owners[number]))

    if use.split == 'test' and set(labels) == {-1}:  # what mmaction2 puts for none
        yield Problem(
            f'{source} has no labels: predictions can be written, but not scored. '
            'Write PATH LABEL in each line if they should be',
            fatal=False,
        )
    elif labels:
        try:
            check_video_dataset(dataset, num_classes, labeled=True)
            yield from check_labels(labels, name_of, num_classes, names, source)
        except ValueError as error:
            yield Problem(str(error))
    yield from check_clips(dataset, use)


def _path(info: dict) -> str:
    return info.get('filename') or info.get('frame_dir') or ''


def _missing(dataset, path: str, info: dict) -> Optional[str]:
    """What is wrong with a clip before it is opened; None if nothing."""
    if 'total_frames' not in info:
        if not os.path.splitext(path)[1] and not os.path.exists(path):
            path += '.mp4'  # as mmaction2 has it
        return missing_or_empty(path)
    if not os.path.isdir(path):
        return 'is no folder' if os.path.exists(path) else 'does not exist'
    first = dataset.start_index + info.get('offset', 0)
    last = dataset.filename_tmpl.format(first + info['total_frames'] - 1)
    cause = missing_or_empty(os.path.join(path, last))
    if cause:
        return f'has {info["total_frames"]} frames by the list, but {last} {cause}'
    return None


def check_clips(dataset, use: Use) -> Iterator[Problem]:
    """Videos and folders of frames that are missing, empty or damaged.

    All are looked up (a sample of 5,000 of more); a quarter of ``use.sample`` is
    decoded as the pipeline does it.
    """
    source, bad = source_of(dataset), {}
    indices = pick(len(dataset), MAX_LOOKUPS, use.seed)
    for index in with_progress(indices, f'clips of {source}', len(indices)):
        info = BaseDataset.get_data_info(dataset, index)
        if is_local(_path(info)):
            cause = _missing(dataset, _path(info), info)
            if cause:
                bad.setdefault(cause, []).append(_path(info))
    for cause, group in bad.items():
        yield Problem(
            f'{len(group):,} of {len(indices):,} clips of {source} cannot be read: '
            f'{some(group)} {cause}: check data_root, data_prefix and the paths in '
            f'the list (seen from {os.getcwd()})'
        )
    named = {path for group in bad.values() for path in group}
    count = max(1, use.sample // _PICTURES_PER_CLIP) if use.sample else 0
    indices = pick(len(dataset), count, use.seed)
    for index in with_progress(indices, f'clips of {source}', len(indices)):
        path = _path(BaseDataset.get_data_info(dataset, index))
        if path in named:
            continue
        try:
            _decode(dataset, index)
        except Exception as error:
            text = str(error).strip().splitlines()
            reason = text[0] if text else type(error).__name__
            prefix = '' if path in reason else f'{path} of {source} cannot be read: '
            yield Problem(f'{prefix}{reason}')


def _decode(dataset, index: int) -> None:
    """Run the steps of a pipeline until there are frames."""
    results = dataset.get_data_info(index)
    for step in getattr(dataset.pipeline, 'transforms', ()):
        results = step(results)
        if results is None or 'imgs' in results:
            return
