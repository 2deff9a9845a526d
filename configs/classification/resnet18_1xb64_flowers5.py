# The baseline of sparseformer-nano_1xb64_flowers5.py: same data, same schedule.
_base_ = [
    '../_base_/datasets/flowers5_bs64.py',
    '../_base_/schedules/flowers5_bs64_adamw_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=5,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

default_hooks = dict(logger=dict(interval=5))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
