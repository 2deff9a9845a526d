# The second paper's model from an AugReg ViT-L, at 224 x 224; as the base model's.
_base_ = [
    '../../_base_/models/sparseformer_classification.py',
    '../../_base_/datasets/imagenet_bs128_224.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_30e-finetune.py',
    '../../_base_/classification_runtime.py',
]

data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)

# Pretrain: as in the base model's config.
pretrained = 'checkpoints/sparseformer_btsp_augreg_large_converted.pth'

model = dict(
    backbone=dict(
        arch='bootstrapped-large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=1024),
)
