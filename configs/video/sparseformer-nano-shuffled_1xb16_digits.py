# Tests a checkpoint of sparseformer-nano_1xb16_digits on the same clips with their
# frames in random order: the model has to mistake right for left, up for down and
# growing for shrinking as often as not, and only these.
_base_ = './sparseformer-nano_1xb16_digits.py'

test_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
    ),
    dict(type='sparseformer_mm.video.ShuffleFrames'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
# Rows are true classes, columns what the model says.
test_evaluator = [
    dict(type='AccMetric', metric_options=dict(top_k_accuracy=dict(topk=(1,)))),
    dict(type='ConfusionMatrix'),
]
