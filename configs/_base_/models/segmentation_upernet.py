# mmseg's UPerNet, on maps that are restored from SparseFormer's tokens. Heads are
# those of upernet_swin, and so are the widths of the maps.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        # mmseg's, which also tells the backbone how much of a batch is padding.
        type='sparseformer_mm.segmentation.SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='tiny',
        num_tokens=256,
        # Centers anywhere in the image, sizes half of it.
        roi_init='random',
        drop_path_rate=0.2,
        out_type='maps',
        map_strides=(4, 8, 16, 32),
        map_channels=(96, 192, 384, 768),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        # Synchronised between GPUs by the runtime's sync_bn.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
