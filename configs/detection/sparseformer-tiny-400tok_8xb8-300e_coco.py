# SparseFormer-T with 400 tokens on COCO, 300 epochs: the paper's recipe for
# SparseFormer-S on another size.
_base_ = [
    '../_base_/models/sparseformer_detection.py',
    '../_base_/datasets/coco_detection_bs8.py',
    '../_base_/schedules/detr_bs64_300e.py',
    '../_base_/detection_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-tiny_8xb128_in1k.py. Training stops at once if it
# is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-tiny_in1k.pth'

model = dict(
    backbone=dict(
        arch='tiny',
        drop_path_rate=0.2,
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 49 tokens are drawn anew for 400.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    bbox_head=dict(embed_dims=512),
)
