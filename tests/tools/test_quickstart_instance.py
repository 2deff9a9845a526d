"""The steps of the instance quick start on a few pictures, one after the other."""

import re

import pytest

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')
pytestmark = pytest.mark.mmdet

from helpers.digits import make_digits  # noqa: E402
from helpers.scripts import ROOT, data_options, load_tool, run_tool  # noqa: E402

CONFIG = ROOT / 'configs/detection/mask-rcnn_sparseformer-nano_1xb16_digits.py'


def test_it_trains_tests_and_draws(tmp_path):
    data, work = tmp_path / 'digits', tmp_path / 'work'
    make_digits(data, '--task', 'detection', '--train', 32, '--val', 8)
    annotations = data / 'annotations/instances_val.json'
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'param_scheduler.1.end=2']
    # Untrained, nothing has the score that a result needs.
    options += ['model.test_cfg.rcnn.score_thr=0']
    options += data_options(data)
    options += [
        f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')
    ]

    def run(tool, *argv):
        status, output = run_tool(load_tool(tool), CONFIG, *argv, *options)
        assert status == 0, output
        return output

    run('train', '--work-dir', work)
    printed = run('test', work / 'epoch_1.pth', '--work-dir', work)
    figures = re.findall(r'coco/(bbox|segm)_mAP: ([\d.]+)', printed)
    assert [kind for kind, _ in figures] == ['bbox', 'segm']
    assert all(0 <= float(figure) <= 1 for _, figure in figures)
    run('visualization/vis_focus', work / 'epoch_1.pth', data / 'val',
        '--out', tmp_path / 'pictures', '--max-images', 2)  # fmt: skip
    assert (tmp_path / 'pictures/000001_focus.png').is_file()
