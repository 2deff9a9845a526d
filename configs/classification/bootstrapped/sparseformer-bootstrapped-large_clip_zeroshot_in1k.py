# As the base model, from CLIP ViT-L/14; text tower of mmpretrain's
# clip_vit-large-p14_zeroshot-cls_in1k.
_base_ = './sparseformer-bootstrapped-base_clip_zeroshot_in1k.py'

model = dict(
    vision_backbone=dict(arch='bootstrapped-clip-large'),
    projection=dict(in_channels=1024, out_channels=768),
    text_backbone=dict(width=768, heads=12),
    tokenizer=dict(name_or_path='openai/clip-vit-large-patch14'),
    transformer_width=768,
    proj_dim=768,
)
