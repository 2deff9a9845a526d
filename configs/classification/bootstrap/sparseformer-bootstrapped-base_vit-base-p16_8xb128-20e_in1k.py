# Bootstrapped SparseFormer-B at 224 x 224 from AugReg's ViT-B/16 at 384 x 384: both see
# the same crop. Not trained here.
_base_ = [
    '../../_base_/models/sparseformer_bootstrap.py',
    '../../_base_/datasets/imagenet_bs128_384_unlabelled.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_20e-bootstrap.py',
    '../../_base_/classification_runtime.py',
]

model = dict(student_size=224)
