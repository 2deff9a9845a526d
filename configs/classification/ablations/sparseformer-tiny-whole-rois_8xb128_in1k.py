# SparseFormer-T with RoIs that all start as the whole image (paper, Table 9: 80.2
# top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(roi_init='whole'))
