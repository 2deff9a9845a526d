"""The detection quick start's model, trained for a tenth of its time: it detects."""

import re

import pytest

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytestmark = [pytest.mark.mmdet, pytest.mark.slow]

from helpers.scripts import ROOT, data_options, tool  # noqa: E402

CONFIG = ROOT / 'configs/detection/sparseformer-nano-modern_1xb16_digits.py'
EPOCHS = 2


def test_it_finds_digits_that_it_never_saw(tmp_path):
    data, work = tmp_path / 'digits', tmp_path / 'work'
    tool('dataset_converters/make_digits', data, '--task', 'detection',
         '--train', 1280, '--val', 200)  # fmt: skip
    options = data_options(data)
    annotations = data / 'annotations/instances_val.json'
    options += [
        f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')
    ]
    tool('train', CONFIG, '--work-dir', work, '--cfg-options',
         f'train_cfg.max_epochs={EPOCHS}', f'train_cfg.val_begin={EPOCHS + 1}',
         f'param_scheduler.1.end={EPOCHS}', *options)  # fmt: skip
    printed = tool('test', CONFIG, work / f'epoch_{EPOCHS}.pth',
                   '--work-dir', work, '--cfg-options', *options)  # fmt: skip
    ap50 = float(re.findall(r'coco/bbox_mAP_50: (-?[\d.]+)', printed)[-1])
    # Untrained: 0. These two epochs: 0.6; the whole training gets beyond 0.95.
    assert ap50 > 0.3
