"""tools/train.py and tools/test.py on a recognizer, as a user runs them."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from helpers.toy_training import ROOT, assert_learns, free_port, losses, run  # noqa: E402
from helpers.toy_video import make_toy  # noqa: E402

pytestmark = [pytest.mark.mmaction, pytest.mark.slow]
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
EPOCHS = 16
ITERATIONS = 8 * EPOCHS
CPU = dict(CUDA_VISIBLE_DEVICES='-1')


def top1(log: str) -> float:
    return float(re.findall(r'acc/top1: ([\d.]+)', log)[-1])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, toy.py and a training by the command."""
    folder = tmp_path_factory.mktemp('recognizer')
    make_toy(folder, EPOCHS)
    log = run([sys.executable, TRAIN, 'toy.py'], folder, **CPU)
    return folder, log


def test_learns_motions(trained):
    folder, log = trained
    curve = losses(folder / 'work_dirs' / 'toy')
    assert len(curve) == ITERATIONS
    assert_learns(curve)
    assert top1(log) > 0.8  # of clips it never saw; chance is 0.33


def test_resume_continues_the_same_curve(trained):
    folder, _ = trained
    log = run(
        [sys.executable, TRAIN, 'toy.py', '--work-dir', 'resumed',
         '--resume', f'work_dirs/toy/epoch_{EPOCHS // 2}.pth'],
        folder,
        **CPU,
    )  # fmt: skip
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
    assert top1(log) > 0.8


def test_two_processes_train(trained):
    folder, _ = trained
    log = run(
        ['bash', ROOT / 'tools' / 'dist_train.sh', 'toy.py', '2', '--work-dir', 'two',
         '--cfg-options', 'train_dataloader.batch_size=3'],
        folder,
        PORT=free_port(),
        **CPU,
    )  # fmt: skip
    assert 'gloo' in log
    curve = losses(folder / 'two')
    assert len(curve) == ITERATIONS
    assert_learns(curve)
    assert top1(log) > 0.8


def test_test_repeats_the_accuracy_and_dumps_three_views(trained):
    folder, log = trained
    printed = run(
        [sys.executable, TEST, 'toy.py', f'work_dirs/toy/epoch_{EPOCHS}.pth',
         '--out', 'out.json'],
        folder,
        **CPU,
    )  # fmt: skip
    # The frames are as large as a crop, so all three are the whole.
    assert top1(printed) == top1(log)
    predictions = json.loads((folder / 'out.json').read_text())
    assert len(predictions) == 12
    right = [np.argmax(p['pred_score']) == p['gt_label'][0] for p in predictions]
    assert np.mean(right) == pytest.approx(top1(log), abs=1e-4)
    for predicted in predictions:
        assert sum(predicted['pred_score']) == pytest.approx(1, abs=1e-5)


def test_an_image_checkpoint_starts_a_video_training(trained):
    from sparseformer_mm import SparseFormer

    folder, _ = trained
    torch.manual_seed(5)
    image = SparseFormer(Config.fromfile(folder / 'toy.py').model.backbone.arch)
    torch.save(dict(state_dict=image.state_dict()), folder / 'image.pth')
    log = run(
        [sys.executable, TRAIN, 'toy.py', '--work-dir', 'inflated', '--cfg-options',
         'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0.0',
         'model.backbone.init_cfg.type=Pretrained',
         'model.backbone.init_cfg.checkpoint=image.pth'],
        folder,
        **CPU,
    )  # fmt: skip
    assert 'image weights inflated to tubes with token_inflation=2' in log
    saved = torch.load(folder / 'inflated/epoch_1.pth', weights_only=False)
    state = saved['state_dict']
    for name, value in image.state_dict().items():
        if state[f'backbone.{name}'].shape == value.shape:
            assert torch.equal(state[f'backbone.{name}'], value), name
    rois = state['backbone.latent.token_rois']
    assert rois[:, 2].tolist() == [0.25] * 4 + [0.75] * 4
