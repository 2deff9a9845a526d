# A SparseFormer segmentor for a CPU: narrow, shallow, from scratch.
_base_ = './sparseformer_segmentation.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
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
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
    ),
    decode_head=dict(in_channels=192, feat_channels=48),
)
