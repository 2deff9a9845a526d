# SparseFormer-T with 16 tokens (paper, Table 3a: 77.4 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_tokens=16))
