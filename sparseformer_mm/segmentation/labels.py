"""Labels that masks may hold, in files and in batches."""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine import dist
from torch import Tensor, nn

from ..engine.problems import Problem, Use, class_names, some, unseen_classes


def heads_of(model: Optional[nn.Module]) -> Dict[str, nn.Module]:
    """All heads that classify pixels by name, that of the answer first."""
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):  # the last one of a cascade answers
            parts = {f'{name}[{i}]': part for i, part in enumerate(head)}
            heads.update(reversed(list(parts.items())))
        else:
            heads[name] = head
    return {
        name: head
        for name, head in heads.items()
        if hasattr(head, 'num_classes') and hasattr(head, 'ignore_index')
    }


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
        single = getattr(head, 'out_channels', None) == 1
        return cls(2 if single else head.num_classes, head.ignore_index)

    def wrong(self, label: Tensor) -> List[int]:
        """The values in a mask that are not allowed."""
        wrong = (label < 0) | (label >= self.count)
        if self.ignore is not None:
            wrong &= label != self.ignore
        return label[wrong].unique().tolist() if wrong.any() else []

    def explain(self, values: Sequence[int], path: str = '') -> str:
        """What to say of such values, and of a file that holds them."""
        hint = ''
        if list(values) == [255] and self.count == 2:
            hint = 'write 1 for 255, '
        elif path.lower().endswith(('.jpg', '.jpeg')):
            hint = 'save masks as PNG (JPEG changes labels), '
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
        path = sample.get('seg_map_path') or sample.get('img_path') or ''
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
            yield Problem(f'{name}{labels.explain(values, path)}')


class BatchCheck:
    """Looks at the masks of every batch, on the CPU, before the model does.

    Args:
        dataset: that the batches are from, maybe wrapped.
        use: of it.
        batch_size: in one process.
    """

    def __init__(self, dataset, use: Use, batch_size: int):
        head = next(iter(heads_of(use.model).values()), None)
        self.labels = None if head is None else Labels.of(head)
        self.names, self.split = class_names(dataset), use.split
        self.preprocessor = getattr(use.model, 'data_preprocessor', None)
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

    def _is_padded(self, inputs) -> bool:
        """Whether mmseg's data preprocessor makes these pictures larger."""
        shapes = {tuple(image.shape[-2:]) for image in inputs}
        size = getattr(self.preprocessor, 'size', None)
        if size is not None:
            sides = size if isinstance(size, (list, tuple)) else (size, size)
            return any(s < t for shape in shapes for s, t in zip(shape, sides))
        divisor = getattr(self.preprocessor, 'size_divisor', None) or 1
        return len(shapes) > 1 or any(s % divisor for s in next(iter(shapes), ()))

    def _check_shapes(self, inputs, samples) -> Iterator[Problem]:
        padded = self.split == 'train' and self._is_padded(inputs)
        for image, sample in zip(inputs, samples):
            if 'gt_sem_seg' not in sample:
                continue
            shape = tuple(sample.gt_sem_seg.shape)
            size, own_size = tuple(image.shape[-2:]), tuple(sample.get('ori_shape', ()))
            # Tests compare in the picture's own size, and heads may learn in it as long
            # as the picture was but enlarged or reduced.
            own = self.split != 'train' or (
                not sample.get('flip') and _same_ratio(size, own_size)
            )
            own = own and shape == own_size
            if shape != size and own and padded:
                yield Problem(
                    f'{sample.get("img_path")} is padded in training, and its mask, '
                    f'which kept its own size ({shape[1]} x {shape[0]}), by as many '
                    'pixels: the two no longer lie on each other. Put LoadAnnotations '
                    'before Resize, or resize to the size of data_preprocessor'
                )
            elif shape != size and not own:
                yield Problem(
                    f'the mask of {sample.get("img_path")} is {shape[1]} x {shape[0]} '
                    f'after the pipeline, the picture {image.shape[-1]} x '
                    f'{image.shape[-2]}: save both in one size, the picture upright'
                )


def _same_ratio(size: Tuple[int, ...], other: Tuple[int, ...]) -> bool:
    """Whether one (height, width) is the other enlarged, to a pixel."""
    if len(other) != 2 or 0 in size or 0 in other:
        return False
    scale = max(size[0] / other[0], size[1] / other[1])
    return all(abs(a - b * scale) <= 1 for a, b in zip(size, other))
