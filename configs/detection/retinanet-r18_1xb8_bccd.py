# The baseline of sparseformer-nano-modern_1xb8_bccd.py: mmdet's RetinaNet on
# ResNet-18 from scratch, narrowed for a CPU. Same data, optimizer and schedule.
_base_ = [
    '../_base_/models/detection_retinanet.py',
    '../_base_/datasets/bccd_bs8_320x240.py',
    '../_base_/schedules/bccd_bs8_adamw_40e.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]
    ),
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        out_indices=(0, 1, 2, 3),
        norm_eval=False,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, start_level=1),
    bbox_head=dict(num_classes=3, in_channels=128, stacked_convs=2, feat_channels=128),
)

default_hooks = dict(logger=dict(interval=25))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
