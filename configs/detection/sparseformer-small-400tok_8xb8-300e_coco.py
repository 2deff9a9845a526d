# SparseFormer-S with 400 tokens on COCO, 300 epochs (paper: 26.4 AP). DETR's
# 300 epochs had a total batch of 64, hence 8 images on each of 8 GPUs.
_base_ = [
    '../_base_/models/sparseformer_detection.py',
    '../_base_/datasets/coco_detection_bs8.py',
    '../_base_/schedules/detr_bs64_300e.py',
    '../_base_/detection_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-small_8xb128_in1k.py. Training stops at once if it
# is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-small_in1k.pth'

model = dict(
    backbone=dict(
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 64 tokens are drawn anew for 400.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
)
