# SparseFormer-T that samples the picture's colours (paper, Table 3d: fails; about 60
# top-1 with a preliminary design).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(stem='pixel'))
