"""A three-colour data set and a config small enough to train in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=4, num_points=4, focusing_dims=32,
                  focusing_repeats=2, cortex_dims=32, cortex_depth=2,
                  num_heads=4, feat_channels=16),
        limit_coord_grad={limit}),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=32,
              loss=dict(type='CrossEntropyLoss'), topk=(1, )))
data_preprocessor = dict(num_classes=3, mean=[127.5] * 3, std=[64.] * 3)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root=r'{data}/train',
               pipeline=pipeline)
train_dataloader = dict(
    batch_size=6, num_workers=0, dataset=dataset,
    sampler=dict(type='DefaultSampler', shuffle={shuffle}))
val_dataloader = dict(
    batch_size=6, num_workers=0,
    dataset=dict(dataset, data_root=r'{data}/val'),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = dict(type='ConstantLR', factor=1.)
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=12)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1),
                     checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=0)
"""


def make_data(root: Path, train: int = 8, val: int = 5) -> Path:
    """Noisy pictures of three colours in class folders."""
    rng = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        for label, colour in enumerate(np.eye(3) * 160 + 40):
            folder = root / split / f'class{label}'
            folder.mkdir(parents=True)
            for index in range(count):
                noise = rng.integers(-40, 40, (32, 32, 3))
                pixels = (colour + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{index}.png')
    return root


def write_config(
    path: Path, data: Path, shuffle: bool = True, limit: bool = True
) -> Path:
    path.write_text(CONFIG.format(data=data, shuffle=shuffle, limit=limit))
    return path
