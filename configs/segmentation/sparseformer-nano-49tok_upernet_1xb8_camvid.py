# mmseg's UPerNet on maps from the tokens of a small SparseFormer, from scratch: the
# head is that of upernet-r18_1xb8_camvid.py, with rare classes counted more, beside an
# auxiliary one on a fine map and one that asks the tokens.
_base_ = [
    '../_base_/models/segmentation_upernet.py',
    '../_base_/datasets/camvid_bs8_480x360.py',
    '../_base_/schedules/camvid_bs8_adamw_2k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], size=(192, 256)
    ),
    backbone=dict(
        arch='nano',
        num_tokens=49,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
        map_channels=(48, 64, 96, 128),
        # Convolutions on each map: what is local is learnt fast from few pictures.
        map_decoder=dict(type='LocationAwareMaps', num_blocks=1),
    ),
    decode_head=dict(
        in_channels=[48, 64, 96, 128],
        channels=64,
        num_classes=11,
        dropout_ratio=0.0,
        loss_decode=dict(class_weight=_base_.class_weight),
    ),
    auxiliary_head=[
        dict(
            type='FCNHead',
            in_index=1,
            in_channels=64,
            channels=48,
            num_convs=1,
            concat_input=False,
            num_classes=11,
            dropout_ratio=0.0,
            align_corners=False,
            norm_cfg=dict(type='BN', requires_grad=True),
            loss_decode=dict(
                type='CrossEntropyLoss',
                loss_weight=0.4,
                class_weight=_base_.class_weight,
            ),
        ),
        dict(
            type='sparseformer_mm.segmentation.TokenLabelHead',
            in_channels=192,
            num_classes=11,
            class_weight=_base_.class_weight,
        ),
    ],
)

# A higher rate than the other small models'.
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))

default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=250, max_keep_ckpts=2)
)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
