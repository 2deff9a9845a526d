"""What can be wrong with the data of a segmentor."""

import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import mmcv
import numpy as np
import torch
from mmengine import dist, fileio
from torch import Tensor, nn

from ..engine.datasets import data_infos, find_step, pick, source_of, with_progress
from ..engine.pictures import check_pictures, is_local, orientation, turns_by_exif
from ..engine.problems import (
    Problem,
    Use,
    check_num_classes,
    check_single_class,
    class_names,
    some,
    unseen_classes,
)


def _heads(model: Optional[nn.Module]) -> Dict[str, nn.Module]:
    """All decode heads by name, that of the answer first."""
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        parts = list(head)[::-1] if isinstance(head, nn.ModuleList) else [head]
        for part in parts:
            if part is not None:
                heads.setdefault(name if len(parts) == 1 else f'a {name}', part)
    return heads


class Labels(NamedTuple):
    """Which labels a mask may hold.

    Attributes:
        count: of classes, 0 to ``count - 1`` are allowed.
        ignore: one more that is allowed; None for none.
    """

    count: int
    ignore: Optional[int]

    @classmethod
    def of(cls, head: nn.Module) -> 'Labels':
        """Those that a head learns; one output is two classes, under a sigmoid."""
        single = head.out_channels == 1
        return cls(2 if single else head.num_classes, head.ignore_index)

    def wrong(self, label: Tensor) -> List[int]:
        """The values in a mask that are not allowed."""
        wrong = (label < 0) | (label >= self.count)
        if self.ignore is not None:
            wrong &= label != self.ignore
        return label[wrong].unique().tolist() if wrong.any() else []

    def explain(self, values: Sequence[int]) -> str:
        """What to say of such values."""
        hint = ''
        if list(values) == [255] and self.count == 2:
            hint = 'write 1 for 255, '
        return (
            f'masks hold the labels {some(values, 10)}, but num_classes={self.count} '
            f'allows 0 to {self.count - 1} and ignore_index={self.ignore}: {hint}'
            'correct num_classes of the head, set reduce_zero_label=True on the '
            'dataset and LoadAnnotations if label 0 means unlabelled, or set '
            'ignore_index'
        )


def check_batch(samples: Sequence[Any], labels: Labels) -> Iterator[Problem]:
    """Masks of mmseg's data samples that hold what is no class."""
    for sample in samples:
        data = sample.gt_sem_seg.data if 'gt_sem_seg' in sample else None
        if data is None:
            continue
        path = sample.get('seg_map_path') or sample.get('img_path')
        if data.dim() != 3 or data.shape[0] != 1:
            yield Problem(
                f'masks must have one channel of class numbers, got a label of shape '
                f'{tuple(data.shape)}{f" from {path}" if path else ""}: convert colour '
                'pictures'
            )
            continue
        values = labels.wrong(data)
        if values:
            name = f'{path}: ' if path else ''
            yield Problem(f'{name}{labels.explain(values)}')


def check_model(model: nn.Module) -> Iterator[Problem]:
    """Heads that cannot learn."""
    for name, head in _heads(model).items():
        outputs, loss = getattr(head, 'out_channels', None), head.loss_decode
        yield from check_single_class(name, outputs, loss)


def check_dataset(dataset, use: Use) -> Iterator[Problem]:
    """Masks and pictures of a data set of mmseg."""
    source, classes = source_of(dataset), class_names(dataset)
    heads = _heads(use.model)
    for name, head in heads.items():
        if head.out_channels > 1:
            yield from check_num_classes(head, name, classes, source)
        elif classes is not None and len(classes) != 2:
            yield Problem(
                f'{name} has one output, which is two classes, but {source} is read '
                f'with {len(classes)}, {some(map(repr, classes))}: name both, as in '
                "metainfo=dict(classes=('background', 'thing')), with num_classes=2"
            )
    photos: Dict[str, int] = {}
    masks: Dict[str, int] = {}
    for index, info in enumerate(data_infos(dataset)):
        for files, key in ((photos, 'img_path'), (masks, 'seg_map_path')):
            if isinstance(info.get(key), str):
                files.setdefault(info[key], index)
    load_photo = find_step(dataset, 'LoadImage')
    load_mask = find_step(dataset, 'LoadAnnotations')
    advice = 'check data_root, data_prefix, img_suffix and the names in ann_file'
    yield from check_pictures(photos, 'pictures', dataset, use, load_photo, advice)
    if load_mask is None:
        return
    yield from check_left_out(dataset, photos, masks)
    advice = 'check data_root, data_prefix and seg_map_suffix'
    yield from check_pictures(masks, 'masks', dataset, use, load_mask, advice)
    if heads:
        labels = Labels.of(next(iter(heads.values())))
    elif classes is not None:
        labels = Labels(len(classes), getattr(dataset, 'ignore_index', 255))
    else:
        return
    yield from check_masks(dataset, use, load_photo, load_mask, labels)


def check_left_out(dataset, photos, masks) -> Iterator[Problem]:
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

    source, suffix = folders[0], dataset.img_suffix
    endings = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
    others = [
        path
        for path in files_in(folders[0])
        if path.lower().endswith(endings) and path not in photos and path not in masks
    ]
    if others:
        yield Problem(
            f'{len(others):,} pictures of {source} do not end in img_suffix={suffix!r} '
            f'and are left out: {some(others)}. Set img_suffix to what they end in, or '
            'rename them',
            fatal=False,
        )
    lonely = [
        path
        for path in files_in(folders[1])
        if path.endswith(dataset.seg_map_suffix)
        and path not in masks
        and path not in photos
    ]
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


def check_masks(
    dataset, use: Use, load_photo, load_mask, labels: Labels
) -> Iterator[Problem]:
    """Masks of a sample: their form, labels, size, and what all of them lack."""
    source, seen, opened = source_of(dataset), set(), 0
    colour: List[str] = []
    wide: List[str] = []
    wrong: Dict[int, str] = {}
    sizes: List[str] = []
    turned: List[str] = []
    indices = pick(len(dataset), use.sample, use.seed)
    for index in with_progress(indices, f'masks of {source}', len(indices)):
        info = dataset.get_data_info(index)
        path = info.get('seg_map_path')
        try:
            mask = load_mask(dict(info))['gt_seg_map']
            raw = _raw_mask(path, load_mask, mask)
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
        _compare_sizes(dict(info), mask.shape, load_photo, sizes, turned)
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
        yield Problem(f'{wrong[values[0]]} {of}: {labels.explain(values)}')
    yield from _check_seen(seen, labels, class_names(dataset), of, opened, dataset)
    if sizes:
        yield Problem(
            f'{len(sizes):,} {of} do not lie over their picture: {some(sizes, 2)}. '
            'Save both in one size, the picture upright (or, for EXIF only, set '
            "color_type='color_ignore_orientation' of LoadImageFromFile)"
        )
    if turned:
        yield Problem(
            f'{source}: {some(turned, 2)} are turned when they are loaded, masks are '
            "not. If they do not fit then, set color_type='color_ignore_orientation' "
            'of LoadImageFromFile, or save the pictures upright',
            fatal=False,
        )


def _compare_sizes(info: dict, shape, loader, sizes: list, turned: list) -> None:
    """Note a picture that has not the size of its mask, or is turned by EXIF."""
    name, mask = info['img_path'], info['seg_map_path']
    if loader is None:
        return
    try:
        height, width = loader(info)['img'].shape[:2]
        content = fileio.get(name, getattr(loader, 'backend_args', None))
    except Exception:
        return  # reported as a picture that cannot be read
    exif = orientation(content) if turns_by_exif(loader) else 1
    if (height, width) == tuple(shape):
        if exif in (2, 3, 4) or (exif > 4 and height == width):
            turned.append(f'{name} (EXIF orientation {exif})')
        return
    how = ' once it is turned as its EXIF says' if exif > 4 else ''
    if not how and (width, height) == tuple(shape):
        how = ' (width and height are swapped)'
    sizes.append(f'{mask} is {shape[1]} x {shape[0]}, {name} {width} x {height}{how}')


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


class BatchCheck:
    """Looks at the masks of every batch, on the CPU, before the model does.

    Args:
        dataset: that the batches are from, maybe wrapped.
        use: of it.
        batch_size: in one process.
    """

    def __init__(self, dataset, use: Use, batch_size: int):
        head = next(iter(_heads(use.model).values()), None)
        self.labels = None if head is None else Labels.of(head)
        self.names, self.split = class_names(dataset), use.split
        self.seen = torch.zeros(256, dtype=torch.bool)
        # After so many batches, every mask has been seen once or so.
        total = batch_size * dist.get_world_size()
        self.remaining = -(-len(dataset) // total) if use.split == 'train' else 0

    def __call__(self, batch: dict) -> Iterator[Problem]:
        """What is wrong in a batch; after the first pass, which classes it lacks."""
        samples = batch.get('data_samples')
        if self.labels is None or not samples:
            return
        if isinstance(samples[0], (list, tuple)):  # test-time augmentation
            yield from check_batch([x for view in samples for x in view], self.labels)
            return
        yield from check_batch(samples, self.labels)
        yield from self._check_shapes(batch['inputs'], samples)
        if not self.remaining:
            return
        self.remaining -= 1
        for sample in samples:
            if 'gt_sem_seg' in sample:
                label = sample.gt_sem_seg.data.flatten().clamp(0, 255)
                self.seen |= torch.bincount(label, minlength=256) > 0
        if not self.remaining:
            seen = self.seen.int()
            dist.all_reduce(seen)
            unseen = [i for i in range(self.labels.count) if not seen[i]]
            if unseen:
                text = unseen_classes(unseen, self.names, 'the first pass of training')
                yield Problem(text, fatal=False)

    def _check_shapes(self, inputs, samples) -> Iterator[Problem]:
        for image, sample in zip(inputs, samples):
            if 'gt_sem_seg' not in sample:
                continue
            shape = tuple(sample.gt_sem_seg.shape)
            # Tests compare in the picture's own size.
            fitting = (tuple(image.shape[-2:]), tuple(sample.get('ori_shape', ())))
            if shape not in (fitting[:1] if self.split == 'train' else fitting):
                yield Problem(
                    f'the mask of {sample.get("img_path")} is {shape[1]} x {shape[0]} '
                    f'after the pipeline, the picture {image.shape[-1]} x '
                    f'{image.shape[-2]}: save both in one size, the picture upright'
                )
