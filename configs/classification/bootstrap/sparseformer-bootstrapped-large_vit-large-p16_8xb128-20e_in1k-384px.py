# Bootstrapped SparseFormer-L from AugReg's ViT-L/16, both at 384 x 384 (paper: 84.9
# top-1 with 49 tokens). Not trained here.
_base_ = [
    '../../_base_/models/sparseformer_bootstrap.py',
    '../../_base_/datasets/imagenet_bs128_384_unlabelled.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_20e-bootstrap.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='bootstrapped-large'),
    head=dict(in_channels=1024),
    teacher=dict(
        backbone=dict(arch='l'),
        head=dict(in_channels=1024),
        init_cfg=dict(
            checkpoint='checkpoints/vit-large-p16_in21k-pre-3rdparty_ft-64xb64_'
            'in1k-384_20210928-b20ba619.pth',
        ),
    ),
)
