"""The video quick start's model, trained for a quarter of its time: it sees motion."""

import re
import sys

import pytest

pytest.importorskip('sparseformer_mm.action.compat', reason='needs mmaction2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytest.importorskip('av', reason='PyAV writes the clips')
pytestmark = [pytest.mark.mmaction, pytest.mark.slow]

from toy_training import ROOT, run  # noqa: E402

CONFIGS = ROOT / 'configs/video'
EPOCHS = 3


def tool(name, *args):
    command = [sys.executable, ROOT / 'tools' / name, *args]
    return run(command, ROOT, CUDA_VISIBLE_DEVICES='-1')


def test_it_recognises_motions_and_needs_the_order_of_frames(tmp_path):
    data, work = tmp_path / 'digits', tmp_path / 'work'
    tool('dataset_converters/make_digits.py', data, '--task', 'video',
         '--train', 1600, '--val', 160)  # fmt: skip
    splits = ('train', 'val', 'test')
    options = [f'{split}_dataloader.dataset.data_root={data}' for split in splits]
    tool('train.py', CONFIGS / 'sparseformer-nano_1xb16_digits.py',
         '--work-dir', work, '--cfg-options', f'train_cfg.max_epochs={EPOCHS}',
         f'train_cfg.val_interval={EPOCHS + 1}', f'param_scheduler.1.end={EPOCHS}',
         *options)  # fmt: skip

    def top1(config):
        printed = tool('test.py', CONFIGS / f'{config}.py',
                       work / f'epoch_{EPOCHS}.pth', '--work-dir', work,
                       '--cfg-options', *options)  # fmt: skip
        return float(re.findall(r'acc/top1: ([\d.]+)', printed)[-1])

    ordered = top1('sparseformer-nano_1xb16_digits')
    # Chance is 0.125; the whole training gets beyond 0.95.
    assert ordered > 0.4
    assert top1('sparseformer-nano-shuffled_1xb16_digits') < ordered - 0.1
