"""Clips of a bright square that moves, and a config that learns them in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

# Which way the square goes, and the length of each split's clips: shorter than the
# model's eight frames, as long, and longer.
CLASSES = ('right', 'left', 'still')
LENGTHS = (8, 6, 11, 8)
SIZE, SQUARE = 24, 8

CONFIG = """
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor', mean=[127.5] * 3, std=[64.] * 3,
        format_shape='NCTHW'),
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=4, num_points=9, focusing_dims=32,
                  focusing_repeats=2, cortex_dims=32, cortex_depth=2,
                  num_heads=4, feat_channels=16),
        spatial_dims=3, token_inflation=2, out_type='featmap'),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=32,
                  dropout_ratio=0., topk=(1, ), average_clips='prob'))
read = dict(
    type='sparseformer_mm.video.ReadFrames',
    sample=dict(type='UniformSample', clip_len=8, test_mode=True))
pipeline = [read, dict(type='FormatShape', input_format='NCTHW'),
            dict(type='PackActionInputs')]
views = [read, dict(type='ThreeCrop', crop_size={size}),
         dict(type='FormatShape', input_format='NCTHW'),
         dict(type='PackActionInputs')]
dataset = dict(
    type='RawframeDataset', data_root=r'{data}', ann_file='train.txt',
    data_prefix=dict(img=''), filename_tmpl='img_{{:05}}.png', pipeline=pipeline)
train_dataloader = dict(
    batch_size=6, num_workers=0, dataset=dataset,
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=4, num_workers=0,
    dataset=dict(dataset, ann_file='val.txt', test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], pipeline=views))
val_evaluator = dict(
    type='AccMetric', metric_options=dict(top_k_accuracy=dict(topk=(1, ))))
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3), clip_grad=dict(max_norm=1.))
param_scheduler = dict(type='MultiStepLR', milestones=[{epochs} - 1], gamma=.5)
train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval={epochs})
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval={epochs} // 2),
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'))
# Each line of the log shows its own iteration.
log_processor = dict(window_size=1)
randomness = dict(seed=0)
"""


def frames(label: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """A clip (length, SIZE, SIZE, 3) uint8; its middle frame says nothing."""
    pixels = rng.integers(0, 60, (length, SIZE, SIZE, 3))
    middle, y = rng.integers(6, SIZE - SQUARE - 6), rng.integers(SIZE - SQUARE)
    steps = np.linspace(-6, 6, length).round().astype(int) * (1, -1, 0)[label]
    for frame, step in zip(pixels, steps):
        x = middle + step
        frame[y : y + SQUARE, x : x + SQUARE] += 180
    return pixels.astype(np.uint8)


def make_clips(root: Path, counts: dict) -> Path:
    """Raw frames of ``counts[split]`` clips per class, and mmaction2's lists."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        lines = []
        for index in range(count * len(CLASSES)):
            label = index % len(CLASSES)
            clip = frames(label, LENGTHS[index // len(CLASSES) % len(LENGTHS)], rng)
            name = f'{split}/{index:03d}'
            (root / name).mkdir(parents=True)
            for number, frame in enumerate(clip, 1):
                Image.fromarray(frame).save(root / name / f'img_{number:05d}.png')
            lines.append(f'{name} {len(clip)} {label}\n')
        (root / f'{split}.txt').write_text(''.join(lines))
    return root


def make_toy(folder: Path, epochs: int) -> Path:
    """Write ``data/`` and ``toy.py`` into a folder; return the config's path."""
    data = make_clips(folder / 'data', dict(train=16, val=4))
    config = folder / 'toy.py'
    config.write_text(CONFIG.format(data=data, epochs=epochs, size=SIZE))
    return config
