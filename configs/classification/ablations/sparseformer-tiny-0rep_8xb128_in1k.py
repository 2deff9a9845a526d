# SparseFormer-T without focusing, RoIs and sampling points fixed where they start: the
# row 'nil' (paper, Table 3b: 77.8 top-1). What is left is the sampling of the cortex.
_base_ = '../sparseformer-tiny_8xb128_in1k.py'

model = dict(backbone=dict(focusing_repeats=0, fixed_rois=True))
