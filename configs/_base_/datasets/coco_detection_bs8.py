# COCO 2017 with DETR's augmentation, 8 images per GPU.
dataset_type = 'CocoDataset'
# Data root: holds train2017/, val2017/ and annotations/.
data_root = 'data/coco/'

short_sides = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
resize = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in short_sides],
    keep_ratio=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    # At even odds: the image resized, or a crop of it.
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                # DETR sets no limit to the long side here: 4200 is more than
                # any image of COCO reaches.
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 4200), (500, 4200), (600, 4200)],
                    keep_ratio=True,
                ),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    # A crop without objects is a training image too.
                    allow_negative_crop=True,
                ),
                resize,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    # Batch per GPU. With another total than 64 (8 GPUs x 8), start training
    # with --auto-scale-lr.
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    # Upright and lying images in batches of their own: less padding.
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        # All images, as DETR does; mmdet's own configs leave out those without
        # objects.
        filter_cfg=dict(filter_empty_gt=False, min_size=32),
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric='bbox',
)

test_dataloader = val_dataloader
test_evaluator = val_evaluator
