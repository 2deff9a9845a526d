"""The video quick start's model, trained for a quarter of its time: it sees motion."""

import re

import numpy as np
import pytest

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytest.importorskip('av', reason='PyAV writes the clips')
pytestmark = [pytest.mark.mmaction, pytest.mark.slow]

from helpers.scripts import ROOT, data_options, tool  # noqa: E402

CONFIGS = ROOT / 'configs/video'
EPOCHS = 3


def test_it_recognises_motions_and_needs_the_order_of_frames(tmp_path):
    data, work = tmp_path / 'digits', tmp_path / 'work'
    tool('dataset_converters/make_digits', data, '--task', 'video',
         '--train', 1280, '--val', 160)  # fmt: skip
    options = data_options(data)
    tool('train', CONFIGS / 'sparseformer-nano_1xb16_digits.py',
         '--work-dir', work, '--cfg-options', f'train_cfg.max_epochs={EPOCHS}',
         f'train_cfg.val_interval={EPOCHS + 1}', f'param_scheduler.1.end={EPOCHS}',
         *options)  # fmt: skip

    def test(config):
        return tool('test', CONFIGS / f'{config}.py', work / f'epoch_{EPOCHS}.pth',
                    '--work-dir', work, '--cfg-options', *options)  # fmt: skip

    printed = test('sparseformer-nano_1xb16_digits')
    # Chance is 0.125; the whole training gets beyond 0.99.
    assert float(re.findall(r'acc/top1: ([\d.]+)', printed)[-1]) > 0.4

    # Without their order, what is told apart by it alone falls to chance.
    table = test('sparseformer-nano-shuffled_1xb16_digits').split('tensor(')[-1]
    counts = re.findall(r'\d+', table.partition(')')[0])
    confusion = np.array(counts, dtype=int).reshape(8, 8)
    assert confusion.sum() == 160
    pairs = [confusion[i : i + 2, i : i + 2] for i in (0, 2, 4)]
    right = sum(np.trace(pair) for pair in pairs) / sum(pair.sum() for pair in pairs)
    assert 0.25 < right < 0.75
