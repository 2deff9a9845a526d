# Something-Something-v2: 32 frames, one from each of 32 equal parts of the video,
# anywhere in the part for training and in its middle for tests. No flip: classes
# differ in left and right. Otherwise as Kinetics-400.
_base_ = './kinetics400_bs8_32x4.py'

# Data root: holds the lists below and the folder of videos.
data_root = 'data/sthv2'

# None of the operations of RandAugment is a flip.
train_pipeline = [step for step in _base_.train_pipeline if step.type != 'Flip']
train_pipeline[0] = dict(
    type='sparseformer_mm.video.ReadFrames',
    sample=dict(type='UniformSample', clip_len=32),
)

# 3 views in tests: the clip covers the whole video, so there is one, with 3 crops.
read_middles = dict(
    type='sparseformer_mm.video.ReadFrames',
    sample=dict(type='UniformSample', clip_len=32, test_mode=True),
)
val_pipeline = [read_middles, *_base_.val_pipeline[1:]]
test_pipeline = [read_middles, *_base_.test_pipeline[1:]]

train_split = dict(
    data_root=data_root,
    ann_file='sthv2_train_list_videos.txt',
    data_prefix=dict(video='videos'),
)
val_split = dict(
    data_root=data_root,
    ann_file='sthv2_val_list_videos.txt',
    data_prefix=dict(video='videos'),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **train_split))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, **val_split))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline, **val_split))
