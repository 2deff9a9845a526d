"""What can be wrong with the data of a segmentor."""

import os
from typing import Dict, Iterator, List, Set, Tuple

import mmcv
import numpy as np
import torch
from mmengine import fileio
from torch import nn

from ..engine.datasets import find_step, pick, source_of, with_progress
from ..engine.files import PICTURE_SUFFIXES
from ..engine.pictures import MAX_LOOKUPS, check_pictures, files_of, is_local
from ..engine.problems import (
    Problem,
    Use,
    check_num_classes,
    check_single_class,
    class_names,
    some,
    unseen_classes,
)
from ..engine.sizes import Size, check_sizes, size_as_loaded
from .labels import BatchCheck, Labels, heads_of
from .token_head import TokenLabelHead

_KEYS = ('img_path', 'seg_map_path')

__all__ = ['BatchCheck', 'check_dataset', 'check_model']


def check_model(model: nn.Module) -> Iterator[Problem]:
    """Heads that cannot learn."""
    for name, head in heads_of(model).items():
        outputs = getattr(head, 'out_channels', None)
        loss = getattr(head, 'loss_decode', None)
        yield from check_single_class(name, outputs, loss)


def check_dataset(dataset, use: Use) -> Iterator[Problem]:
    """Masks and pictures of a data set of mmseg."""
    source, classes = source_of(dataset), class_names(dataset)
    heads = heads_of(use.model)
    for name, head in heads.items():
        if getattr(head, 'out_channels', None) != 1:
            yield from check_num_classes(head, name, classes, source)
        elif classes is not None and len(classes) != 2:
            yield Problem(
                f'{name} has one output, which is two classes, but {source} is read '
                f'with {len(classes)}, {some(map(repr, classes))}: name both, as in '
                "metainfo=dict(classes=('background', 'thing')), with num_classes=2"
            )
    photos, masks = (files_of(dataset, key, use) for key in _KEYS)
    load_photo = find_step(dataset, 'LoadImage')
    load_mask = find_step(dataset, 'LoadAnnotations')
    advice = 'check data_root, data_prefix, img_suffix and the names in ann_file'
    yield from check_pictures(photos, 'pictures', dataset, use, load_photo, advice)
    if load_mask is None:
        return
    yield from check_left_out(dataset)
    advice = 'check data_root, data_prefix and seg_map_suffix'
    yield from check_pictures(masks, 'masks', dataset, use, load_mask, advice)
    sizes = _mask_sizes(dataset, use, load_mask)
    yield from check_sizes(sizes, load_photo, source)
    if heads:
        labels = Labels.of(next(iter(heads.values())))
        yield from check_token_heads(heads, labels)
    elif classes is not None:
        labels = Labels(len(classes), getattr(dataset, 'ignore_index', 255))
    else:
        return
    yield from check_masks(dataset, use, load_mask, labels)


def check_token_heads(heads, labels: Labels) -> Iterator[Problem]:
    """Heads that ask tokens for other classes than the one that answers learns."""
    for name, head in heads.items():
        if isinstance(head, TokenLabelHead) and Labels.of(head) != labels:
            yield Problem(
                f'{name} asks tokens for {head.num_classes} classes and leaves out the '
                f'label {head.ignore_index}, the head that answers has {labels.count} '
                f'and leaves out {labels.ignore}: set num_classes and ignore_index of '
                f'{name} to the latter'
            )


def check_left_out(dataset) -> Iterator[Problem]:
    """Files in the folders of a data set that it passes over in silence."""
    prefix, file = dataset.data_prefix, dataset.ann_file
    folders = [prefix.get(key) for key in ('img_path', 'seg_map_path')]
    if (file and os.path.isfile(file)) or not all(
        folder and is_local(folder) and os.path.isdir(folder) for folder in folders
    ):
        return

    def files_in(folder) -> Iterator[str]:
        names = fileio.list_dir_or_file(folder, list_dir=False, recursive=True)
        return (os.path.join(folder, name) for name in names)

    source, suffix, ending = folders[0], dataset.img_suffix, dataset.seg_map_suffix
    together = folders[1].startswith(source)
    others = [
        path
        for path in files_in(source)
        if path.lower().endswith(PICTURE_SUFFIXES)
        and not path.endswith(suffix)
        and not (together and path.endswith(ending))
    ]
    if others:
        yield Problem(
            f'{len(others):,} pictures of {source} do not end in img_suffix={suffix!r} '
            f'and are left out: {some(others)}. Set img_suffix to what they end in, or '
            'rename them',
            fatal=False,
        )
    lonely = []
    for path in files_in(folders[1]):
        if path.endswith(ending) and not (together and path.endswith(suffix)):
            name = os.path.relpath(path[: -len(ending)], folders[1])
            if not os.path.exists(os.path.join(source, name + suffix)):
                lonely.append(path)
    if lonely:
        yield Problem(
            f'{len(lonely):,} masks of {folders[1]} have no picture in {source} and '
            f'are left out: {some(lonely)}. Add the pictures (NAME{suffix}), or delete '
            'the masks',
            fatal=False,
        )


def _raw_mask(path: str, loader, mask: np.ndarray) -> np.ndarray:
    """A mask file as it is, before labels become uint8."""
    if not hasattr(loader, 'imdecode_backend'):
        return mask  # of a format of its own
    content = fileio.get(path, backend_args=getattr(loader, 'backend_args', None))
    backend = loader.imdecode_backend
    return mmcv.imfrombytes(content, flag='unchanged', backend=backend).squeeze()


def check_masks(dataset, use: Use, loader, labels: Labels) -> Iterator[Problem]:
    """Masks of a sample: their form, labels, and what all of them lack."""
    source, seen, opened = source_of(dataset), set(), 0
    colour: List[str] = []
    wide: List[str] = []
    wrong: Dict[int, str] = {}
    indices = pick(len(dataset), use.sample, use.seed)
    for index in with_progress(indices, f'masks of {source}', len(indices)):
        info = dataset.get_data_info(index)
        path = info.get('seg_map_path')
        try:
            mask = loader(dict(info))['gt_seg_map']
            raw = _raw_mask(path, loader, mask)
            mask = torch.as_tensor(mask)
        except Exception:
            continue  # reported as a file that cannot be read
        opened += 1
        if raw.ndim != 2:
            colour.append(f'{path} has {raw.shape[-1]} channels')
            continue
        low, high = raw.min(), raw.max()
        if low < 0 or high > 255 or (raw.dtype.kind == 'f' and (raw % 1).any()):
            wide.append(f'{path} ({raw.dtype}) holds {low} to {high}')
            continue
        seen.update(mask.unique().tolist())
        for value in labels.wrong(mask):
            wrong.setdefault(value, path)
    of = f'of {opened:,} masks opened of {source}'
    if colour:
        yield Problem(
            f'{len(colour):,} {of} are colour pictures: {some(colour)}. Masks have one '
            'channel of class numbers: convert them (of a palette file, '
            "imdecode_backend='pillow' of LoadAnnotations reads the numbers)"
        )
    if wide:
        yield Problem(
            f'{len(wide):,} {of} do not fit into 8 bits: {some(wide)}. mmseg keeps the '
            'lowest 8 bits of a label, 256 becomes 0: renumber the classes from 0, '
            'with 255 for what is not counted'
        )
    if wrong:
        values = sorted(wrong)
        yield Problem(
            f'{wrong[values[0]]} {of}: {labels.explain(values, wrong[values[0]])}'
        )
    yield from _check_seen(seen, labels, class_names(dataset), of, opened, dataset)


def _mask_sizes(dataset, use: Use, loader) -> Iterator[Tuple[str, str, Size]]:
    """The size of each picture's mask."""
    for index in pick(len(dataset), MAX_LOOKUPS, use.seed):
        path, mask = map(dataset.get_data_info(index).get, _KEYS)
        size = size_as_loaded(mask, loader) if mask else None
        if size is not None:
            yield path, mask, size


def _check_seen(
    seen: Set[int], labels: Labels, names, of: str, opened: int, dataset
) -> Iterator[Problem]:
    """Masks that hold nothing to learn, and classes that none of them holds."""
    classes = seen & set(range(labels.count))
    if not opened:
        return
    if seen and seen <= {labels.ignore}:
        yield Problem(
            f'all pixels {of} are ignore_index={labels.ignore}, nothing can be learnt '
            'or measured: write the numbers of the classes, from 0 (or from 1 with '
            'reduce_zero_label=True)'
        )
    elif classes == {0} and labels.ignore in seen and labels.count > 1:
        yield Problem(
            f'all pixels {of} are 0 or {labels.ignore}, which is ignore_index and not '
            'counted, so there is one class only: write 1 for '
            f'{labels.ignore} in the masks, or set another ignore_index'
        )
    elif len(dataset) == opened:
        unseen = sorted(set(range(labels.count)) - classes)
        if unseen and classes:
            text = unseen_classes(unseen, names, source_of(dataset))
            yield Problem(text, fatal=False)
