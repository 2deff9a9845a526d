# Bootstrapped SparseFormer-B from AugReg's ViT-B/16, both at 384 x 384. Not trained
# here.
_base_ = [
    '../../_base_/models/sparseformer_bootstrap.py',
    '../../_base_/datasets/imagenet_bs128_384_unlabelled.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_20e-bootstrap.py',
    '../../_base_/classification_runtime.py',
]

