# A SparseFormer segmentor for a CPU: narrow, shallow, from scratch.
_base_ = './sparseformer_segmentation.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        arch='nano',
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=192,
        feat_channels=48,
        # What is as thin as the map's pixels: let its own edges through.
        residual=True,
    ),
    # What there is in a token's RoI is asked of the token itself; from scratch, tokens
    # learn it late or never without that.
    auxiliary_head=dict(
        type='sparseformer_mm.segmentation.TokenLabelHead', in_channels=192
    ),
)
