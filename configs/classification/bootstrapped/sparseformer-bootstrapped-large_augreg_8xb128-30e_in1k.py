# The second paper's model from an AugReg ViT-L/16-384 (paper: 84.9 top-1).
_base_ = './sparseformer-bootstrapped-base_augreg_8xb128-30e_in1k.py'

# Pretrain: as in the base model's config.
pretrained = 'checkpoints/sparseformer_btsp_augreg_large_converted.pth'

model = dict(
    backbone=dict(
        arch='bootstrapped-large',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint=pretrained),
    ),
    head=dict(in_channels=1024),
)
