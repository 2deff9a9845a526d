"""tools/train.py and tools/test.py on a segmentor, as a user runs them."""

import json

import pytest
from PIL import Image

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.fileio import load  # noqa: E402

from helpers.segmentation_data_standin import draw_mask  # noqa: E402
from helpers.toy_segmentor import SCENES, make_toy  # noqa: E402
from helpers.trained_by_tools import TrainedByTools, run_on_cpu  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.slow]


class TestSegmentor(TrainedByTools):
    make_toy = make_toy
    rounds, iterations, batch = 80, 80, 2
    unit, parts, share_left = 'iter', ['decode.loss_ce'], 0.4
    # Ground everywhere has an mIoU of about 25.
    score, reached = 'mIoU', 85

    def test_test_repeats_the_miou_and_dumps(self, trained):
        folder, trained_log = trained
        log = run_on_cpu('test', folder, 'toy.py', self.last(), '--out', 'out.pkl')
        for name in ('mIoU', 'mAcc', 'aAcc'):
            assert self.value(log, name) == self.value(trained_log, name)
        # What is dumped has the size of each image, and is what was measured.
        hits = labelled = 0
        predictions = load(folder / 'out.pkl')
        assert len(predictions) == len(SCENES)
        for scene, predicted in zip(SCENES, predictions):
            truth = draw_mask(scene)
            labels = predicted['pred_sem_seg']['data']
            assert labels.shape == (1, *truth.shape) and labels.element_size() == 1
            assert 'seg_logits' not in predicted
            hits += (labels[0].numpy() == truth).sum()
            labelled += (truth != 255).sum()
        assert 100 * hits / labelled == pytest.approx(self.value(log, 'aAcc'), abs=0.01)

    def test_pictures_and_flips(self, trained):
        folder, log = trained
        run_on_cpu('test', folder, 'toy.py', self.last(), '--show-dir', 'shown')
        pictures = sorted((folder / 'shown').rglob('*.png'))
        # mmseg appends a running number.
        names = [path.name.rsplit('_', 1)[0] for path in pictures]
        assert names == [f'test_{i}.png' for i in range(len(SCENES))]
        for path, scene in zip(pictures, SCENES):
            # Truth and prediction, side by side.
            height, width = draw_mask(scene).shape
            assert Image.open(path).size == (2 * width, height)
        # Flipped views are merged in the same place: else the mIoU would fall.
        out = ['--tta', '--out', 'tta.json', '--out-item', 'metrics']
        run_on_cpu('test', folder, 'toy.py', self.last(), *out)
        metrics = json.loads((folder / 'tta.json').read_text())
        assert metrics['mIoU'] > 0.9 * self.value(log)
