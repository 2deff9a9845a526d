# VideoSparseFormer-S on Kinetics-400 (paper: 79.1 top-1 with 12 views).
_base_ = [
    '../_base_/models/sparseformer_video.py',
    '../_base_/datasets/kinetics400_bs8_32x4.py',
    '../_base_/schedules/kinetics400_bs256_adamw_50e.py',
    '../_base_/video_runtime.py',
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
        # Takes the backbone out of the image classifier and inflates its tokens.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    cls_head=dict(in_channels=640),
)
