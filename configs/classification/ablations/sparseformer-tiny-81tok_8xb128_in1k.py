# SparseFormer-T with 81 tokens (paper, Table 3a: 81.9 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_tokens=81))
