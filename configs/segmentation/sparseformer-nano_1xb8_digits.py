# A SparseFormer segmentor small enough to learn scattered digits on a CPU in
# minutes, from the small detector of ../detection: as from ImageNet, but embedded.
_base_ = [
    '../_base_/models/sparseformer_segmentation_nano.py',
    '../_base_/datasets/digits_segmentation_bs8.py',
    '../_base_/schedules/digits_segmentation_bs8_adamw_3e.py',
    '../_base_/segmentation_runtime.py',
]

# Pretrain: sparseformer-nano-modern_1xb16_digits.py, for instance that which
# `bash tools/quickstart.sh --task detection` leaves. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'work_dirs/quickstart_detection/epoch_6.pth'

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        num_tokens=36, init_cfg=dict(type='Pretrained', checkpoint=pretrained)
    ),
    decode_head=dict(
        embed_dims=96,
        channels=48,
        num_heads=4,
        # Strokes are as thin as the map's pixels: let its own edges through.
        residual=True,
        num_classes=11,
        dropout_ratio=0.0,
        # 93 % of the pixels are background.
        loss_decode=dict(class_weight=[0.2] + [1.0] * 10),
    ),
)

default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1),
)
log_processor = dict(by_epoch=True)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
