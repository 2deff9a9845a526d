# Bootstrapped SparseFormer from the visual tower of OpenAI's CLIP ViT-L/14 at
# 224 x 224, on the pictures of ImageNet-1K: it learns the projected embedding, which
# texts are compared with. Not trained here.
_base_ = [
    '../../_base_/models/sparseformer_bootstrap.py',
    '../../_base_/datasets/imagenet_bs128_384_unlabelled.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_20e-bootstrap.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='bootstrapped-clip-large'),
    # As a neck of mmpretrain that needs no package for texts.
    neck=dict(
        type='LinearNeck', in_channels=1024, out_channels=768, norm_cfg=None
    ),
    head=None,
    teacher=dict(
        backbone=dict(
            arch='large',
            img_size=224,
            patch_size=14,
            pre_norm=True,
            layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
        ),
        neck=dict(type='CLIPProjection', in_channels=1024, out_channels=768),
        head=None,
        # mmpretrain's file of the whole CLIP; its text tower is left alone.
        init_cfg=dict(checkpoint='checkpoints/vit-large-p14_clip-openai.pth'),
    ),
)

data_preprocessor = dict(
    mean=[122.771, 116.746, 104.094],
    std=[68.501, 66.632, 70.323],
)

train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 224
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# There is no classifier to validate: zero-shot classification compares with texts.
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
default_hooks = dict(checkpoint=dict(save_best=None))
