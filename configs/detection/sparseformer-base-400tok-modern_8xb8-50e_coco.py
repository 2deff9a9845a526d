# SparseFormer-B with 400 tokens on COCO, 50 epochs with the modern options:
# focal loss, auxiliary losses and refined boxes. Not in the paper.
_base_ = [
    '../_base_/models/sparseformer_detection_modern.py',
    '../_base_/datasets/coco_detection_bs8.py',
    '../_base_/schedules/detr_bs64_50e.py',
    '../_base_/detection_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-base_8xb128_in1k.py. Training stops at once if it
# is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-base_in1k.pth'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.4,
        out_indices=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 81 tokens are drawn anew for 400.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    bbox_head=dict(embed_dims=768, num_levels=10),
)
