"""What shows in the predictions of a segmentor that it does not learn."""

from typing import Iterator, Optional, Sequence

import torch
from torch import Tensor, nn

from ..engine.symptoms import Limits, Symptom
from .labels import heads_of


class Watch:
    """Whether a segmentor in training gives all pixels to one class, or very few.

    Attributes:
        module: whose output :meth:`figures` takes; None if the model has none.
    """

    def __init__(self, model: nn.Module):
        self.head = next(iter(heads_of(model).values()), None)
        # Heads do not call themselves in training, but this they do.
        self.module: Optional[nn.Module] = getattr(self.head, 'conv_seg', None)

    def figures(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) -> (K,), the share of pixels that each class is given.

        One output under a sigmoid is two classes.
        """
        if logits.shape[1] == 1:
            predicted = (logits.sigmoid() > self.head.threshold).long()
        else:
            predicted = logits.argmax(1)
        # (Counting in one go is not deterministic on a GPU.)
        classes = range(max(2, logits.shape[1]))
        return torch.stack([(predicted == k).float().mean() for k in classes])

    def symptoms(
        self, figures: Sequence[float], batch, outputs, limits: Limits
    ) -> Iterator[Symptom]:
        """What the figures mean beside the masks of the batch."""
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if not samples or not all('gt_sem_seg' in x for x in samples):
            return
        labels = torch.cat([x.gt_sem_seg.data.flatten() for x in samples])
        labels = labels[labels != self.head.ignore_index]
        counts = torch.bincount(labels.long(), minlength=len(figures)).tolist()
        there = [k for k, count in enumerate(counts[: len(figures)]) if count]
        # A few pixels by chance are no prediction of a class.
        found = [k for k in there if figures[k] > 0.1 * counts[k] / len(labels)]
        if len(there) > 1 and len(found) <= max(1, limits.classes * len(there)):
            common = max(range(len(figures)), key=figures.__getitem__)
            yield Symptom(
                'few_classes',
                f'the segmentor predicts {len(found)} of the {len(there)} classes in '
                f'the masks of a batch ({figures[common]:.1%} of the pixels as class '
                f'{common}, which has {counts[common] / len(labels):.1%})',
                'start from a trained backbone (its init_cfg), a detector of the same '
                'things being the best; count the common class less (class_weight of '
                'loss_decode); see that masks belong to their pictures, and give it '
                'more iterations',
            )
