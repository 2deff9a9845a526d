# Kinetics-400: 32 frames with a stride of 4, that is out of 128 in a row, at
# 224 x 224. The paper gives frames, stride and test views and follows MViT's
# training protocol. The augmentation is MViT's: random crops, RandAugment, random
# erasing (Mixup and CutMix are in the model). Not taken over: that each video is
# drawn twice per batch.
dataset_type = 'VideoDataset'
# Data root: holds the lists below and the two folders of videos.
data_root = 'data/kinetics400'

train_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='SampleFrames', clip_len=32, frame_interval=4, num_clips=1),
    ),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomResizedCrop', area_range=(0.08, 1.0)),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    # The same for all frames of a clip. MViT draws four operations and skips each at
    # even odds; torchvision's has no such odds, so two are drawn.
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

# While training: one view, the middle of the video.
val_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(
            type='SampleFrames',
            clip_len=32,
            frame_interval=4,
            num_clips=1,
            test_mode=True,
        ),
    ),
    dict(type='Resize', scale=(-1, 224)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]

# 12 views: 4 clips, 3 crops of each.
test_pipeline = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(
            type='SampleFrames',
            clip_len=32,
            frame_interval=4,
            num_clips=4,
            test_mode=True,
        ),
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
        ann_file='kinetics400_train_list_videos.txt',
        data_prefix=dict(video='videos_train'),
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
        ann_file='kinetics400_val_list_videos.txt',
        data_prefix=dict(video='videos_val'),
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
        ann_file='kinetics400_val_list_videos.txt',
        data_prefix=dict(video='videos_val'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = val_evaluator
