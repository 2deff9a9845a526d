# VideoSparseFormer-T on Something-Something-v2, one frame from each of 32 parts of
# the video. Not in the paper; the recipe of Kinetics-400.
_base_ = [
    '../_base_/models/sparseformer_video.py',
    '../_base_/datasets/sthv2_bs8_32.py',
    '../_base_/schedules/kinetics400_bs256_adamw_50e.py',
    '../_base_/video_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-tiny_8xb128_in1k.py; or a checkpoint of
# sparseformer-tiny_32xb8-32x4-50e_k400.py. Training stops at once if it is not there.
# For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-tiny_in1k.pth'

model = dict(
    data_preprocessor=dict(
        blending=dict(
            augments=[
                dict(type='MixupBlending', alpha=0.8, num_classes=174),
                dict(type='CutmixBlending', alpha=1.0, num_classes=174),
            ]
        )
    ),
    backbone=dict(
        # Takes the backbone out of the image classifier and inflates its tokens.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    # Classes: change this and those of the two augments above together.
    cls_head=dict(num_classes=174),
)
