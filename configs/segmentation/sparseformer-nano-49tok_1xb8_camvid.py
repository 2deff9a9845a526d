# A small SparseFormer segmentor with 49 tokens for CamVid's streets, from scratch.
_base_ = [
    '../_base_/models/sparseformer_segmentation_nano.py',
    '../_base_/datasets/camvid_bs8_480x360.py',
    '../_base_/schedules/camvid_bs8_adamw_2k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(192, 256)),
    backbone=dict(num_tokens=49),
    decode_head=dict(
        channels=64,
        num_classes=11,
        loss_decode=dict(class_weight=_base_.class_weight),
    ),
    auxiliary_head=dict(num_classes=11, class_weight=_base_.class_weight),
)

default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=250, max_keep_ckpts=2)
)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
