# mmdet's Mask R-CNN on maps from the tokens of a small SparseFormer: boxes and masks
# of scattered digits in minutes on a CPU, from scratch. Narrow, with few anchors and
# proposals, since the pictures are small and the digits few.
_base_ = [
    '../_base_/models/detection_mask_rcnn.py',
    '../_base_/datasets/digits_instance_bs16.py',
    '../_base_/schedules/digits_instance_bs16_adamw_2e.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        arch='nano',
        num_tokens=36,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
        map_strides=(4, 8),
        map_channels=64,
    ),
    neck=dict(in_channels=[64, 64], out_channels=64, num_outs=2),
    rpn_head=dict(
        in_channels=64,
        feat_channels=32,
        # Digits are 24 to 72 pixels high, and higher than wide.
        anchor_generator=dict(scales=[6, 9], ratios=[1.5], strides=[4, 8]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=64,
            featmap_strides=[4, 8],
            finest_scale=40,
        ),
        bbox_head=dict(
            in_channels=64, fc_out_channels=256, num_classes=10, reg_class_agnostic=True
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=64, featmap_strides=[4]
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=32,
            num_classes=10,
            # Ink is ink, whichever digit it is of.
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=50),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.33)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=50),
        rcnn=dict(max_per_img=20),
    ),
)

default_hooks = dict(logger=dict(interval=25))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
