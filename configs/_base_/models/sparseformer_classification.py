# SparseFormer-T for classification. The backbone averages its tokens and
# normalises the mean itself, so the linear head follows without a neck.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='sparseformer_mm.SparseFormer', arch='tiny', drop_path_rate=0.2),
    head=dict(
        type='LinearClsHead',
        # Classes: change this and `data_preprocessor.num_classes` together.
        num_classes=1000,
        # cortex_dims of the backbone: 512 tiny, 640 small, 768 base.
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        # 'original' spreads 0.1 over all classes. Smoothing is linear, so it
        # does not matter that it comes after Mixup/CutMix mixed the labels.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        # Accuracy means nothing on mixed labels.
        cal_acc=False,
    ),
    # One of the two for every batch, at even odds.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
