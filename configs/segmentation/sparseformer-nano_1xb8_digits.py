# A SparseFormer segmentor small enough to learn scattered digits on a CPU in
# minutes, from scratch.
_base_ = [
    '../_base_/models/sparseformer_seg.py',
    '../_base_/datasets/digits_seg_bs8.py',
    '../_base_/schedules/digits_bs8_adamw_4e.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], size=(256, 256)
    ),
    backbone=dict(
        arch=dict(
            _delete_=True,
            num_points=16,
            focusing_dims=96,
            focusing_repeats=4,
            cortex_dims=192,
            cortex_depth=4,
            num_heads=8,
            feat_channels=48,
        ),
        num_tokens=36,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=192,
        feat_channels=48,
        embed_dims=96,
        channels=48,
        num_heads=4,
        # Strokes are as thin as the map's pixels: let its own edges through.
        residual=True,
        num_classes=11,
        dropout_ratio=0.0,
    ),
)

default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1),
)
log_processor = dict(by_epoch=True)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
