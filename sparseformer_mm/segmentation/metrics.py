"""What is kept of a segmentor's predictions."""

from typing import Any, Sequence

import torch
from mmengine.evaluator import DumpResults
from mmseg.registry import METRICS


@METRICS.register_module()
class DumpLabelMaps(DumpResults):
    """Keep label maps, in as few bytes as labels need, and no logits.

    Logits take 4 bytes per pixel and class, 0.6 GB for a megapixel and the
    classes of ADE20K; the rest is as mmengine's ``DumpResults`` has them.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect a batch, on the CPU."""
        kept = []
        for sample in data_samples:
            sample = {k: v for k, v in sample.items() if k != 'seg_logits'}
            for name in ('pred_sem_seg', 'gt_sem_seg'):
                if name in sample:
                    labels = sample[name]['data']
                    sample[name] = dict(sample[name], data=_smallest(labels))
            kept.append(sample)
        super().process(data_batch, kept)


def _smallest(labels: torch.Tensor) -> torch.Tensor:
    fits_byte = labels.numel() == 0 or (labels.min() >= 0 and labels.max() < 256)
    return labels.to(torch.uint8 if fits_byte else torch.int32)
