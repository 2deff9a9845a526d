# Something-Something-v2: 32 frames, one from each of 32 equal parts of the video,
# anywhere in the part for training and in its middle for tests. No flip: classes
# differ in left and right. Otherwise as Kinetics-400.
dataset_type = 'VideoDataset'
# Data root: holds the lists below and the folder of videos.
data_root = 'data/sthv2'

train_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=32),
    ),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop', area_range=(0.08, 1.0)),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    # The same for all frames of a clip; none of its operations is a flip.
    dict(
        type='TorchVisionWrapper',
        op='RandAugment',
        num_ops=2,
        magnitude=7,
        num_magnitude_bins=11,
        fill=[124, 116, 104],
    ),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

val_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=32, test_mode=True),
    ),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

# 3 views: the clip covers the whole video, so there is one, with 3 crops.
test_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='UniformSample', clip_len=32, test_mode=True),
    ),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='ThreeCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

train_dataloader = dict(
    # Per GPU. The learning rate of the schedule is for a total of 256.
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='sthv2_train_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)

val_dataloader = dict(
    # One video, as `model.test_cfg.max_testing_views` wants it.
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='sthv2_val_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='AccMetric')

test_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='sthv2_val_list_videos.txt',
        data_prefix=dict(video='videos'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = val_evaluator
