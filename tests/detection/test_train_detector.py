"""tools/train.py and tools/test.py on a detector, as a user runs them."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from helpers.toy_detector import SCENES, make_toy  # noqa: E402
from helpers.toy_training import ROOT, assert_learns, free_port, losses, run  # noqa: E402

pytestmark = [pytest.mark.mmdet, pytest.mark.slow]
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
EPOCHS = 30
ITERATIONS = 2 * EPOCHS
CPU = dict(CUDA_VISIBLE_DEVICES='-1')


def ap(log: str, kind: str = 'mAP_50') -> float:
    return float(re.findall(rf'coco/bbox_{kind}: ([-\d.]+)', log)[-1])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, toy.py and a training by the command."""
    folder = tmp_path_factory.mktemp('detector')
    make_toy(folder, EPOCHS)
    log = run([sys.executable, TRAIN, 'toy.py'], folder, **CPU)
    return folder, log


def test_trains_and_validates(trained):
    folder, log = trained
    curve = losses(folder / 'work_dirs' / 'toy')
    assert len(curve) == ITERATIONS
    assert_learns(curve)
    for part in ('loss_cls', 'loss_bbox', 'loss_iou', 'd0.loss_cls', 'd0.loss_iou'):
        assert f' {part}: ' in log
    # An untrained detector has an AP of about 0.
    assert ap(log) > 0.3


def test_resume_continues_the_same_curve(trained):
    folder, _ = trained
    log = run(
        [
            sys.executable,
            TRAIN,
            'toy.py',
            '--work-dir',
            'resumed',
            '--resume',
            f'work_dirs/toy/epoch_{EPOCHS // 2}.pth',
        ],
        folder,
        **CPU,
    )
    assert f'Epoch(train) [{EPOCHS // 2}]' not in log
    rest = losses(folder / 'resumed')
    straight = losses(folder / 'work_dirs' / 'toy')
    np.testing.assert_allclose(rest, straight[ITERATIONS // 2 :], rtol=1e-4)


def test_bfloat16_on_a_cpu_trains(trained):
    folder, _ = trained
    log = run(
        [sys.executable, TRAIN, 'toy.py', '--work-dir', 'amp', '--amp'], folder, **CPU
    )
    assert 'bfloat16, no loss scaling' in log
    curve, plain = losses(folder / 'amp'), losses(folder / 'work_dirs' / 'toy')
    assert 0 < abs(curve[0] - plain[0]) < 0.02 * plain[0]
    assert_learns(curve)
    assert ap(log) > 0.3
    saved = torch.load(
        folder / 'amp' / f'epoch_{EPOCHS}.pth', map_location='cpu', weights_only=False
    )
    assert {w.dtype for w in saved['state_dict'].values()} == {torch.float32}


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
    assert f'Epoch(train) [{EPOCHS}][2/2]' in log
    curve = losses(folder / 'two')
    assert len(curve) == ITERATIONS
    assert_learns(curve)
    assert ap(log) > 0.3


def test_test_repeats_the_ap_and_dumps(trained):
    folder, trained_log = trained
    log = run(
        [
            sys.executable,
            TEST,
            'toy.py',
            f'work_dirs/toy/epoch_{EPOCHS}.pth',
            '--out',
            'out.json',
        ],
        folder,
        **CPU,
    )
    for kind in ('mAP', 'mAP_50', 'mAP_75'):
        assert ap(log, kind) == ap(trained_log, kind)
    predictions = json.loads((folder / 'out.json').read_text())
    assert [p['img_id'] for p in predictions] == list(range(100, 100 + len(SCENES)))
    found = 0
    for (height, width, objects), predicted in zip(SCENES, predictions):
        assert predicted['ori_shape'] == [height, width]
        instances = predicted['pred_instances']
        assert instances['scores'] == sorted(instances['scores'], reverse=True)
        boxes = np.array(instances['bboxes'])
        assert boxes.shape == (8, 4)
        assert (boxes >= 0).all() and (boxes <= [width, height] * 2).all()
        if objects:
            # The best answer stands on an object of its class.
            x, y = (boxes[0, :2] + boxes[0, 2:]) / 2
            found += any(
                label == instances['labels'][0]
                and left < x < left + w
                and top < y < top + h
                for label, left, top, w, h, _ in objects
            )
    assert found >= 6


def test_pictures_and_flips(trained, monkeypatch):
    folder, log = trained
    monkeypatch.chdir(folder)
    checkpoint = f'work_dirs/toy/epoch_{EPOCHS}.pth'
    for arguments in (
        ['--show-dir', 'shown'],
        ['--tta', '--out', 'tta.json', '--out-item', 'metrics'],
    ):
        monkeypatch.setattr(sys, 'argv', ['test.py', 'toy.py', checkpoint, *arguments])
        runpy.run_path(str(TEST), run_name='__main__')
    pictures = sorted(path.name for path in (folder / 'shown').rglob('*.jpg'))
    assert pictures == sorted(p.name for p in (folder / 'data/val2017').iterdir())
    # Flipped views are merged in the same place: else the AP would fall to 0.
    metrics = json.loads((folder / 'tta.json').read_text())
    assert metrics['coco/bbox_mAP_50'] > 0.6 * ap(log)
