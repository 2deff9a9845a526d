# mmseg's semantic FPN on maps of a small SparseFormer: learns scattered digits on a
# CPU in minutes, from scratch. What learns are the convolutions on its maps; its
# tokens take no part (README.md has the figures).
_base_ = [
    '../_base_/models/segmentation_fpn.py',
    '../_base_/datasets/digits_segmentation_bs8.py',
    '../_base_/schedules/digits_segmentation_bs8_adamw_2e.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], size=(256, 256)
    ),
    backbone=dict(
        arch='nano',
        num_tokens=16,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
        map_channels=(48, 64, 96, 128),
        # Coarse maps see whole digits: convolutions learn shapes there, for little.
        map_decoder=dict(type='LocationAwareMaps', num_blocks=(0, 1, 1, 1)),
    ),
    neck=dict(
        in_channels=[48, 64, 96, 128], out_channels=48, norm_cfg=dict(type='BN')
    ),
    decode_head=dict(
        in_channels=[48, 48, 48, 48],
        channels=48,
        num_classes=11,
        dropout_ratio=0.0,
        # 93 % of the pixels are background.
        loss_decode=dict(class_weight=[0.2] + [1.0] * 10),
    ),
    # Which digit it is, is learnt here first: on the map whose pixels see about one,
    # with a loss that hardly counts background.
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        in_channels=48,
        channels=48,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', class_weight=[0.02] + [1.0] * 10, loss_weight=1.0
        ),
    ),
)

# Masks stay in the pictures' own size, which heads compare in: in that of the
# enlarged pictures, the losses took a third of the time.
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(256, 256), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ]
    )
)

default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1),
)
log_processor = dict(by_epoch=True)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
