# mmdet's RetinaNet on maps from the tokens of a small SparseFormer, from scratch: all
# but the backbone is that of retinanet-r18_1xb8_bccd.py.
_base_ = [
    '../_base_/models/detection_retinanet.py',
    '../_base_/datasets/bccd_bs8_320x240.py',
    '../_base_/schedules/bccd_bs8_adamw_40e.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        arch='nano',
        num_tokens=64,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
        map_channels=(96, 128, 192),
    ),
    neck=dict(in_channels=[96, 128, 192], out_channels=128),
    bbox_head=dict(num_classes=3, in_channels=128, stacked_convs=2, feat_channels=128),
)

default_hooks = dict(logger=dict(interval=25))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
