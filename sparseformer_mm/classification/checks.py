"""What can be wrong with the data of a classifier."""

import os
from array import array
from typing import Iterator, Optional, Sequence

import numpy as np
from torch import nn

from ..engine.datasets import data_infos, find_step, source_of
from ..engine.files import PICTURE_SUFFIXES
from ..engine.pictures import check_pictures, files_of, is_local
from ..engine.problems import (
    Problem,
    Use,
    check_labels,
    check_num_classes,
    check_single_class,
    class_names,
    some,
)

# What a folder of a class may hold that is a picture too.
_PICTURES = (*PICTURE_SUFFIXES, '.jfif', '.gif', '.heic', '.avif')


def check_model(model: nn.Module) -> Iterator[Problem]:
    """Heads that cannot learn, and counts of classes that differ."""
    head = getattr(model, 'head', None)
    num_classes = getattr(head, 'num_classes', None)
    yield from check_single_class(
        'the head', num_classes, getattr(head, 'loss_module', None)
    )
    preprocessor = getattr(model, 'data_preprocessor', None)
    theirs = getattr(preprocessor, 'num_classes', None)
    mixes = getattr(preprocessor, 'to_onehot', False) and theirs and num_classes
    if mixes and theirs != num_classes:
        yield Problem(
            f'num_classes={theirs} of data_preprocessor, which mixes labels, is not '
            f'num_classes={num_classes} of the head: make them the same'
        )


def label_names(dataset, other=None) -> Optional[Sequence[str]]:
    """What the labels of a data set are called, in order.

    Args:
        dataset: if it is made from class folders, their names are given.
        other: a data set to compare with: if it is not, names of classes are given.
    """
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders and (other is None or getattr(other, 'folder_to_idx', None)):
        return list(folders)
    return class_names(dataset)


def check_dataset(dataset, use: Use) -> Iterator[Problem]:
    """Labels and pictures of a data set of mmpretrain."""
    source, head = source_of(dataset), getattr(use.model, 'head', None)
    names = label_names(dataset)
    yield from check_num_classes(head, 'the head', names, source)
    num_classes = getattr(head, 'num_classes', None)
    if num_classes is None and names is not None:
        num_classes = len(names)
    labels, owners = array('q'), array('q')
    for index, info in enumerate(data_infos(dataset)):
        for label in np.atleast_1d(info.get('gt_label', ())):
            labels.append(int(label))
            owners.append(index)
    if labels:

        def name_of(number: int) -> str:
            return dataset.get_data_info(owners[number])['img_path']

        yield from check_labels(labels, name_of, num_classes, names, source)
    yield from check_left_out(dataset)
    loader = find_step(dataset, 'LoadImage')
    files = files_of(dataset, 'img_path', use)
    yield from check_pictures(files, 'pictures', dataset, use, loader)


def check_left_out(dataset) -> Iterator[Problem]:
    """Pictures in class folders that their extension keeps out."""
    extensions = getattr(dataset, 'extensions', None)
    folders = getattr(dataset, 'folder_to_idx', None)
    if not extensions or not folders or not is_local(dataset.img_prefix):
        return
    left_out = [
        os.path.join(folder, name)
        for label in folders
        for folder, _, names in os.walk(os.path.join(dataset.img_prefix, label))
        for name in names
        if name.lower().endswith(_PICTURES)
        and not name.lower().endswith(tuple(extensions))
    ]
    if left_out:
        yield Problem(
            f'{len(left_out):,} pictures of {dataset.img_prefix} are left out for '
            f'their extension: {some(left_out)}. Convert them, or name their extension '
            'in extensions=(...) of the data set (lower case)',
            fatal=False,
        )


def check_annotations(dataset) -> Iterator[Problem]:
    """Lines of a list that mmpretrain cannot read; for a data set not yet built."""
    file = getattr(dataset, 'ann_file', '')
    if not file or not os.path.isfile(file) or file.endswith(('.json', '.pkl')):
        return
    with open(file, encoding='utf-8', errors='replace') as lines:
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not line.strip():
                wrong = 'is empty: delete it'
            elif not name:
                wrong = f'{line.strip()!r} has no label: write PATH, a blank, LABEL'
            else:
                try:
                    int(label)
                    continue
                except ValueError:
                    wrong = (
                        f'has {label!r} for a label: write the number of the class, '
                        'from 0'
                    )
            yield Problem(f'line {number} of {file} {wrong}')
            return
