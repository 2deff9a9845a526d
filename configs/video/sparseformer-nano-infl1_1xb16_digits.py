# As sparseformer-nano_1xb16_digits, every tube over the whole clip.
_base_ = './sparseformer-nano_1xb16_digits.py'

model = dict(backbone=dict(token_inflation=1))
