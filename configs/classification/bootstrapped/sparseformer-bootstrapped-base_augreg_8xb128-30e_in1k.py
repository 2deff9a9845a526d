# The second paper's model from an AugReg ViT-B, at 224 x 224. Made for tools/test.py
# with the authors' file; fine-tuning starts from it, too.
_base_ = [
    '../../_base_/models/sparseformer_classification.py',
    '../../_base_/datasets/imagenet_bs128_224.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_30e-finetune.py',
    '../../_base_/classification_runtime.py',
]

# AugReg's ViTs want -1..1. (What the augmentations fill in stays ImageNet's mean, which
# is nearly the same gray.)
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)

# Pretrain: the authors' sparseformer_btsp_augreg_base_converted.pth, or a checkpoint of
# a bootstrap of your own; training stops at once if it is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer_btsp_augreg_base_converted.pth'

model = dict(
    backbone=dict(
        arch='bootstrapped-base',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    head=dict(in_channels=768),
)
