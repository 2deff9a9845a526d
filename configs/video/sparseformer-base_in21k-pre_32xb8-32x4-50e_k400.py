# VideoSparseFormer-B on Kinetics-400 after ImageNet-21K (paper: 79.8 top-1 with 12
# views).
_base_ = [
    '../_base_/models/sparseformer_video.py',
    '../_base_/datasets/kinetics400_bs8_32x4.py',
    '../_base_/schedules/kinetics400_bs256_adamw_50e.py',
    '../_base_/video_runtime.py',
]

# Pretrain: the checkpoint to start from. The default is where the pre-training
# config of ../classification leaves its last one; one that was fine-tuned on
# ImageNet-1K will do as well. Training stops at once if it is not there. For another
# file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'work_dirs/sparseformer-base_8xb128-60e_in21k/epoch_60.pth'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.4,
        # Takes the backbone out of the image classifier and inflates its tokens.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    cls_head=dict(in_channels=768),
)
