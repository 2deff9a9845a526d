# The baseline of sparseformer-nano_1xb8_fight2.py: mmaction2's 3D ResNet-18 from
# scratch, narrowed to about the same parameters and training time. Same data,
# optimizer and schedule.
_base_ = [
    '../_base_/datasets/fight2_bs8_16x112.py',
    '../_base_/schedules/fight2_bs8_adamw_75e.py',
    '../_base_/video_runtime.py',
]

model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW',
    ),
    # 3x3x3 convolutions throughout; time is halved with space from the second stage.
    backbone=dict(
        type='ResNet3d',
        depth=18,
        base_channels=16,
        pretrained=None,
        pretrained2d=False,
        conv1_kernel=(3, 7, 7),
        with_pool2=False,
        inflate=(1, 1, 1, 1),
        inflate_style='3x3x3',
        spatial_strides=(1, 2, 2, 2),
        temporal_strides=(1, 2, 2, 2),
        zero_init_residual=False,
    ),
    cls_head=dict(
        type='I3DHead',
        num_classes=2,
        in_channels=128,
        dropout_ratio=0.5,
        label_smooth_eps=0.1,
        topk=(1,),
        average_clips='prob',
    ),
)

default_hooks = dict(logger=dict(interval=5))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
