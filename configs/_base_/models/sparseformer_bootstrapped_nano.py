# A SparseFormer that can inherit from vit-nano, as a classifier. Not the paper's: of
# the form of its bootstrapped models, small enough for a CPU.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='bootstrapped-base',
        # With the class token 10; the transformer has 37.
        num_tokens=9,
        num_points=16,
        focusing_dims=64,
        feat_channels=32,
        decoding=dict(
            type='AdaptiveMixing',
            hidden_dims=32,
            min_out_points=16,
            mixing_bias=False,
            channel_gelu=False,
            norm_eps=1e-5,
        ),
        # From here on as the transformer is.
        cortex_dims=96,
        cortex_depth=5,
        head_dims=32,
        ffn_ratio=2,
        norm_eps=1e-6,
    ),
    head=dict(
        type='LinearClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=10,
        in_channels=96,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
