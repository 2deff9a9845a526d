# ImageNet-21K at 224 x 224, 128 images per GPU.
#
# The paper trains on the cleaned subset of the winter 2021 release that
# "ImageNet-21K Pretraining for the Masses" (Ridnik et al.) defines: classes of
# fewer than 500 images are dropped, which leaves 10,450 classes with 11,060,239
# training and 522,500 validation images. (The subset of the fall 2011 release
# has 11,221 classes, the whole of it 21,841.)
_base_ = './imagenet_bs128_224.py'

dataset_type = 'ImageNet21k'
# Data root: holds train/ and val/ with one folder per class. Listing eleven
# million files takes long: a meta/train.txt (`class_folder/image.JPEG label`
# per line) is read instead when there is one.
data_root = 'data/imagenet21k'

data_preprocessor = dict(num_classes=10450)

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root),
    # No repeated augmentation: it would show a third of the images per epoch,
    # and neither the paper nor Swin's IN-21K recipe mentions it here.
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        # mmpretrain names no validation split of ImageNet-21K (`split` may
        # only be 'train'), so the folder is given.
        data_prefix='val',
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = val_dataloader
