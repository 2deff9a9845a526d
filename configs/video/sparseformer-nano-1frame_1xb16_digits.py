# The image model on the middle frame of each clip: a test of the data set, whose
# classes no single frame should tell.
_base_ = './sparseformer-nano_1xb16_digits.py'

# A tube of one frame is an image's RoI.
model = dict(backbone=dict(token_inflation=1, time_offsets='middle'))

test_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=1, test_mode=True),
    ),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_pipeline = test_pipeline

train_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
