# SparseFormer-T on ImageNet-1K, 300 epochs from scratch (paper: 81.0 top-1).
_base_ = [
    '../_base_/models/sparseformer_classification.py',
    '../_base_/datasets/imagenet_bs128_224.py',
    '../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(backbone=dict(arch='tiny', drop_path_rate=0.2), head=dict(in_channels=512))
