"""tools/train.py and tools/test.py on a segmentor, as a user runs them."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.fileio import load  # noqa: E402

from helpers.segmentation_data_standin import draw_mask  # noqa: E402
from helpers.toy_segmentor import SCENES, make_toy  # noqa: E402
from helpers.toy_training import ROOT, assert_learns, free_port, losses, run  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.slow]
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
ITERATIONS = 80
LAST = f'work_dirs/toy/iter_{ITERATIONS}.pth'
CPU = dict(CUDA_VISIBLE_DEVICES='-1')


def metric(log: str, name: str = 'mIoU') -> float:
    return float(re.findall(rf'\b{name}: ([\d.]+)', log)[-1])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, toy.py and a training by the command."""
    folder = tmp_path_factory.mktemp('segmentor')
    make_toy(folder, ITERATIONS)
    log = run([sys.executable, TRAIN, 'toy.py'], folder, **CPU)
    return folder, log


def test_trains_and_validates(trained):
    folder, log = trained
    curve = losses(folder / 'work_dirs' / 'toy')
    assert len(curve) == ITERATIONS
    assert_learns(curve, 0.4)
    assert ' decode.loss_ce: ' in log
    # Ground everywhere has an mIoU of about 25.
    assert metric(log) > 85


def test_resume_continues_the_same_curve(trained):
    folder, _ = trained
    half = ITERATIONS // 2
    log = run(
        [
            sys.executable,
            TRAIN,
            'toy.py',
            '--work-dir',
            'resumed',
            '--resume',
            f'work_dirs/toy/iter_{half}.pth',
        ],
        folder,
        **CPU,
    )
    assert f'Iter(train) [{half}/{ITERATIONS}]' not in log
    assert f'Iter(train) [{half + 1}/{ITERATIONS}]' in log
    rest = losses(folder / 'resumed')
    straight = losses(folder / 'work_dirs' / 'toy')
    np.testing.assert_allclose(rest, straight[half:], rtol=1e-4)


def test_bfloat16_on_a_cpu_trains(trained):
    folder, _ = trained
    log = run(
        [sys.executable, TRAIN, 'toy.py', '--work-dir', 'amp', '--amp'], folder, **CPU
    )
    assert 'bfloat16, no loss scaling' in log
    curve, plain = losses(folder / 'amp'), losses(folder / 'work_dirs' / 'toy')
    assert 0 < abs(curve[0] - plain[0]) < 0.02 * plain[0]
    assert_learns(curve, 0.4)
    assert metric(log) > 85
    saved = torch.load(
        folder / 'amp' / f'iter_{ITERATIONS}.pth',
        map_location='cpu',
        weights_only=False,
    )
    floats = [w for w in saved['state_dict'].values() if w.is_floating_point()]
    assert {w.dtype for w in floats} == {torch.float32}


def test_two_processes_train(trained):
    folder, _ = trained
    log = run(
        [
            'bash',
            ROOT / 'tools' / 'dist_train.sh',
            'toy.py',
            '2',
            '--work-dir',
            'two',
            '--cfg-options',
            'train_dataloader.batch_size=2',
        ],
        folder,
        PORT=free_port(),
        **CPU,
    )
    assert 'gloo' in log
    curve = losses(folder / 'two')
    assert len(curve) == ITERATIONS
    assert_learns(curve, 0.4)
    assert metric(log) > 85


def test_test_repeats_the_miou_and_dumps(trained):
    folder, trained_log = trained
    log = run([sys.executable, TEST, 'toy.py', LAST, '--out', 'out.pkl'], folder, **CPU)
    for name in ('mIoU', 'mAcc', 'aAcc'):
        assert metric(log, name) == metric(trained_log, name)
    # What is dumped has the size of each image, and is what was measured.
    hits = labelled = 0
    predictions = load(folder / 'out.pkl')
    assert len(predictions) == len(SCENES)
    for scene, predicted in zip(SCENES, predictions):
        truth = draw_mask(scene)
        labels = predicted['pred_sem_seg']['data']
        assert labels.shape == (1, *truth.shape)
        hits += (labels[0].numpy() == truth).sum()
        labelled += (truth != 255).sum()
    assert 100 * hits / labelled == pytest.approx(metric(log, 'aAcc'), abs=0.01)


def test_pictures_and_flips(trained, monkeypatch):
    folder, log = trained
    monkeypatch.chdir(folder)
    for arguments in (
        ['--show-dir', 'shown'],
        ['--tta', '--out', 'tta.json', '--out-item', 'metrics'],
    ):
        monkeypatch.setattr(sys, 'argv', ['test.py', 'toy.py', LAST, *arguments])
        runpy.run_path(str(TEST), run_name='__main__')
    pictures = sorted((folder / 'shown').rglob('*.png'))
    # mmseg appends a running number.
    names = [path.name.rsplit('_', 1)[0] for path in pictures]
    assert names == [f'test_{i}.png' for i in range(len(SCENES))]
    for path, scene in zip(pictures, SCENES):
        # Truth and prediction, side by side.
        height, width = draw_mask(scene).shape
        assert Image.open(path).size == (2 * width, height)
    # Flipped views are merged in the same place: else the mIoU would fall.
    metrics = json.loads((folder / 'tta.json').read_text())
    assert metrics['mIoU'] > 0.9 * metric(log)
