"""FocusHook in trainings of all four libraries."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.runner import Runner
from PIL import Image

from helpers.toy_classifier import make_data, write_config  # noqa: E402
from sparseformer_mm.engine.datasets import own_randomness
from sparseformer_mm.visualization import FocusHook
from sparseformer_mm.visualization import hook as focus_hook
from sparseformer_mm.visualization.figures import kind_panels
from sparseformer_mm.visualization.recording import stages_of
from sparseformer_mm.visualization.samples import load_samples, look_at_sample
from sparseformer_mm.visualization.statistics import stage_statistics

HOOK = 'sparseformer_mm.visualization.FocusHook'
SHOWN = [1, 5, 9, 13]  # of 15, in the middle of four equal parts
BOX = (4, 8, 20, 28)
NAMES = ('focusing.0', 'focusing.1', 'cortex.0')


def train(config: Path, work_dir: Path, hooks=(), change=lambda cfg: None) -> Runner:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        dict(work_dir=str(work_dir), custom_hooks=list(hooks), log_level='WARNING')
    )
    cfg.experiment_name = str(work_dir)  # what mmengine keeps objects of a run by
    change(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def hook_of(runner: Runner) -> FocusHook:
    return next(hook for hook in runner.hooks if isinstance(hook, FocusHook))


def rows(work_dir: Path, key: str) -> list:
    """Lines of the scalars' file which have a key."""
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if key in line]


def pictures(work_dir: Path) -> dict:
    """Files of the local backend, as (H, W, 3) RGB, by name."""
    files = sorted(work_dir.glob('*/vis_data/vis_image/*'))
    return {file.name: np.asarray(Image.open(file)) for file in files}


# --------------------------------------------------------------- classification


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """A config, and boxes of three of the four pictures that get shown."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('focus')
    config = write_config(folder / 'toy.py', make_data(folder / 'data'))
    boxes = {
        f'val/class{i // 5}/{i % 5}.png': [[*BOX, i // 5]]
        for i in range(15)
        if i != SHOWN[1]
    }
    (folder / 'data/val_boxes.json').write_text(json.dumps(boxes))
    return config


def restless(cfg: Config) -> None:
    """Random numbers in the model, the training's and the validation's pipeline."""
    cfg.model.backbone.drop_path_rate = 0.5
    erase = dict(type='RandomErasing', erase_prob=1.0, mode='rand')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        load, pack = loader.dataset.pipeline
        loader.dataset.pipeline = [load, erase, pack]
    cfg.train_cfg.max_epochs = 2
    cfg.log_level = 'INFO'
    backends = [dict(type=f'{kind}VisBackend') for kind in ('Local', 'Tensorboard')]
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=backends)


@pytest.fixture(scope='module')
def shown(toy, tmp_path_factory):
    """A training of two epochs that shows both."""
    work_dir = tmp_path_factory.mktemp('shown')
    hook = dict(type=HOOK, boxes=str(toy.parent / 'data/val_boxes.json'))
    return train(toy, work_dir, [hook], restless), work_dir


@torch.no_grad()
def by_hand(backbone, inputs: list, boxes: list) -> dict:
    """Scalars of pictures, each (3, H, W) as the network gets it."""
    expected: dict = {}
    for picture, own in zip(inputs, boxes):
        stages = stages_of(backbone.eval().forward_intermediates(picture[None]).stages)
        for numbers in stage_statistics(stages, own, picture.shape[:0:-1]):
            numbers = numbers._asdict()
            name = numbers.pop('name')
            del numbers['points']
            numbers['entropy'] = numbers.pop('entropy_bits')
            numbers['focus'] = numbers.pop('in_boxes')
            for key, value in numbers.items():
                if value is not None:
                    expected.setdefault(f'focus/{name}/{key}', []).append(value)
    expected = {key: float(np.mean(values)) for key, values in expected.items()}
    first, last = (f'focus/{name}/focus' for name in NAMES[::2])
    if first in expected:
        expected['focus/gain'] = expected[last] - expected[first]
    return expected


def normalised(dataset, indices, flip=True) -> list:
    """Inputs of a data set as the toy configs' preprocessors prepare them."""
    inputs = [dataset[i]['inputs'].float() for i in indices]
    return [((x.flip(0) if flip else x) - 127.5) / 64 for x in inputs]


@pytest.mark.mmpretrain
def test_scalars_are_those_of_the_stages(shown):
    runner, work_dir = shown
    assert [row['step'] for row in rows(work_dir, 'focus/gain')] == [0, 1, 2]
    with own_randomness():  # the erased parts are random
        dataset = runner.val_dataloader.dataset
        inputs = normalised(dataset, SHOWN, flip=False)
    box = np.array(BOX) / 32
    boxes = [[] if i == SHOWN[1] else [box] for i in SHOWN]
    expected = by_hand(runner.model.backbone, inputs, boxes)
    assert len(expected) == 6 * len(NAMES) + 1
    assert rows(work_dir, 'focus/gain')[-1] == pytest.approx(
        dict(expected, step=2), abs=1e-5
    )
    (log,) = (file.read_text() for file in work_dir.glob('*/*.log'))
    for step, row in enumerate(rows(work_dir, 'focus/gain')):
        first, last = (row[f'focus/{name}/outside'] for name in NAMES[::2])
        (line,) = (x for x in log.splitlines() if f'Focus [epoch {step}]  ' in x)
        assert f'  gain: {row["focus/gain"]:+.4f}  roi_width: ' in line
        assert f'  outside: {first:.4f} -> {last:.4f}  ' in line


@pytest.mark.mmpretrain
def test_pictures_of_the_same_samples_reach_the_local_backend(shown):
    _, work_dir = shown
    found = pictures(work_dir)
    assert sorted(found) == [
        f'focus_{kind}_{step}.png'
        for kind in ('density', 'points')
        for step in range(3)
    ]
    width, height = 20 + 4 * 272, 18 + 4 * 272
    assert {image.shape for image in found.values()} == {(height, width, 3)}
    # Of each sample, the picture itself: a red one, two green, a blue one.
    for step in range(3):
        sheet = found[f'focus_points_{step}.png']
        tiles = [sheet[26 + 272 * i :, 28:][:256, :256] for i in range(4)]
        colours = np.array([tile.mean((0, 1)) for tile in tiles])
        assert colours.argmax(1).tolist() == [0, 1, 1, 2]
        first = found['focus_points_0.png'][:, :292]
        assert (sheet[:, :292] == first).all()
    assert (found['focus_points_2.png'] != found['focus_points_0.png']).any()


@pytest.mark.mmpretrain
def test_tensorboard_shows_the_same(shown):
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator'
    )
    _, work_dir = shown
    (file,) = work_dir.glob('*/vis_data/events.out.*')
    events = accumulator.EventAccumulator(str(file), {'images': 0, 'scalars': 0})
    events.Reload()
    assert sorted(events.Tags()['images']) == ['focus_density', 'focus_points']
    for image in ('focus_density', 'focus_points'):
        assert [event.step for event in events.Images(image)] == [0, 1, 2]
    local = rows(work_dir, 'focus/gain')
    for key in ('focus/gain', 'focus/focusing.1/outside', 'focus/cortex.0/entropy'):
        assert [event.value for event in events.Scalars(key)] == pytest.approx(
            [row[key] for row in local], rel=1e-6
        )


@pytest.mark.mmpretrain
def test_the_training_is_the_same_without(toy, shown, tmp_path):
    runner, work_dir = shown
    other = train(toy, tmp_path, change=restless)
    for key, count in (('loss', 8), ('accuracy/top1', 2)):
        with_hook, without = (
            [row[key] for row in rows(folder, key)] for folder in (work_dir, tmp_path)
        )
        assert with_hook == without and len(without) == count
    weights = other.model.state_dict()
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not pictures(tmp_path) and not rows(tmp_path, 'focus/cortex.0/outside')


@pytest.mark.mmpretrain
def test_averaged_weights_are_shown(toy, tmp_path):
    def change(cfg):
        cfg.train_cfg.max_epochs = 3

    # In either order, every second epoch.
    hooks = [dict(type=HOOK, interval=2, boxes=False, what='rois')]
    hooks.append(dict(type='EMAHook', momentum=0.1))
    runner = train(toy, tmp_path, hooks, change)
    found = rows(tmp_path, 'focus/cortex.0/outside')
    assert [row['step'] for row in found] == [0, 2]
    assert sorted(pictures(tmp_path)) == ['focus_rois_0.png', 'focus_rois_2.png']
    assert 'focus/gain' not in found[0]

    saved = torch.load(tmp_path / 'epoch_2.pth', map_location='cpu', weights_only=False)
    inputs = normalised(runner.val_dataloader.dataset, SHOWN, flip=False)
    matches = []
    for weights in (
        saved['state_dict'],  # the averaged ones; EMAHook exchanges them
        {k[7:]: v for k, v in saved['ema_state_dict'].items() if k != 'steps'},
    ):
        runner.model.load_state_dict(weights)
        expected = by_hand(runner.model.backbone, inputs, [[]] * 4)
        matches.append(found[1] == pytest.approx(dict(expected, step=2), abs=1e-5))
    assert matches == [True, False]


@pytest.mark.mmpretrain
def test_a_look_leaves_modes_gradients_and_randomness_alone(shown, monkeypatch):
    runner, _ = shown
    hook, model = hook_of(runner), runner.model.train()
    model.backbone.stem.eval()
    modes = [module.training for module in model.modules()]
    batch = hook._samples[0].batch
    before = batch['inputs'][0].clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    look = look_at_sample(model, hook._samples[0])
    sent = []
    visualizer = SimpleNamespace(_vis_backends=['one'])
    visualizer.add_image = visualizer.add_scalars = lambda *args: sent.append(args)
    monkeypatch.setattr(runner, 'visualizer', visualizer)
    hook._show(runner, 7)
    assert [args[0] for args in sent[:2]] == ['focus_points', 'focus_density']
    assert [args[-1] for args in sent] == [7] * 3
    assert [module.training for module in model.modules()] == modes
    assert all(isinstance(stage.points, np.ndarray) for stage in look.stages)
    assert torch.equal(batch['inputs'][0], before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    # In a process beside the main one nothing happens.
    monkeypatch.setattr(focus_hook, 'is_main_process', lambda: False)
    other = FocusHook()
    other.before_train(runner)
    other._show(runner, 8)
    assert not other._samples and len(sent) == 3


# ------------------------------------------------------------- the other libraries


@pytest.mark.mmdet
def test_a_detector_with_its_own_boxes(tmp_path):
    pytest.importorskip('mmdet')
    from helpers import toy_detector

    def change(cfg):
        cfg.model.data_preprocessor.pad_size_divisor = 32
        cfg.val_dataloader.dataset.test_mode = True

    hook = dict(type=HOOK, interval=4, by_epoch=False, num_samples=8, what='points')
    config = toy_detector.make_toy(tmp_path, epochs=2)
    runner = train(config, tmp_path / 'run', [hook], change)
    found = rows(tmp_path / 'run', 'focus/gain')
    assert [row['step'] for row in found] == [0, 4]
    boxes = [
        [np.divide([x, y, x + w, y + h], [width, height] * 2)
         for _, x, y, w, h, _ in objects]
        for height, width, objects in toy_detector.SCENES
    ]  # fmt: skip
    inputs = normalised(runner.val_dataloader.dataset, range(8))
    assert len({x.shape for x in inputs}) > 3
    expected = by_hand(runner.model.backbone, inputs, boxes)
    assert found[-1] == pytest.approx(dict(expected, step=4), abs=1e-4)
    sheet = pictures(tmp_path / 'run')['focus_points_4.png']
    # Enlarged three times, without the padding.
    heights = [16 + 3 * x.shape[1] for x in inputs]
    assert sheet.shape[0] == 18 + sum(heights)


@pytest.mark.mmseg
def test_a_segmentor_counts_iterations(tmp_path):
    pytest.importorskip('mmseg')
    from helpers import toy_segmentor

    config = toy_segmentor.make_toy(tmp_path, iterations=2)
    hook = dict(type=HOOK, by_epoch=False, interval=2, what=('rois', 'density'))
    runner = train(config, tmp_path / 'run', [hook])
    with pytest.raises(ValueError, match='counts iterations: give by_epoch=False'):
        FocusHook().before_train(runner)
    (*_, last) = rows(tmp_path / 'run', 'focus/cortex.0/outside')
    inputs = normalised(runner.val_dataloader.dataset, [1, 3, 5, 7])
    expected = by_hand(runner.model.backbone, inputs, [[]] * 4)
    assert last == pytest.approx(dict(expected, step=2), abs=1e-4)
    assert sorted(pictures(tmp_path / 'run')) == [
        f'focus_{kind}_{step}.png' for kind in ('density', 'rois') for step in (0, 2)
    ]


@pytest.mark.mmaction
def test_a_recognizer_of_videos(tmp_path):
    pytest.importorskip('sparseformer_mm.video.compat')
    from helpers import toy_video

    hook = dict(type=HOOK, what=('points', 'rois'), num_samples=3)
    config = toy_video.make_toy(tmp_path, epochs=1)
    runner = train(config, tmp_path / 'run', [hook])
    _, last = rows(tmp_path / 'run', 'focus/cortex.0/roi_length')
    hook = hook_of(runner)
    lengths, outside = [], []
    for sample in hook._samples:
        clip = sample.batch['inputs'][0]  # one view
        assert clip.shape == (1, 3, 8, 24, 24)
        assert (sample.image == clip[0, :, 4].permute(1, 2, 0).numpy()).all()
        with torch.no_grad():
            backbone = runner.model.eval().backbone
            stages = backbone.forward_intermediates((clip - 127.5) / 64).stages
        lengths.append(float(stages[0].rois[..., 5].mean()))
        out = (stages[-1].points - 0.5).abs().amax(-1) > 0.5
        outside.append(float(out.float().mean()))
    assert last['focus/focusing.0/roi_length'] == pytest.approx(np.mean(lengths))
    assert last['focus/cortex.0/outside'] == pytest.approx(np.mean(outside))
    assert len(pictures(tmp_path / 'run')) == 4

    # On the middle frame, the tubes that are there at its time.
    look = look_at_sample(runner.model, hook._samples[0])
    assert look.frame.time == 4.5 / 8
    panels = kind_panels(look, 'rois', 0.05)
    assert [panel.title for panel in panels] == ['image', *NAMES]
    rois = look.stages[0].rois
    start, end = rois[:, 2] - rois[:, 5] / 2, rois[:, 2] + rois[:, 5] / 2
    there = (start <= 4.5 / 8) & (end >= 4.5 / 8)
    assert 0 < there.sum() < len(there)
    corners = panels[1].rectangles[0].corners
    assert np.allclose(corners[:, 0], (rois[:, 0] - rois[:, 3] / 2)[there])

    boxes = tmp_path / 'boxes.json'
    boxes.write_text(json.dumps({'data/val/002': [[0, 0, 9, 9, 0]]}))
    with pytest.raises(ValueError, match='no boxes that move with time'):
        load_samples(runner.val_dataloader, 3, boxes)


# ---------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(what='tokens'), "what='tokens' is unknown"),
        (dict(interval=0), 'interval=0 must be at least 1'),
        (dict(num_samples=101), 'num_samples=101 must be between 1 and 100'),
        (dict(boxes=True), 'boxes=True says not which'),
        (dict(bandwidth=0), 'bandwidth=0 must be above 0'),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        FocusHook(**wrong)


def no_sparseformer(cfg):
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.neck = dict(type='GlobalAveragePooling')
    cfg.model.head.in_channels = 512


def no_validation(cfg):
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None


def no_backend(cfg):
    cfg.visualizer = dict(type='UniversalVisualizer', vis_backends=[])


@pytest.mark.mmpretrain
@pytest.mark.parametrize(
    'change, message',
    [
        (no_sparseformer, 'a ResNet and has no tokens.*remove the hook, or give'),
        (no_validation, 'samples from the validation set, and there is none'),
        (no_backend, "no backend: give it vis_backends=.*'LocalVisBackend'"),
    ],
)
def test_complaints_before_the_training(toy, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(toy, tmp_path, [dict(type=HOOK)], change)
    assert not list(tmp_path.glob('*/vis_data/scalars.json'))


@pytest.mark.mmpretrain
def test_boxes_that_do_not_fit(toy, shown, tmp_path, monkeypatch):
    loader = shown[0].val_dataloader
    other = tmp_path / 'boxes.json'
    other.write_text(json.dumps({'train/class0/0.png': [[*BOX, 0]]}))
    for boxes, message in (
        (tmp_path / 'none.json', 'none.json is no file of boxes that can be read'),
        (other, 'has none of the samples, for instance .*val/cl'),
    ):
        with pytest.raises(ValueError, match=message):
            load_samples(loader, 4, boxes)
    crop = Compose([dict(type='mmpretrain.CenterCrop', crop_size=16)]).transforms
    steps = loader.dataset.pipeline.transforms
    monkeypatch.setattr(
        loader.dataset.pipeline, 'transforms', [steps[0], *crop, steps[-1]]
    )
    with pytest.raises(ValueError, match='crops or flips .*class0/1.png.*boxes=False'):
        load_samples(loader, 4, toy.parent / 'data/val_boxes.json')


def test_weights_that_are_shared_out(monkeypatch):
    class Sharded(torch.nn.Module):
        pass

    monkeypatch.setattr(focus_hook, 'is_model_wrapper', lambda model: True)
    with pytest.raises(ValueError, match='one process, and Sharded may share'):
        FocusHook()._check(SimpleNamespace(model=Sharded()))
