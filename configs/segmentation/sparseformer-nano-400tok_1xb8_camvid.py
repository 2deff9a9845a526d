# The same with 400 tokens.
_base_ = './sparseformer-nano-49tok_1xb8_camvid.py'

model = dict(backbone=dict(num_tokens=400))
