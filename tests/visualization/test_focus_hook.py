"""FocusHook in trainings of all four libraries."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from PIL import Image

from helpers.toy_training import ROOT, make_data, run, write_config  # noqa: E402
from sparseformer_mm.visualization import FocusHook
from sparseformer_mm.visualization import hook as focus_hook
from sparseformer_mm.visualization.density import density_map, entropy_bits
from sparseformer_mm.visualization.samples import look_at, own_randomness

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


def by_hand(backbone, inputs: list, boxes: list) -> dict:
    """Scalars of pictures, each (3, H, W) as the network gets it."""
    expected: dict = {}
    shares: list = []
    backbone = backbone.eval()
    for picture, boxes_of_one in zip(inputs, boxes):
        with torch.no_grad():
            stages = backbone.forward_intermediates(picture[None]).stages
        found = []
        for stage in stages:
            rois, points = stage.rois[0], stage.points[0].flatten(0, 1)
            size = picture.shape[:0:-1]
            off = rois[:, :2] - rois[:, :2].mean(0)
            numbers = dict(
                roi_width=rois[:, 2].mean(),
                roi_height=rois[:, 3].mean(),
                center_spread=off.pow(2).sum(1).mean().sqrt(),
                outside=((points - 0.5).abs().amax(1) > 0.5).float().mean(),
                entropy=entropy_bits(density_map(points.numpy(), size)),
            )
            if len(boxes_of_one):
                inside = [
                    (points[:, 0] >= x1)
                    & (points[:, 0] <= x2)
                    & (points[:, 1] >= y1)
                    & (points[:, 1] <= y2)
                    for x1, y1, x2, y2 in boxes_of_one
                ]
                numbers['focus'] = torch.stack(inside).any(0).float().mean()
                found.append(float(numbers['focus']))
            for key, value in numbers.items():
                key = f'focus/{stage.name}/{key}'
                expected.setdefault(key, []).append(float(value))
        if found:
            shares.append(found[-1] - found[0])
    if shares:
        expected['focus/gain'] = shares
    return {key: float(np.mean(values)) for key, values in expected.items()}


def normalised(dataset, indices, flip=True) -> list:
    """Inputs of a data set as the toy configs' preprocessors prepare them."""
    inputs = [dataset[i]['inputs'].float() for i in indices]
    return [((x.flip(0) if flip else x) - 127.5) / 64 for x in inputs]


def scalars_of(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != 'step'}


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
    found = scalars_of(rows(work_dir, 'focus/gain')[-1])
    assert found == pytest.approx(expected, abs=1e-5)
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
    assert [row['loss'] for row in rows(work_dir, 'loss')] == [
        row['loss'] for row in rows(tmp_path, 'loss')
    ]
    assert len(rows(tmp_path, 'loss')) == 8
    accuracy = 'accuracy/top1'
    assert (
        rows(work_dir, accuracy)[-1][accuracy] == rows(tmp_path, accuracy)[-1][accuracy]
    )
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
        matches.append(scalars_of(found[1]) == pytest.approx(expected, abs=1e-5))
    assert matches == [True, False]
    assert any(isinstance(hook, EMAHook) for hook in runner.hooks)


@pytest.mark.mmpretrain
def test_a_look_leaves_modes_gradients_and_randomness_alone(toy, tmp_path):
    runner = train(toy, tmp_path, [dict(type=HOOK, num_samples=2)])
    hook, model = hook_of(runner), runner.model.train()
    model.backbone.stem.eval()
    modes = [module.training for module in model.modules()]
    batch = hook._samples[0].batch
    before = batch['inputs'][0].clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    look = look_at(model, hook._samples[0])
    hook._show(runner, 7)
    assert [module.training for module in model.modules()] == modes
    assert not any(stage.points.requires_grad for stage in look.stages)
    assert torch.equal(batch['inputs'][0], before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


@pytest.mark.mmpretrain
def test_only_the_main_process_looks(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(focus_hook, 'is_main_process', lambda: False)
    runner = train(toy, tmp_path, [dict(type=HOOK)])
    assert hook_of(runner)._samples == [] and not pictures(tmp_path)
    assert not rows(tmp_path, 'focus/cortex.0/outside')


@pytest.mark.mmpretrain
@pytest.mark.slow
def test_two_processes_show_once(toy, tmp_path):
    from helpers.toy_training import free_port

    config = tmp_path / 'two.py'
    config.write_text(toy.read_text() + f'\ncustom_hooks = [dict(type={HOOK!r})]\n')
    log = run(
        ['bash', ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path],
        tmp_path,
        PORT=free_port(),
        CUDA_VISIBLE_DEVICES='-1',
    )
    assert log.count('Focus [epoch 0]') == log.count('Focus [epoch 1]') == 1
    assert 'roi_width: 0.5000 -> ' in log
    assert len(pictures(tmp_path)) == 4
    found = rows(tmp_path, 'focus/cortex.0/outside')
    assert [row['step'] for row in found] == [0, 1]


# ------------------------------------------------------------- the other libraries


@pytest.mark.mmdet
def test_a_detector_with_its_own_boxes(tmp_path):
    pytest.importorskip('mmdet')
    from helpers import toy_detector

    def change(cfg):
        cfg.model.data_preprocessor.pad_size_divisor = 32
        cfg.val_dataloader.dataset.test_mode = True

    hook = dict(type=HOOK, interval=2, by_epoch=False, num_samples=8)
    config = toy_detector.make_toy(tmp_path, epochs=2)
    runner = train(config, tmp_path / 'run', [hook], change)
    found = rows(tmp_path / 'run', 'focus/gain')
    assert [row['step'] for row in found] == [0, 2, 4]
    boxes = [
        [
            (x / width, y / height, (x + w) / width, (y + h) / height)
            for _, x, y, w, h, _ in objects
        ]
        for height, width, objects in toy_detector.SCENES
    ]
    inputs = normalised(runner.val_dataloader.dataset, range(8))
    assert len({x.shape for x in inputs}) > 3
    expected = by_hand(runner.model.backbone, inputs, boxes)
    assert scalars_of(found[-1]) == pytest.approx(expected, abs=1e-4)
    sheet = pictures(tmp_path / 'run')['focus_points_4.png']
    # Enlarged three times, without the padding.
    heights = [16 + 3 * x.shape[1] for x in inputs]
    assert sheet.shape[0] == 18 + sum(heights)


@pytest.mark.mmseg
def test_a_segmentor_counts_iterations(tmp_path):
    pytest.importorskip('mmseg')
    from helpers import toy_segmentor

    config = toy_segmentor.make_toy(tmp_path, iterations=2)
    with pytest.raises(ValueError, match='counts iterations: give by_epoch=False'):
        train(config, tmp_path / 'wrong', [dict(type=HOOK)])
    hook = dict(type=HOOK, by_epoch=False, interval=2, what=('rois', 'density'))
    runner = train(config, tmp_path / 'run', [hook])
    (*_, last) = rows(tmp_path / 'run', 'focus/cortex.0/outside')
    inputs = normalised(runner.val_dataloader.dataset, [1, 3, 5, 7])
    expected = by_hand(runner.model.backbone, inputs, [[]] * 4)
    assert last.pop('step') == 2
    assert last == pytest.approx(expected, abs=1e-4)
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
    look = look_at(runner.model, hook._samples[0])
    assert look.time == 4.5 / 8
    panels = focus_hook._panels(look, 'rois', 0.05)
    assert [panel.title for panel in panels] == ['image', *NAMES]
    rois = look.stages[0].rois[0]
    there = (rois[:, 2] - rois[:, 5] / 2 <= 4.5 / 8) & (
        rois[:, 2] + rois[:, 5] / 2 >= 4.5 / 8
    )
    assert 0 < there.sum() < len(there)
    corners = panels[1].frames[0].corners
    assert np.allclose(corners[:, 0], (rois[:, 0] - rois[:, 3] / 2)[there])

    (tmp_path / 'boxes.json').write_text(
        json.dumps({f'data/val/{i:03d}': [[0, 0, 9, 9, 0]] for i in range(12)})
    )
    with pytest.raises(ValueError, match='no boxes that move with time'):
        boxes = str(tmp_path / 'boxes.json')
        train(config, tmp_path / 'wrong', [dict(type=HOOK, boxes=boxes)])


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


def cropped(cfg):
    load, pack = cfg.val_dataloader.dataset.pipeline
    crop = dict(type='CenterCrop', crop_size=16)
    cfg.val_dataloader.dataset.pipeline = [load, crop, pack]


@pytest.mark.mmpretrain
@pytest.mark.parametrize(
    'change, boxes, message',
    [
        (no_sparseformer, None, 'a ResNet and has no tokens.*remove the hook, or give'),
        (no_validation, None, 'samples from the validation set, and there is none'),
        (no_backend, None, "no backend: give it vis_backends=.*'LocalVisBackend'"),
        (cropped, 'val_boxes.json', 'crops or flips .*class0/1.png.*boxes=False'),
        (None, 'none.json', 'none.json.* is no file that FocusHook can read'),
        (None, 'train_boxes.json', 'has none of the samples, for instance .*val/cl'),
    ],
)
def test_complaints_before_the_training(toy, tmp_path, change, boxes, message):
    if boxes:
        boxes = str(toy.parent / 'data' / boxes)
    if boxes and boxes.endswith('train_boxes.json'):
        Path(boxes).write_text(json.dumps({'train/class0/0.png': [[*BOX, 0]]}))
    hook = dict(type=HOOK, boxes=boxes)
    with pytest.raises(ValueError, match=message):
        train(toy, tmp_path, [hook], change or (lambda cfg: None))
    assert not list(tmp_path.glob('*/vis_data/scalars.json'))


def test_weights_that_are_shared_out(monkeypatch):
    class Sharded(torch.nn.Module):
        pass

    monkeypatch.setattr(focus_hook, 'is_model_wrapper', lambda model: True)
    with pytest.raises(ValueError, match='one process, and Sharded may share'):
        FocusHook()._check(SimpleNamespace(model=Sharded()))
