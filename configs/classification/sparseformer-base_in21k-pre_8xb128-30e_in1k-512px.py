# SparseFormer-B, fine-tuned on ImageNet-1K at 512 x 512 after ImageNet-21K
# (paper: 84.0 top-1).
_base_ = [
    '../_base_/models/sparseformer_classification.py',
    '../_base_/datasets/imagenet_bs128_512.py',
    '../_base_/schedules/imagenet_bs1024_adamw_30e-finetune.py',
    '../_base_/classification_runtime.py',
]

# Pretrain: the checkpoint to start from. The default is where the pre-training
# config of this folder leaves its last one; training stops at once if it is
# not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'work_dirs/sparseformer-base_8xb128-60e_in21k/epoch_60.pth'

model = dict(
    backbone=dict(
        arch='base',
        # Not given by the paper; Swin-B's at this step.
        drop_path_rate=0.2,
        # Takes the backbone out of a whole classifier, the authors' too.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=768),
)
