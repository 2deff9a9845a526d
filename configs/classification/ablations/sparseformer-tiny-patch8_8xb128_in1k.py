# SparseFormer-T that samples ViT's patches of 8 x 8 pixels (paper, Table 3d: 78.4
# top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(stem='patch_embed'))
