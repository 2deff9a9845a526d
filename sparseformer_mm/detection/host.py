"""What is particular to mmdet."""

from typing import Any, Dict, List, Sequence, Tuple, Union

import mmdet.models  # noqa: F401  what a config needs to build
import numpy as np
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

from ..answers import Drawing, Instances, Prediction
from ..host import Host
from ..models.rois import rois_to_corners
from . import checks
from .head import SparseFormerHead
from .health import Watch


class DetectionHost(Host):
    """Detectors; answers are those of :class:`SparseFormerHead`."""

    scope = 'mmdet'
    task = 'detection'
    checks = checks
    watch = Watch
    dump_metric = 'DumpDetResults'
    drawing = Drawing(
        'DetVisualizationHook', 'draw', 'DetLocalVisualizer', 'test_out_dir', views=True
    )
    tta_model = dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    )

    def init_model(self, cfg: Config, device: str) -> nn.Module:
        # A palette keeps it from asking the test data, which may not be there.
        return init_detector(cfg, None, palette='random', device=device)

    def check_answer(self, model: nn.Module) -> None:
        super().check_answer(model)
        head = getattr(model, 'bbox_head', None)
        if not isinstance(head, SparseFormerHead):
            kind = type(model if head is None else head).__name__
            raise ValueError(
                f'{kind} is not exported here: give a config with '
                'sparseformer_mm.detection.SparseFormerHead'
            )

    def forward(self, model: nn.Module, images: Tensor) -> Any:
        # Detectors ask the samples how much of the batch is padding.
        size = tuple(images.shape[-2:])
        meta = dict(
            batch_input_shape=size,
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            scale_factor=(1.0, 1.0),
        )
        samples = [DetDataSample(metainfo=meta) for _ in images]
        return model(images, mode='tensor', data_samples=samples)

    def answer(self, model: nn.Module, images: Tensor, raw: bool) -> Tuple[Tensor, ...]:
        """Boxes, scores and labels; raw, logits and boxes of all tokens.

        Returns:
            - boxes (B, n, 4) as x1, y1, x2, y2 in pixels of the images, scores (B, n)
              from high to low, labels (B, n), with n the head's ``max_per_img``;
            - raw: logits (B, N, classes, + 1 with softmax), boxes (B, N, 4) as center
              and size relative to the images.
        """
        # Without samples: nothing is padded, and the size may be open.
        logits, boxes = (levels[-1] for levels in model(images, mode='tensor'))
        if raw:
            return logits, boxes
        head = model.bbox_head
        count = head.test_cfg['max_per_img']
        # As DETRHead decodes, for a whole batch.
        if head.loss_cls.use_sigmoid:
            scores, indices = logits.sigmoid().flatten(1).topk(count)
            labels = indices % head.num_classes
            tokens = torch.div(indices, head.num_classes, rounding_mode='floor')
        else:
            best, classes = logits.softmax(-1)[..., :-1].max(-1)
            scores, tokens = best.topk(count)
            labels = classes.gather(1, tokens)
        boxes = boxes.gather(1, tokens[..., None].expand(-1, -1, 4))
        height, width = (torch.as_tensor(side) for side in images.shape[2:])
        size = torch.stack([width, height, width, height]).to(boxes)
        return rois_to_corners(boxes).clamp(0, 1) * size, scores, labels

    def reading(self, model: nn.Module, raw: bool = False) -> Dict[str, Any]:
        if not raw:
            return dict(activation='none')
        sigmoid = model.bbox_head.loss_cls.use_sigmoid
        return dict(activation='sigmoid' if sigmoid else 'softmax')

    def answer_axes(self, raw: bool) -> Dict[str, Dict[int, str]]:
        names = ('logits', 'boxes') if raw else ('boxes', 'scores', 'labels')
        return {name: {} for name in names}

    def tta_pipeline(self, pipeline: Sequence[dict]) -> List[dict]:
        views = super().tta_pipeline(pipeline)
        (pack,) = views[-1]['transforms'][-1]
        # How a view was made, to turn its boxes back.
        pack['meta_keys'] = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
        return views

    def predict(self, model: nn.Module, source: Union[str, np.ndarray]) -> Prediction:
        """Classes and box of each token, those that mmdet's own results come from.

        Of a detector whose boxes belong to no token, mmdet's results.
        """
        if not isinstance(getattr(model, 'bbox_head', None), SparseFormerHead):
            sample = inference_detector(model, source)
            return Prediction(sample.img_shape, instances=_instances(sample))
        outputs = []
        hook = model.bbox_head.register_forward_hook(
            lambda module, args, output: outputs.append(output)
        )
        try:
            sample = inference_detector(model, source)
        finally:
            hook.remove()
        logits, boxes = (levels[-1, 0] for levels in outputs[0])
        if model.bbox_head.loss_cls.use_sigmoid:
            scores = logits.sigmoid()
        else:
            # The last is no object: a token that says so speaks for no class.
            scores = logits.softmax(-1)[:, :-1]
            logits = logits.log_softmax(-1)[:, :-1]
        return Prediction(
            sample.img_shape,
            token_logits=logits,
            token_scores=scores,
            token_boxes=rois_to_corners(boxes).clamp(0, 1).cpu().numpy(),
        )


def _instances(sample: DetDataSample) -> Instances:
    found = sample.pred_instances.cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    height, width = sample.ori_shape
    boxes = found.bboxes / found.bboxes.new_tensor([width, height, width, height])
    return Instances(
        boxes.clamp(0, 1).numpy(),
        found.scores.numpy(),
        found.labels.numpy(),
        np.asarray(found.masks, dtype=bool) if 'masks' in found else None,
    )


HOST = DetectionHost()
