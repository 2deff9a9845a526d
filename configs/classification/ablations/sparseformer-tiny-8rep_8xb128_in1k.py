# SparseFormer-T with 8 runs of the focusing block (paper, Table 3b: 81.0 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(focusing_repeats=8))
