"""What shows in the predictions of a detector that it does not learn."""

from typing import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..engine.symptoms import Limits, Symptom
from .checks import head_of


class Watch:
    """Whether a detector in training gets boxes, matches some and finds something.

    Attributes:
        module: whose output :meth:`figures` takes; None if the model has none.
    """

    def __init__(self, model: nn.Module):
        self.module = head_of(model)

    def figures(self, output) -> Tensor:
        """The highest score of any class, (1,); of unknown heads NaN.

        Args:
            output: of the head, class logits first: a tensor, or one per level.
        """
        logits = output[0] if isinstance(output, (tuple, list)) and output else ()
        levels = [logits] if isinstance(logits, Tensor) else logits
        levels = [x.float() for x in levels if isinstance(x, Tensor) and x.numel()]
        sigmoid = getattr(getattr(self.module, 'loss_cls', None), 'use_sigmoid', None)
        outputs = getattr(self.module, 'num_classes', -1) + 1  # the last: no object
        if levels and sigmoid:
            return torch.stack([x.max() for x in levels]).max().sigmoid()[None]
        one = isinstance(logits, Tensor) and len(levels) == 1
        if one and sigmoid is False and logits.shape[-1] == outputs:
            return levels[0].softmax(-1)[..., :-1].max()[None]
        return torch.full((1,), torch.nan)

    def symptoms(
        self, figures: Sequence[float], batch, outputs, limits: Limits
    ) -> Iterator[Symptom]:
        """What the figures mean beside the boxes of the batch."""
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if not samples or not all('gt_instances' in x for x in samples):
            return
        boxes = sum(len(x.gt_instances) for x in samples)
        if not boxes:
            yield Symptom(
                'no_boxes',
                'no picture of the batch has a box',
                'see what crops and filters of the train pipeline leave of the boxes, '
                'whether metainfo=dict(classes=(...)) are the names in the annotations '
                'and which pictures the data set keeps (filter_cfg)',
            )
            return
        unmatched = [x for x in outputs if _is_of_boxes(x) and outputs[x] == 0]
        if unmatched:
            yield Symptom(
                'no_match',
                f'{unmatched[0]} is 0 with {boxes} boxes in the batch, so no anchor or '
                'proposal is matched to any',
                'make scales, ratios and strides of the anchors fit the boxes in '
                'pixels after resizing, or lower pos_iou_thr of the assigner',
            )
        if figures[0] < limits.score:
            yield Symptom(
                'no_object',
                f'the highest score in a batch of {boxes} boxes is {figures[0]:.3f}: '
                'the detector predicts nothing but background',
                'start from a trained backbone (its init_cfg), take the modern form '
                '(focal loss, losses at every block) for small data, give it more '
                'epochs; see in a picture drawn by the tools that boxes are where the '
                'things are',
                lasts='long',
            )


def _is_of_boxes(name: str) -> bool:
    """Whether a loss is of the boxes of anchors, proposals or queries."""
    return 'loss' in name and name.endswith('bbox')
