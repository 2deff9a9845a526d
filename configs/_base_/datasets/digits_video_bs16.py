# Clips of 16 frames of 52 x 52 in which a handwritten digit moves over clutter; the
# class is the motion, one of eight:
#   python tools/dataset_converters/make_digits.py data/digits_video --task video
dataset_type = 'VideoDataset'
# Data root: holds train.txt and val.txt, lines "videos/train/000000.mp4 0" that name
# a clip, seen from here, and its class.
data_root = 'data/digits_video'

read_clip = dict(
    type='sparseformer_mm.video.ReadFrames',
    # The whole clip, frame by frame.
    sample=dict(type='SampleFrames', clip_len=16, frame_interval=1, num_clips=1),
)

# No flipping: a mirrored motion is another class.
train_pipeline = [
    read_clip,
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

test_pipeline = train_pipeline

train_dataloader = dict(
    batch_size=16,
    # One process loads while the model keeps the other cores busy.
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=dict(video=''),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)

val_dataloader = dict(
    batch_size=40,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=dict(video=''),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(
    type='AccMetric', metric_options=dict(top_k_accuracy=dict(topk=(1,)))
)

test_dataloader = val_dataloader
test_evaluator = val_evaluator
