"""A detector and a data set small enough to train in seconds."""

from pathlib import Path

from helpers.coco_standin import make_coco

CLASSES = ('red', 'green')

# Two classes, upright and lying images, one of them without objects.
SCENES = [
    (64, 64, [(0, 8, 8, 24, 24, False), (1, 36, 30, 24, 28, False)]),
    (48, 64, [(1, 4, 10, 40, 30, False)]),
    (64, 48, [(0, 12, 20, 30, 30, False)]),
    (56, 56, []),
    (64, 64, [(0, 30, 4, 30, 40, False)]),
    (60, 44, [(1, 2, 2, 20, 50, False), (0, 24, 30, 16, 20, False)]),
    (64, 56, [(1, 20, 8, 30, 30, False)]),
    (44, 64, [(0, 30, 8, 30, 30, False)]),
]

CONFIG = """
default_scope = 'mmdet'
model = dict(
    type='sparseformer_mm.detection.SparseFormerDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.5] * 3, std=[64.] * 3,
        bgr_to_rgb=True),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=16, num_points=4, focusing_dims=32,
                  focusing_repeats=2, cortex_dims=32, cortex_depth=2,
                  num_heads=4, feat_channels=16),
        roi_init='random', out_type='tokens', out_indices=(0, 1)),
    bbox_head=dict(
        type='sparseformer_mm.detection.SparseFormerHead', num_classes=2,
        embed_dims=32, num_queries=8, num_levels=2, refine_boxes=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=2.)),
    train_cfg=dict(assigner=dict(
        type='HungarianAssigner',
        match_costs=[
            dict(type='FocalLossCost', weight=2.),
            dict(type='BBoxL1Cost', weight=5., box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.)])),
    test_cfg=dict(max_per_img=8))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
dataset = dict(
    type='CocoDataset', data_root=r'{data}', metainfo=dict(classes={classes}))
train_dataloader = dict(
    batch_size=4, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        dataset, ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        dataset, ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'), test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', metric='bbox',
    ann_file=r'{data}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3), clip_grad=dict(max_norm=1.))
param_scheduler = dict(type='MultiStepLR', milestones=[{epochs} - 1], gamma=.5)
train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval={epochs})
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval={epochs} // 2),
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'))
# Each line of the log shows its own iteration.
log_processor = dict(window_size=1)
randomness = dict(seed=0)
"""


def make_toy(folder: Path, epochs: int = 8) -> Path:
    """Write ``data/`` and ``toy.py`` into a folder; return the config's path."""
    data = make_coco(folder / 'data', SCENES, SCENES, CLASSES)
    config = folder / 'toy.py'
    config.write_text(CONFIG.format(data=data, classes=CLASSES, epochs=epochs))
    return config
