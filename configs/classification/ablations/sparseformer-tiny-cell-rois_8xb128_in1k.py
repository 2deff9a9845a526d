# SparseFormer-T with RoIs that start as tiles of the image (paper, Table 9: 81.0
# top-1).
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(roi_init='cell'))
