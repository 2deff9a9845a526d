# mmdet's RetinaNet on SparseFormer-S with 256 tokens, COCO 2017, 12 epochs.
_base_ = [
    '../_base_/models/detection_retinanet.py',
    '../_base_/datasets/coco_detection_bs2.py',
    '../_base_/schedules/coco_bs16_adamw_1x.py',
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
        arch='small',
        drop_path_rate=0.3,
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 64 tokens are drawn anew for 256, and what restores maps starts anew.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
)
