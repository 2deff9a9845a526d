# A SparseFormer that learns from a frozen ViT-B/16 of mmpretrain (AugReg, 384 x 384),
# without labels.
model = dict(
    type='sparseformer_mm.classification.BootstrapSparseFormer',
    backbone=dict(type='sparseformer_mm.SparseFormer', arch='bootstrapped-base'),
    # The teacher's classifier, for validation and for the checkpoint.
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
    teacher=dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer', arch='b', img_size=384, patch_size=16
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=768),
        # Teacher: the file to learn from; training stops at once if it is not there.
        # For another:  --cfg-options model.teacher.init_cfg.checkpoint=PATH
        init_cfg=dict(
            type='Pretrained',
            checkpoint='checkpoints/vit-base-p16_in21k-pre-3rdparty_ft-64xb64_'
            'in1k-384_20210928-98e8652b.pth',
        ),
    ),
)
