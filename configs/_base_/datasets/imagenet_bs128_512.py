# ImageNet-1K at 512 x 512, 128 images per GPU; all else as at 224 x 224.
_base_ = './imagenet_bs128_224.py'

train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 512

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 585  # 256 / 224 of 512
test_pipeline[2].crop_size = 512

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
