"""tools/train.py and tools/test.py on a detector, as a user runs them."""

import json

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from helpers.toy_detector import SCENES, make_toy  # noqa: E402
from helpers.trained_by_tools import TrainedByTools, run_on_cpu  # noqa: E402

pytestmark = [pytest.mark.mmdet, pytest.mark.slow]


class TestDetector(TrainedByTools):
    make_toy = make_toy
    rounds, iterations, batch = 30, 60, 2
    # An untrained detector has an AP of about 0.
    score, reached = 'coco/bbox_mAP_50', 0.3
    parts = ['loss_cls', 'loss_bbox', 'loss_iou', 'd0.loss_cls', 'd0.loss_iou']

    def test_test_repeats_the_ap_and_dumps(self, trained):
        folder, trained_log = trained
        log = run_on_cpu('test', folder, 'toy.py', self.last(), '--out', 'out.json')
        for kind in ('mAP', 'mAP_50', 'mAP_75'):
            name = f'coco/bbox_{kind}'
            assert self.value(log, name) == self.value(trained_log, name)
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

    def test_pictures_and_flips(self, trained):
        folder, log = trained
        run_on_cpu('test', folder, 'toy.py', self.last(), '--show-dir', 'shown')
        pictures = sorted(path.name for path in (folder / 'shown').rglob('*.jpg'))
        assert pictures == sorted(p.name for p in (folder / 'data/val2017').iterdir())
        # Flipped views are merged in the same place: else the AP would fall to 0.
        out = ['--tta', '--out', 'tta.json', '--out-item', 'metrics']
        run_on_cpu('test', folder, 'toy.py', self.last(), *out)
        metrics = json.loads((folder / 'tta.json').read_text())
        assert metrics['coco/bbox_mAP_50'] > 0.6 * self.value(log)
