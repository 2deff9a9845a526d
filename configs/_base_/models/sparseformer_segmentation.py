# SparseFormer-T as a segmentor (paper, appendix A.2): each pixel of the stem's map
# attends to the latent tokens, near RoIs first; two 3x3 convolutions and a
# classifier follow.
model = dict(
    type='sparseformer_mm.segmentation.SparseFormerSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        # What training crops are padded to where the image is smaller. RoIs are
        # relative to the image, whatever is padded.
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch='tiny',
        num_tokens=400,
        # Centers anywhere in the image, sizes half of it.
        roi_init='random',
        # As in classification; the paper gives none for segmentation.
        drop_path_rate=0.2,
        out_type='tokens',
    ),
    decode_head=dict(
        type='sparseformer_mm.segmentation.LocationAwareHead',
        # cortex_dims of the backbone: 512 tiny, 640 small, 768 base.
        in_channels=512,
        channels=256,
        num_classes=150,
        dropout_ratio=0.1,
        # Synchronised between GPUs by the runtime's sync_bn.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
