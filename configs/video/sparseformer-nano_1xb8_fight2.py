# A small VideoSparseFormer on 120 clips, from scratch on a CPU.
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
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='nano',
        num_tokens=25,
        spatial_dims=3,
        token_inflation=4,
        drop_path_rate=0.1,
        out_type='featmap',
    ),
    cls_head=dict(
        type='I3DHead',
        num_classes=2,
        in_channels=192,
        dropout_ratio=0.5,
        label_smooth_eps=0.1,
        topk=(1,),
        average_clips='prob',
    ),
)

default_hooks = dict(logger=dict(interval=5))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
