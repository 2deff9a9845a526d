# A small SparseFormer that learns a small vision transformer's answers to scattered
# digits, without labels, on a CPU.
_base_ = [
    '../../_base_/models/sparseformer_bootstrapped_nano.py',
    '../../_base_/datasets/digits_bootstrap_bs32.py',
    '../../_base_/schedules/digits_bootstrap_bs32_adamw_5e.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    type='sparseformer_mm.classification.BootstrapSparseFormer',
    # The model of vit-nano_1xb32_digits.py.
    teacher=dict(
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
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=96),
        # Teacher: where its config leaves the last checkpoint. For another file:
        #   --cfg-options model.teacher.init_cfg.checkpoint=PATH
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/quickstart_bootstrap/teacher/epoch_15.pth',
        ),
    ),
)

# mmpretrain's self-supervised preprocessor; it knows no num_classes.
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[64.0, 64.0, 64.0],
    to_rgb=True,
)

# Pictures in folders whose names nobody reads.
train_dataloader = dict(dataset=dict(with_label=False))

default_hooks = dict(logger=dict(interval=20))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
