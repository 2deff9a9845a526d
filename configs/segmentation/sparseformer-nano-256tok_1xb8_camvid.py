# A small SparseFormer segmentor with 256 tokens for CamVid's streets, from scratch.
_base_ = [
    '../_base_/models/sparseformer_seg.py',
    '../_base_/datasets/camvid_bs8_480x360.py',
    '../_base_/schedules/camvid_bs8_adamw_2k.py',
    '../_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], size=(256, 320)
    ),
    backbone=dict(
        arch=dict(
            _delete_=True,
            num_points=16,
            focusing_dims=96,
            focusing_repeats=4,
            cortex_dims=192,
            cortex_depth=4,
            num_heads=8,
            feat_channels=48,
        ),
        num_tokens=256,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=192,
        feat_channels=48,
        channels=64,
        num_classes=11,
    ),
)

default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=250, max_keep_ckpts=1)
)
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
