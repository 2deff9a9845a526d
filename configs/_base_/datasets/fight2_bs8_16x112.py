# Short clips of two classes from surveillance cameras, longest side about 320:
# 16 frames spread evenly over the clip, at 112 x 112. Any list of clips will do.
dataset_type = 'VideoDataset'
# Data root: holds train.txt and val.txt, lines "videos/train/1.mp4 0" that name a
# clip, seen from here, and its class.
data_root = 'data/fight2'

train_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=16),
    ),
    dict(type='RandomResizedCrop', area_range=(0.4, 1.0)),
    dict(type='Resize', scale=(112, 112), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3, hue=0.0),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

# The whole picture: what matters need not be in its middle.
test_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=16, test_mode=True),
    ),
    dict(type='Resize', scale=(112, 112), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

train_dataloader = dict(
    batch_size=8,
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
    batch_size=8,
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
