# SparseFormer-T with 64 sampling points per token (paper, Table 3c: 81.3 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_points=64))
