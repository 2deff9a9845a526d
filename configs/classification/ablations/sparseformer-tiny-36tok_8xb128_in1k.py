# SparseFormer-T with 36 tokens (paper, Table 3a: 80.1 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_tokens=36))
