# A VideoSparseFormer small enough to learn motions on a CPU in minutes.
_base_ = [
    '../_base_/datasets/digits_video_bs16.py',
    '../_base_/schedules/digits_video_bs16_adamw_6e.py',
    '../_base_/video_runtime.py',
]

model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[64.0, 64.0, 64.0],
        format_shape='NCTHW',
    ),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='nano',
        spatial_dims=3,
        # Tubes in a row along time: each has half of the clip.
        token_inflation=2,
        drop_path_rate=0.05,
        out_type='featmap',
    ),
    cls_head=dict(
        type='I3DHead',
        num_classes=8,
        in_channels=192,
        dropout_ratio=0.0,
        init_std=0.02,
        label_smooth_eps=0.1,
        average_clips='prob',
    ),
)

default_hooks = dict(logger=dict(interval=20))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
