# ImageNet-1K at 384 x 384 for bootstrapping: pictures without labels for training, and
# the labelled validation part to see how much of the teacher's accuracy is kept.
_base_ = './imagenet_bs128_224.py'

# As AugReg's vision transformers were trained. (mmpretrain's self-supervised
# preprocessor; it knows no num_classes.)
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop', scale=384, backend='pillow', interpolation='bicubic'
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 438  # 256 / 224 of 384
test_pipeline[2].crop_size = 384

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        # All pictures below this folder, whatever folders they are in.
        type='CustomDataset',
        data_root='data/imagenet',
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline,
    ),
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
