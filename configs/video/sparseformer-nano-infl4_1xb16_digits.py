# As sparseformer-nano_1xb16_digits, four tubes in a row along time.
_base_ = './sparseformer-nano_1xb16_digits.py'

model = dict(backbone=dict(token_inflation=4))
