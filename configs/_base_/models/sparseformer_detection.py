# SparseFormer-S as a detector (paper, appendix A.1): no encoder, no decoder. Of
# 400 tokens the first 100 detect, each with a linear classifier and a two-layer
# MLP that adjusts the token's RoI once more. Matching and losses are DETR's.
model = dict(
    type='sparseformer_mm.detection.SparseFormerDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        # Batches are padded to the largest image and no further. RoIs are
        # relative to the image, whatever is padded.
        pad_size_divisor=1,
    ),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='small',
        num_tokens=400,
        # Centers anywhere in the image, sizes half of it.
        roi_init='random',
        # As in classification; the paper gives none for detection.
        drop_path_rate=0.3,
        out_type='tokens',
    ),
    bbox_head=dict(
        type='sparseformer_mm.detection.SparseFormerHead',
        num_classes=80,
        # cortex_dims of the backbone: 512 tiny, 640 small, 768 base.
        embed_dims=640,
        num_queries=100,
        loss_cls=dict(
            type='CrossEntropyLoss',
            bg_cls_weight=0.1,
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=1.0,
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)
