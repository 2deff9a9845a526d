# The baseline of sparseformer-nano-*_1xb8_camvid.py: mmseg's UPerNet on ResNet-18
# from scratch, narrowed for a CPU. Same data, optimizer and schedule.
_base_ = [
    '../_base_/models/segmentation_upernet.py',
    '../_base_/datasets/camvid_bs8_480x360.py',
    '../_base_/schedules/camvid_bs8_adamw_2k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[64.0, 64.0, 64.0],
        size=(192, 256),
    ),
    backbone=dict(
        _delete_=True,
        type='ResNetV1c',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512], channels=64, num_classes=11),
    auxiliary_head=None,
)

default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=250, max_keep_ckpts=2)
)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
