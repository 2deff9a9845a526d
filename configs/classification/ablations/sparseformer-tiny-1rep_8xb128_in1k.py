# SparseFormer-T with one run of the focusing block (paper, Table 3b: 79.7 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(focusing_repeats=1))
