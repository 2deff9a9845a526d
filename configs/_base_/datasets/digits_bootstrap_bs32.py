# Scattered digits that a vision transformer learns in minutes: 48 x 48, digits half as
# high as the picture, one in each, ten classes:
#   python tools/dataset_converters/make_digits.py data/digits_bootstrap \
#       --task classification --size 48 --digit-size 20 24
_base_ = './digits_classification_bs32.py'

data_root = 'data/digits_bootstrap'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=48, padding=6, padding_mode='reflect'),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
