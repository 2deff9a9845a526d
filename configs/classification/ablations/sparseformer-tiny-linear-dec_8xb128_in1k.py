# SparseFormer-T with a linear layer for decoding (paper, Table 3e: 78.5 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(decoding='linear'))
