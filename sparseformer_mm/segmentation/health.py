"""What shows in the predictions of a segmentor that it does not learn."""

from typing import Iterator, List, Optional, Sequence

import torch
from torch import Tensor, nn

from ..engine.symptoms import Limits, Symptom
from .labels import heads_of
from .token_head import TokenLabelHead

_ASK = (
    'ask the tokens themselves (auxiliary_head of type '
    'sparseformer_mm.segmentation.TokenLabelHead); '
)


class Watch:
    """Whether a segmentor in training leaves out most classes.

    Attributes:
        module: whose output :meth:`figures` takes; None if the model has none.
    """

    def __init__(self, model: nn.Module):
        heads = heads_of(model)
        self.head = next(iter(heads.values()), None)
        # Whether tokens could be asked, and are not.
        gives = getattr(getattr(model, 'backbone', None), 'out_type', '')
        neck = getattr(model, 'neck', None) is not None
        askable = gives == 'tokens' or (gives == 'maps' and not neck)
        self.mute = askable and not any(
            isinstance(head, TokenLabelHead) for head in heads.values()
        )
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
        count = len(figures)
        shares = torch.bincount(labels.long(), minlength=count)[:count] / len(labels)
        shares = shares.tolist()
        (most, more), common = _highest(figures), _highest(shares)[0]
        # What is missing of all other classes together, or of the commonest alone.
        others = 1 - shares[common]
        gaps = [max(0, there - given) for there, given in zip(shares, figures)]
        missing = (sum(gaps) - gaps[common]) / others if others > 1e-6 else 0
        besides = missing > limits.missing
        if besides or gaps[common] > limits.missing * shares[common]:
            missing = missing if besides else gaps[common] / shares[common]
            yield Symptom(
                'few_classes',
                f'of what masks hold {"besides" if besides else "of"} class {common} '
                f'{missing:.0%} is not predicted: the segmentor gives '
                f'{figures[most]:.1%} of the pixels to class {most} (masks: '
                f'{shares[most]:.1%}) and {figures[more]:.1%} to class {more} '
                f'({shares[more]:.1%})',
                f'{_ASK if self.mute else ""}start from a trained backbone (its '
                'init_cfg); count the common class less (class_weight of '
                'loss_decode); see that masks belong to their pictures, and give it '
                'more iterations',
                lasts='long',
            )


def _highest(shares: Sequence[float]) -> List[int]:
    """The classes with the two highest shares."""
    return sorted(range(len(shares)), key=shares.__getitem__)[:-3:-1]
