"""What shows in the predictions of a segmentor that it does not learn."""

from typing import Iterator, Optional, Sequence

import torch
from torch import Tensor, nn

from ..engine.symptoms import Limits, Symptom
from .labels import heads_of


class Watch:
    """Whether a segmentor in training gives all pixels to one class.

    Attributes:
        module: whose output :meth:`figures` takes; None if the model has none.
    """

    def __init__(self, model: nn.Module):
        self.head = next(iter(heads_of(model).values()), None)
        # Heads do not call themselves in training, but this they do.
        self.module: Optional[nn.Module] = getattr(self.head, 'conv_seg', None)

    def figures(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) -> (2,): the commonest class, the share of all others."""
        if logits.shape[1] == 1:
            predicted = (logits.sigmoid() > self.head.threshold).long()
        else:
            predicted = logits.argmax(1)
        common = predicted.median()  # a class of more than half of the pixels is this
        return torch.stack([common.float(), (predicted != common).float().mean()])

    def symptoms(
        self, figures: Sequence[float], batch, outputs, limits: Limits
    ) -> Iterator[Symptom]:
        """What the figures mean beside the masks of the batch."""
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if not samples or not all('gt_sem_seg' in x for x in samples):
            return
        common, others = int(figures[0]), figures[1]
        labels = torch.cat([x.gt_sem_seg.data.flatten() for x in samples])
        labels = labels[labels != self.head.ignore_index]
        true = (labels != common).float().mean().item()
        if others < limits.others * true:
            yield Symptom(
                'one_class',
                f'the segmentor gives {1 - others:.1%} of the pixels to class '
                f'{common}, of the labels {true:.1%} are others',
                'start from a trained backbone (its init_cfg), a detector of the same '
                'things being the best; count the common class less (class_weight of '
                'loss_decode); see that masks belong to their pictures, and give it '
                'more iterations',
            )
