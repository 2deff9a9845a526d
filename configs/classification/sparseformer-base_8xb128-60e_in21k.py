# SparseFormer-B pre-trained on ImageNet-21K, 60 epochs. The checkpoint is
# meant for fine-tuning; the paper gives no accuracy on ImageNet-21K itself.
_base_ = [
    '../_base_/models/sparseformer_classification.py',
    '../_base_/datasets/imagenet21k_bs128_224.py',
    '../_base_/schedules/imagenet21k_bs1024_adamw_60e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.1),
    head=dict(
        # Classes of the cleaned winter 2021 release: see the dataset file.
        num_classes=10450,
        in_channels=768,
    ),
)
