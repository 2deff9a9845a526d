"""A segmentor and a data set small enough to train in seconds."""

from pathlib import Path

from helpers.segmentation_data_standin import draw_image, draw_mask, save

# Ground, red, blue; what is not labelled looks like ground.
COLOURS = [(60, 60, 60), (220, 50, 50), (50, 50, 220), *[(60, 60, 60)] * 253]

# Two kinds of rectangles on a ground; 255 is not labelled. Several sizes.
SCENES = [
    (64, 64, 0, [(1, 8, 8, 24, 24), (2, 36, 30, 24, 28)]),
    (48, 64, 0, [(2, 4, 10, 40, 30)]),
    (64, 48, 0, [(1, 12, 20, 30, 30), (255, 0, 0, 48, 6)]),
    (56, 56, 0, []),
    (64, 64, 0, [(1, 30, 4, 30, 40)]),
    (60, 44, 0, [(2, 2, 2, 20, 50), (1, 24, 30, 16, 20)]),
    (64, 56, 0, [(2, 20, 8, 30, 30)]),
    (44, 64, 0, [(1, 30, 8, 30, 30)]),
]

CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='sparseformer_mm.segmentation.SparseFormerSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.] * 3,
        bgr_to_rgb=True, size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=16, num_points=4, focusing_dims=32,
                  focusing_repeats=2, cortex_dims=32, cortex_depth=2,
                  num_heads=4, feat_channels=16),
        roi_init='random', out_type='tokens'),
    decode_head=dict(
        type='sparseformer_mm.segmentation.LocationAwareHead', num_classes=3,
        in_channels=32, feat_channels=16, channels=16, dropout_ratio=0.,
        residual=True),
    test_cfg=dict(mode='whole'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root=r'{data}', img_suffix='.png',
    metainfo=dict(classes=('ground', 'red', 'blue'),
                  palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]]))
train_dataloader = dict(
    batch_size=4, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        dataset, pipeline=train_pipeline,
        data_prefix=dict(img_path='img/train', seg_map_path='ann/train')))
val_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        dataset, pipeline=test_pipeline,
        data_prefix=dict(img_path='img/val', seg_map_path='ann/val')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=4e-3), clip_grad=dict(max_norm=1.))
param_scheduler = dict(
    type='PolyLR', power=1., eta_min=0., begin=0, end={iterations},
    by_epoch=False)
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters={iterations},
    val_interval={iterations})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False,
                    interval={iterations} // 2),
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'))
# Each line of the log shows its own iteration.
log_processor = dict(by_epoch=False, window_size=1)
sync_bn = 'torch'
randomness = dict(seed=0)
"""


def make_toy(folder: Path, iterations: int) -> Path:
    """Write ``data/`` and ``toy.py`` into a folder; return the config's path."""
    for split in ('train', 'val'):
        for index, scene in enumerate(SCENES):
            mask = draw_mask(scene)
            seed = index if split == 'train' else 100 + index
            image = draw_image(mask, seed, COLOURS)
            save(image, folder / f'data/img/{split}/{index}.png')
            save(mask, folder / f'data/ann/{split}/{index}.png')
    config = folder / 'toy.py'
    config.write_text(CONFIG.format(data=folder / 'data', iterations=iterations))
    return config
