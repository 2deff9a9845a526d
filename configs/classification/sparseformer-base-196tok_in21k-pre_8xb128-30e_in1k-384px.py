# SparseFormer-B with 196 tokens, fine-tuned on ImageNet-1K at 384 x 384 after
# ImageNet-21K (paper: 84.8 top-1).
_base_ = [
    '../_base_/models/sparseformer_classification.py',
    '../_base_/datasets/imagenet_bs128_384.py',
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
        # Unlike the checkpoint's 81: token embeddings and RoIs are initialised
        # anew, everything else is loaded.
        num_tokens=196,
        # Not given by the paper; Swin-B's at this step.
        drop_path_rate=0.2,
        # Takes the backbone out of a whole classifier, the authors' too.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=768),
)
