# Scenes of one to six handwritten digits over clutter, 128 x 128, in mmseg's layout:
#   python tools/dataset_converters/make_digits.py data/digits_segmentation \
#       --task segmentation
dataset_type = 'BaseSegDataset'
# Data root: holds img_dir/{train,val}/ and ann_dir/{train,val}/.
data_root = 'data/digits_segmentation/'
metainfo = dict(
    classes=('background', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'),
    palette=[
        [0, 0, 0],
        [230, 25, 75],
        [60, 180, 75],
        [255, 225, 25],
        [0, 130, 200],
        [245, 130, 48],
        [145, 30, 180],
        [70, 240, 240],
        [240, 50, 230],
        [210, 245, 60],
        [170, 110, 40],
    ],
)

# Enlarged twice: the model restores a map of a quarter of its input, and strokes
# are two to six pixels wide.
enlarge = dict(type='Resize', scale=(256, 256), keep_ratio=True)

# No flipping: a mirrored digit is another sign, or none.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    enlarge,
    # Masks stay in the pictures' own size, which heads compare in: in that of the
    # enlarged pictures, the losses took a third of the time.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

# Nothing is random, so tests read pictures in the same way.
test_pipeline = train_pipeline

train_dataloader = dict(
    batch_size=8,
    # One process loads while the model keeps the other cores busy.
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    # Pictures are all of one size, so nothing is padded; one by one takes longer.
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])

test_dataloader = val_dataloader
test_evaluator = val_evaluator
