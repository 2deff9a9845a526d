"""A model and pictures or videos of each task, to see where it looks."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from helpers import toy_detector
from sparseformer_mm.engine.files import read_picture
from sparseformer_mm.host import host_of
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.visualization.disturb import disturb
from sparseformer_mm.visualization.looks import Choice, Picture, look_at
from sparseformer_mm.visualization.truth import Truth

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
ARCH = """arch=dict(num_tokens={tokens}, num_points=4, focusing_dims=16,
    focusing_repeats={repeats}, cortex_dims=16, cortex_depth=2, num_heads=2,
    feat_channels=8)"""

CLASSES = ('cat', 'dog', 'owl')
BOXES = {'cat/0.png': [4, 8, 20, 28, 0], 'owl/0.png': [30, 2, 44, 16, 2]}
CLASSIFIER = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=3, mean={mean}, std={std}, to_rgb=True)
model = dict(
    type='ImageClassifier', data_preprocessor=data_preprocessor,
    backbone=dict(type='sparseformer_mm.SparseFormer', {arch}),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root=r'{root}', data_prefix='val',
    pipeline=test_pipeline))
"""

PALETTE = [[0, 0, 200], [0, 200, 0], [200, 0, 0]]
SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='sparseformer_mm.segmentation.SparseFormerSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean={mean}, std={std}, bgr_to_rgb=True,
        test_cfg=dict(size_divisor=32)),
    backbone=dict(type='sparseformer_mm.SparseFormer', out_type='tokens', {arch}),
    decode_head=dict(
        type='sparseformer_mm.segmentation.LocationAwareHead', in_channels=16,
        feat_channels=8, channels=8, num_classes=3, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root=r'{root}', img_suffix='.png',
    metainfo=dict(classes=('sky', 'road', 'car'), palette={palette}),
    data_prefix=dict(img_path='img', seg_map_path='ann'), pipeline=test_pipeline))
"""

MOTIONS = ('rising', 'falling', 'resting')
NUM_FRAMES, SECOND_CLIP = 12, [5, 7, 9, 11]  # of two; every other frame from the sixth
RECOGNIZER = """
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor', mean={mean}, std={std}, format_shape='NCTHW'),
    backbone=dict(
        type='sparseformer_mm.SparseFormer', spatial_dims=3, token_inflation=2,
        out_type='featmap', {arch}),
    cls_head=dict(type='I3DHead', in_channels=16, num_classes=3, average_clips='prob'))
test_pipeline = [
    dict(type='OpenCVInit'),
    dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=2,
         test_mode=True),
    dict(type='OpenCVDecode'),
    dict(type='Resize', scale=(32, 24), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')]
test_dataloader = dict(dataset=dict(
    type='VideoDataset', data_root=r'{root}', ann_file='val.txt',
    data_prefix=dict(video=''), pipeline=test_pipeline, test_mode=True))
"""


def _noise(seed: int, height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))


def classification(root: Path) -> str:
    """Pictures of 48 x 32 pixels in three class folders, and boxes of two of them."""
    for seed, name in enumerate(f'{c}/{i}.png' for c in CLASSES for i in range(2)):
        (root / 'val' / name).parent.mkdir(parents=True, exist_ok=True)
        _noise(seed, 32, 48).save(root / 'val' / name)
    boxes = {f'val/{name}': [box] for name, box in BOXES.items()}
    (root / 'val_boxes.json').write_text(json.dumps(boxes))
    arch = ARCH.format(tokens=6, repeats=2)
    return CLASSIFIER.format(root=root, arch=arch, mean=MEAN, std=STD)


def detection(root: Path) -> str:
    """A toy COCO, whose pictures the network sees 96 pixels long."""
    return toy_detector.make_toy(root).read_text()


def segmentation(root: Path) -> str:
    """A picture of 60 x 32 pixels with a mask, and the same without."""
    for folder in ('img', 'ann', 'other'):
        (root / folder).mkdir()
    for folder in ('img', 'other'):
        _noise(0, 32, 60).save(root / folder / 'a.png')
    mask = np.full((32, 60), 255, np.uint8)
    mask[:16, :20], mask[16:, 20:] = 1, 2
    Image.fromarray(mask).save(root / 'ann/a.png')
    arch = ARCH.format(tokens=9, repeats=1)
    return SEGMENTOR.format(
        root=root, arch=arch, mean=MEAN, std=STD, palette=PALETTE
    )  # fmt: skip


def box_of(frame: int) -> list:
    """Of the object in the video, in pixels of 48 x 40."""
    return [2 + 2 * frame, 6 + frame, 14 + 2 * frame, 20 + frame]


def video(root: Path) -> str:
    """Two videos, one of them known, as files and as frames."""
    import cv2

    rng = np.random.default_rng(0)
    for name in ('known', 'other'):
        plain = rng.integers(0, 120, (5, 6, 3), dtype=np.uint8)
        background = cv2.resize(plain, (48, 40))
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        writer = cv2.VideoWriter(str(root / f'{name}.mp4'), codec, 10, (48, 40))
        for frame in range(NUM_FRAMES):
            picture = background.copy()
            x1, y1, x2, y2 = box_of(frame)
            picture[y1:y2, x1:x2] = (40, 200, 250)
            writer.write(picture)
        writer.release()
        (root / f'frames/{name}').mkdir(parents=True)
        reader = cv2.VideoCapture(str(root / f'{name}.mp4'))
        for frame in range(NUM_FRAMES):  # as they are after the codec
            path = root / f'frames/{name}/img_{frame + 1:05}.png'
            assert cv2.imwrite(str(path), reader.read()[1])
    (root / 'val.txt').write_text('known.mp4 2\n')
    (root / 'frames.txt').write_text('frames/known 12 1\n')
    boxes = [[*box_of(frame), 2] for frame in range(NUM_FRAMES)]
    (root / 'val_boxes.json').write_text(json.dumps({'known.mp4': boxes}))
    (root / 'classes.txt').write_text(''.join(f'{name}\n' for name in MOTIONS))
    arch = ARCH.format(tokens=4, repeats=1)
    return RECOGNIZER.format(root=root, arch=arch, mean=MEAN, std=STD)


class Toy(SimpleNamespace):
    """What a test needs of one task: ``root``, ``config``, ``weights``, ``host``."""

    def __init__(self, task: str, root: Path):
        super().__init__(root=root, config=root / 'toy.py', weights=root / 'model.pth')
        self.config.write_text(globals()[task](root))
        cfg = Config.fromfile(self.config)
        self.host = host_of(cfg)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            torch.manual_seed(0)
            model = MODELS.build(cfg.model)
        with torch.no_grad():  # as if trained: nothing is zero, no two tokens agree
            for name, param in model.named_parameters():
                scale = 0.02 if 'token_rois' in name else 0.1
                param.add_(torch.randn_like(param) * scale)
        meta = dict(dataset_meta=dict(classes=CLASSES)) if task == TASKS[0] else {}
        torch.save(dict(state_dict=model.state_dict(), meta=meta), self.weights)

    def derive(self, folder: Path, *replacements, end: str = '') -> Path:
        """The config with other words, of the same name in another folder."""
        text = self.config.read_text()
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        (folder / 'toy.py').write_text(text + end)
        return folder / 'toy.py'

    def model(self, config: Path = None):
        return load_model(Config.fromfile(config or self.config), str(self.weights))

    def see(self, path, choice=None, truth='auto', how=None, config=None, view=0):
        """A look at a picture, disturbed by the arguments ``how``, or at a video."""
        cfg = Config.fromfile(config or self.config)
        if self.host.takes_videos:
            source = self.host.read_clip(path, cfg, view)
        else:
            image = read_picture(path)
            source = Picture(path, image, disturb(image, **how) if how else None)
        model = self.model(config)
        choice = choice or Choice()
        return look_at(model, self.host, source, Truth(cfg, truth), choice), model


TASKS = ('classification', 'detection', 'segmentation', 'video')


def read(path: Path) -> np.ndarray:
    """A picture, (H, W, 3) RGB uint8."""
    return np.asarray(Image.open(path).convert('RGB'))


@torch.no_grad()
def by_hand(model, pixels: np.ndarray):
    """What a backbone says to RGB pictures ([T,] H, W, 3), without its library."""
    x = (torch.from_numpy(pixels.copy()) - torch.tensor(MEAN)) / torch.tensor(STD)
    return model.backbone.forward_intermediates(x.movedim(-1, 0)[None])


def corners(rois) -> np.ndarray:
    """(N, 4) or (N, 6), center and size -> (N, 4) x1, y1, x2, y2."""
    rois = np.asarray(rois, dtype=float)
    center, size = rois[:, :2], rois[:, rois.shape[1] // 2 :][:, :2]
    return np.concatenate([center - size / 2, center + size / 2], 1)


def assert_rois(rectangles, rois) -> None:
    """Rectangles are where RoIs, center and size, are."""
    np.testing.assert_allclose(rectangles.corners, corners(rois), atol=1e-5)
