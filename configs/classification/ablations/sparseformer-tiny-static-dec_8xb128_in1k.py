# SparseFormer-T with mixing weights that do not depend on the token (paper, Table 3e:
# 80.1 top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(decoding='static'))
