# VideoSparseFormer-T: the image model with tubes as RoIs (paper, section 3). The
# backbone averages its tokens and normalises the mean itself; mmaction2's I3D head
# adds dropout and the linear classifier.
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        # One of the two for every batch, at even odds.
        blending=dict(
            type='RandomBatchAugment',
            augments=[
                dict(type='MixupBlending', alpha=0.8, num_classes=400),
                dict(type='CutmixBlending', alpha=1.0, num_classes=400),
            ],
        ),
        format_shape='NCTHW',
    ),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='tiny',
        spatial_dims=3,
        # Copies of the image's tokens along time, each for its share of the clip.
        token_inflation=8,
        # As in classification; the paper gives none for video.
        drop_path_rate=0.2,
        # The pooled tokens as a map of one pixel, what 3D heads take.
        out_type='featmap',
    ),
    cls_head=dict(
        type='I3DHead',
        # Classes: change this and those of the two augments above together.
        num_classes=400,
        # cortex_dims of the backbone: 512 tiny, 640 small, 768 base.
        in_channels=512,
        dropout_ratio=0.5,
        label_smooth_eps=0.1,
        # Views of a video are averaged after the softmax.
        average_clips='prob',
    ),
    # Of the 12 views of a video, as many at a time. This needs batches of one video
    # in validation and test; None takes any batch and all views at once.
    test_cfg=dict(max_testing_views=4),
)
