# SparseFormer-T with 64 tokens (paper, Table 3a: 81.4 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(num_tokens=64))
