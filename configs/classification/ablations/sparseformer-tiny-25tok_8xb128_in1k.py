# SparseFormer-T with 25 tokens (paper, Table 3a: 79.3 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_tokens=25))
