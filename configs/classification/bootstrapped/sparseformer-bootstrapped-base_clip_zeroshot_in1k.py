# Zero-shot classification by mmpretrain's CLIP, whose visual tower is the second
# paper's SparseFormer from CLIP ViT-B/16. For tools/test.py; the checkpoint holds both:
#   python tools/model_converters/showlab_to_mm.py \
#       sparseformer_btsp_openai_clip_base_converted.pth DST --text-tower CLIP
# with CLIP the checkpoint of mmpretrain's clip_vit-base-p16_zeroshot-cls_in1k. Needs
# mmpretrain[multimodal]: transformers, which downloads the tokenizer.
_base_ = '../../_base_/classification_runtime.py'

model = dict(
    type='CLIPZeroShot',
    vision_backbone=dict(
        type='sparseformer_mm.SparseFormer', arch='bootstrapped-clip-base'
    ),
    projection=dict(type='CLIPProjection', in_channels=768, out_channels=512),
    text_backbone=dict(
        type='CLIPTransformer', width=512, layers=12, heads=8, attn_mask=True
    ),
    tokenizer=dict(
        type='AutoTokenizer',
        name_or_path='openai/clip-vit-base-patch16',
        use_fast=False,
    ),
    vocab_size=49408,
    transformer_width=512,
    proj_dim=512,
    context_length=77,
    text_prototype='imagenet',
    text_prompt='openai_imagenet_sub',
)

# CLIP's own.
data_preprocessor = dict(
    type='MultiModalDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 224), interpolation='bicubic'),
    dict(type='PackInputs'),
]

# Data root: holds val/ with one folder per class, or a flat folder beside meta/val.txt.
test_dataloader = dict(
    batch_size=32,
    num_workers=8,
    dataset=dict(
        type='ImageNet', data_root='data/imagenet', split='val', pipeline=test_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = dict()
