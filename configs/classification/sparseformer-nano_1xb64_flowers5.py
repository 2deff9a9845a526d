# A small SparseFormer on a thousand photos of flowers, from scratch on a CPU.
_base_ = [
    '../_base_/datasets/flowers5_bs64.py',
    '../_base_/schedules/flowers5_bs64_adamw_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='nano',
        num_tokens=25,
        drop_path_rate=0.1,
    ),
    head=dict(
        type='LinearClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=5,
        in_channels=192,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

default_hooks = dict(logger=dict(interval=5))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
