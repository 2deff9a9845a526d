# mmseg's UPerNet on SparseFormer-T with 256 tokens, ADE20K, crops of 512 x 512.
_base_ = [
    '../_base_/models/segmentation_upernet.py',
    '../_base_/datasets/ade20k_bs2_512x512.py',
    '../_base_/schedules/segmentation_adamw_160k.py',
    '../_base_/segmentation_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-tiny_8xb128_in1k.py. Training stops at once if it
# is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-tiny_in1k.pth'

model = dict(
    backbone=dict(
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 49 tokens are drawn anew for 256, and what restores maps starts anew.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
)
