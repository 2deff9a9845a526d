# The teacher of sparseformer-bootstrapped-nano_vit-nano_1xb32_digits.py: a vision
# transformer that learns scattered digits on a CPU in minutes. Six blocks, so that a
# third of them is two; patches overlap, which speeds learning up.
_base_ = [
    '../../_base_/datasets/digits_bootstrap_bs32.py',
    '../../_base_/schedules/digits_classification_bs32_adamw_15e.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=192
        ),
        img_size=48,
        patch_size=8,
        patch_cfg=dict(kernel_size=16, padding=4),
    ),
    head=dict(
        type='VisionTransformerClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=10,
        in_channels=96,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

optim_wrapper = dict(optimizer=dict(lr=1e-3))

default_hooks = dict(logger=dict(interval=20))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
