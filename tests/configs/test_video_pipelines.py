"""What the pipelines of the video configs make of a video: which frames, which part
of them, and what becomes of several views."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.registry import MODELS, TRANSFORMS  # noqa: E402

from helpers.shipped_configs import load as load_config  # noqa: E402
from helpers.shipped_configs import loaders  # noqa: E402

pytestmark = pytest.mark.mmaction
K400 = 'sparseformer-tiny_32xb8-32x4-50e_k400'
STHV2 = 'sparseformer-tiny_32xb8-uniform32-50e_sthv2'
NANO = 'sparseformer-nano_1xb8_fight2'


def load(name: str) -> Config:
    return load_config(f'video/{name}')


def make_video(length: int, height: int, width: int) -> np.ndarray:
    """Red and green are the frame's number, blue is the column."""
    video = np.zeros((length, height, width, 3), np.uint8)
    number = np.arange(length)[:, None, None]
    video[..., 0], video[..., 1] = number % 200, number // 200
    video[..., 2] = np.arange(width) * 255 // width
    return video


def run(pipeline: list, video: np.ndarray) -> torch.Tensor:
    """What the model gets of a video, (views, 3, T, H, W)."""
    return Compose(pipeline)(dict(array=video, label=0))['inputs']


def frame_numbers(clips: torch.Tensor) -> np.ndarray:
    """(views, T), of clips that are not augmented."""
    red, green = clips[:, 0].long(), clips[:, 1].long()
    return (red + 200 * green)[:, :, 7, 7].numpy()


def test_kinetics_views():
    cfg, video = load(K400), make_video(301, 224, 272)
    views = run(cfg.test_pipeline, video)
    assert views.shape == (12, 3, 32, 224, 224) and views.dtype == torch.uint8
    numbers = frame_numbers(views)
    # A stride of 4, from four starts spread over the video ...
    assert (np.diff(numbers) == 4).all()
    assert sorted(set(numbers[:, 0].tolist())) == [0, 59, 117, 176]
    # ... and of each clip the left, the middle and the right.
    columns = views[:, 2, 0, 0, 0].numpy()
    cells = {(n, c) for n, c in zip(numbers[:, 0].tolist(), columns.tolist())}
    edges = {int(x) * 255 // 272 for x in (0, 24, 48)}
    assert cells == {(n, c) for n in (0, 59, 117, 176) for c in edges}

    (view,) = run(cfg.val_dataloader.dataset.pipeline, video)[None]
    assert view.shape == (1, 3, 32, 224, 224)
    assert frame_numbers(view)[0].tolist() == list(range(88, 88 + 125, 4))
    assert view[0, 2, 0, 0, 0] == 24 * 255 // 272


def test_kinetics_videos_shorter_than_the_clip():
    """They are repeated."""
    views = run(load(K400).test_pipeline, make_video(50, 224, 272))
    assert views.shape == (12, 3, 32, 224, 224)
    expected = (np.arange(32) * 4) % 50
    assert (frame_numbers(views) == expected).all()


@pytest.mark.parametrize('name', [K400, STHV2, NANO])
def test_training_does_not_move_still_frames(name):
    """Augmentation is the same for all frames, or it would make up motion."""
    cfg = load(name)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomErasing':
            step.erase_prob = 0.0  # its noise is drawn for each frame
    noise = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8)
    still = np.repeat(cv2.resize(noise[0], (320, 240))[None], 140, 0)
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
    results = []
    for seed in range(4):
        np.random.seed(seed)
        torch.manual_seed(seed)
        results.append(pipeline(dict(array=still, label=0))['inputs'])
    side, length = (112, 16) if name == NANO else (224, 32)
    for clip in results:
        assert clip.shape == (1, 3, length, side, side)
        assert (clip == clip[:, :, :1]).all()
    assert not torch.equal(results[0], results[1])


def sample(pipeline: list, length: int) -> np.ndarray:
    """The frames that the first step of a pipeline picks."""
    video = np.zeros((length, 2, 2, 3), np.uint8)
    return Compose(pipeline[:1])(dict(array=video))['frame_inds']


def test_kinetics_training_clips():
    pipeline = load(K400).train_dataloader.dataset.pipeline
    np.random.seed(0)
    starts = set()
    for _ in range(200):
        frames = sample(pipeline, 300)
        assert len(frames) == 32 and (np.diff(frames) == 4).all()
        starts.add(frames[0])
    # Anywhere: the clip's 128 frames end inside the video.
    assert min(starts) < 10 and 160 < max(starts) <= 300 - 128


@pytest.mark.parametrize(
    'name, count, length', [(STHV2, 32, 161), (STHV2, 32, 40), (NANO, 16, 57)]
)
def test_one_frame_per_segment(name, count, length):
    cfg = load(name)
    edges = np.linspace(0, length - 1, count + 1).round()
    np.random.seed(0)
    picks = [sample(cfg.train_dataloader.dataset.pipeline, length) for _ in range(300)]
    assert {len(pick) for pick in picks} == {count}
    low, high = np.min(picks, 0), np.max(picks, 0)
    # Every frame of a segment is met, and none outside.
    assert (low == edges[:-1]).all() and (high == edges[1:]).all()
    centers = (np.arange(count) + 0.5) * (length - 1) / count
    for loader in loaders(cfg)[1:]:
        (frames,) = {tuple(sample(loader.dataset.pipeline, length)) for _ in range(3)}
        # mmaction2 rounds the start of a segment and cuts half its length.
        assert (abs(frames - centers) < 1.5).all()
        assert (edges[:-1] <= frames).all() and (frames <= edges[1:]).all()


@pytest.mark.parametrize('name, count', [(STHV2, 32), (NANO, 16)])
@pytest.mark.parametrize('length', [1, 5])
def test_segments_of_short_videos_repeat_frames_in_order(name, count, length):
    for loader in (load(name).train_dataloader, load(name).test_dataloader):
        frames = sample(loader.dataset.pipeline, length)
        assert len(frames) == count and (np.diff(frames) >= 0).all()
        assert frames[0] == 0 and frames[-1] >= length - 2


def test_something_something_is_not_flipped_and_has_three_views():
    cfg = load(STHV2)
    for loader in loaders(cfg):
        assert 'Flip' not in [step.type for step in loader.dataset.pipeline]
    kinetics = {s.type: s for s in load(K400).train_dataloader.dataset.pipeline}
    assert kinetics['Flip'].flip_ratio == 0.5
    views = run(cfg.test_pipeline, make_video(64, 224, 272))
    assert views.shape == (3, 3, 32, 224, 224)
    assert sorted(views[:, 2, 0, 0, 0].tolist()) == [
        x * 255 // 272 for x in (0, 24, 48)
    ]


def test_one_frame_is_the_middle_one():
    cfg = load('sparseformer-nano-1frame_1xb16_digits')
    clip = np.arange(16, dtype=np.uint8)[:, None, None, None]
    step = TRANSFORMS.build(cfg.test_dataloader.dataset.pipeline[0])
    frames = clip.repeat(52, 1).repeat(52, 2).repeat(3, 3)
    results = step(dict(array=frames, modality='RGB', start_index=0))
    assert [int(image[0, 0, 0]) for image in results['imgs']] in ([7], [8])


class ClipMean(torch.nn.Module):
    """Features (B, 512, 1, 1, 1) that tell clips apart."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(clips))
        mean = clips.flatten(1).mean(1, keepdim=True)
        return torch.sin(mean * torch.arange(1, 513))[..., None, None, None]


def test_probabilities_of_the_views_are_averaged():
    cfg = load(K400)
    cfg.model.cls_head.init_std = 1.0
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.cls_head.init_weights()
    model.backbone = ClipMean()
    data = Compose(cfg.test_pipeline)(dict(array=make_video(301, 224, 272), label=3))
    preprocessor = model.data_preprocessor
    with torch.no_grad():
        clips = (data['inputs'] - preprocessor.mean) / preprocessor.std
        probabilities = model.cls_head(model.backbone(clips)).softmax(1)
        (result,) = model.test_step(
            dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        )
    assert model.backbone.batches == [12, 4, 4, 4]
    assert probabilities.shape == (12, 400) and probabilities.std(0).max() > 0.1
    torch.testing.assert_close(result.pred_score, probabilities.mean(0))
