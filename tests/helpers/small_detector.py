"""A detector of a few numbers, a batch of images of three sizes, and its objects."""

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

ARCH = dict(
    num_tokens=9,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=24,
    cortex_depth=3,
    num_heads=4,
    feat_channels=8,
)
# Settings of the second paper's models, whose class token detects nothing.
BOOTSTRAPPED = dict(arch='bootstrapped-base', head_dims=8, **ARCH)
BOOTSTRAPPED.pop('num_heads')
MODERN = dict(
    num_levels=3,
    refine_boxes=True,
    loss_cls=dict(
        type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0
    ),
)
CLS_COSTS = {
    'softmax': dict(type='ClassificationCost', weight=1.0),
    'sigmoid': dict(type='FocalLossCost', weight=2.0),
}
# With a level that reads a restored map, and blocks that look again before it.
EVIDENCE = dict(
    MODERN,
    refine_boxes=False,
    share_predictors=False,
    backbone=dict(arch=dict(ARCH, cortex_looks=3)),
    map_evidence=dict(feat_channels=8, channels=6, cells=3),
)
SHAPES = [(48, 64), (60, 40), (33, 50)]


def make_config(queries=6, levels=1, backbone=None, **head):
    kind = 'sigmoid' if 'loss_cls' in head else 'softmax'
    levels = head.get('num_levels', levels)
    costs = [
        CLS_COSTS[kind],
        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ]
    return ConfigDict(
        type='sparseformer_mm.detection.SparseFormerDetector',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[127.5] * 3, std=[64.0] * 3
        ),
        backbone=dict(
            type='sparseformer_mm.SparseFormer',
            **(backbone or dict(arch=ARCH)),
            out_type='tokens',
            out_indices=tuple(range(3))[-levels:],
        ),
        bbox_head=dict(
            type='sparseformer_mm.detection.SparseFormerHead',
            num_classes=4,
            embed_dims=24,
            num_queries=queries,
            **head,
        ),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=costs)),
        test_cfg=dict(max_per_img=100),
    )


def build(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(make_config(**kwargs))
    for name, param in model.named_parameters():
        if 'token_rois' not in name:
            param.data.add_(torch.randn_like(param) * 0.1)
    return model


def make_sample(shape, boxes, labels=None):
    sample = DetDataSample(
        metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    )
    boxes = torch.as_tensor(boxes, dtype=torch.get_default_dtype()).view(-1, 4)
    if labels is None:
        labels = [index % 4 for index in range(len(boxes))]
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.as_tensor(labels, dtype=torch.long)
    )
    return sample


def make_batch(canvas=(60, 64), value=0.0):
    generator = torch.Generator().manual_seed(1)
    boxes = [
        [[5, 5, 20, 30], [30, 10, 60, 40]],
        [[1, 2, 30, 50]],
        [],
    ]
    inputs = torch.full((3, 3, *canvas), value)
    for slot, (height, width) in zip(inputs, SHAPES):
        slot[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return inputs, [make_sample(s, b) for s, b in zip(SHAPES, boxes)]


def broken(**changes):
    config = make_config(**changes.pop('head', {}))
    for part, values in changes.items():
        config[part].update(values)
    return config
