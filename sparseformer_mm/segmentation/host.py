"""What is particular to mmseg."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import mmseg.models  # noqa: F401  what a config needs to build
import numpy as np
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from torch import Tensor, nn

from ..answers import Drawing, Prediction
from ..host import Host
from . import checks
from .health import Watch


class SegmentationHost(Host):
    scope = 'mmseg'
    task = 'segmentation'
    checks = checks
    watch = Watch
    dump_metric = 'sparseformer_mm.segmentation.DumpLabelMaps'
    drawing = Drawing(
        'SegVisualizationHook', 'draw', 'SegLocalVisualizer', None, views=True
    )
    tta_model = dict(type='SegTTAModel')
    reading_keys = (*Host.reading_keys, 'test_pipeline')

    def init_model(self, cfg: Config, device: str) -> nn.Module:
        return init_model(cfg, None, device=device)

    def answer(self, model: nn.Module, images: Tensor, raw: bool) -> Tuple[Tensor, ...]:
        """Logits (B, classes, H, W); raw, at the head's size, (B, classes, H/4, W/4).

        Of a model with sliding windows, images are windows.
        """
        logits = self.forward(model, images)
        if not raw:
            logits = F.interpolate(
                logits,
                size=images.shape[2:],
                mode='bilinear',
                align_corners=model.align_corners,
            )
        return (logits,)

    def reading(self, model: nn.Module, raw: bool = False) -> Dict[str, Any]:
        head = model.decode_head
        if head.out_channels > 1:
            return super().reading(model)
        # Class 1 where the only logit is above.
        return dict(activation='sigmoid', threshold=head.threshold)

    def answer_axes(self, raw: bool) -> Dict[str, Dict[int, str]]:
        sides = ('map_height', 'map_width') if raw else ('height', 'width')
        return {'logits': {2: sides[0], 3: sides[1]}}

    def input_size(self, cfg: Config) -> Optional[List[int]]:
        window = (cfg.model.get('test_cfg') or {}).get('crop_size')
        if window is not None:
            return list(window)
        size = super().input_size(cfg)
        if size is None:  # what training crops to
            size = (cfg.model.get('data_preprocessor') or {}).get('size')
        return list(size) if size else None

    def tta_pipeline(self, pipeline: Sequence[dict]) -> List[dict]:
        views = super().tta_pipeline(pipeline)
        # mmseg measures with the masks of the first view, flipped like its image.
        views[-1]['transforms'][0].reverse()
        return views

    def predict(self, model: nn.Module, source: Union[str, np.ndarray]) -> Prediction:
        """The class of each pixel."""
        sample = inference_model(model, source)
        return Prediction(
            sample.img_shape, mask=sample.pred_sem_seg.data[0].long().cpu().numpy()
        )


HOST = SegmentationHost()
