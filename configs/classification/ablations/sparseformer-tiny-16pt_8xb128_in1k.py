# SparseFormer-T with 16 sampling points per token (paper, Table 3c: 80.3 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_points=16))
