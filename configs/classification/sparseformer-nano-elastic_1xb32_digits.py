# sparseformer-nano_1xb32_digits for 4 to 16 tokens: one training, and a model that is
# tested with any of these numbers (model.backbone.test_tokens).
_base_ = [
    '../_base_/datasets/digits_classification_bs32.py',
    '../_base_/schedules/digits_classification_bs32_adamw_15e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='nano',
        drop_path_rate=0.05,
        # Each batch draws one. Four RoIs of half the picture's size cover it.
        train_tokens=list(range(4, 17)),
        test_tokens=None,
    ),
    head=dict(
        type='LinearClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=10,
        in_channels=192,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

default_hooks = dict(logger=dict(interval=20))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
