"""tools/train.py and tools/test.py on a recognizer, as a user runs them."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from helpers.toy_video import make_toy  # noqa: E402
from helpers.trained_by_tools import TrainedByTools, run_on_cpu  # noqa: E402
from sparseformer_mm import SparseFormer  # noqa: E402

pytestmark = [pytest.mark.mmaction, pytest.mark.slow]


class TestRecognizer(TrainedByTools):
    make_toy = make_toy
    rounds, iterations, batch = 16, 128, 3
    # Of clips it never saw; chance is 0.33.
    score, reached = 'acc/top1', 0.8

    def test_test_repeats_the_accuracy_and_dumps_three_views(self, trained):
        folder, log = trained
        printed = run_on_cpu('test', folder, 'toy.py', self.last(), '--out', 'out.json')
        # The frames are as large as a crop, so all three are the whole.
        assert self.value(printed) == self.value(log)
        predictions = json.loads((folder / 'out.json').read_text())
        assert len(predictions) == 12
        right = [np.argmax(p['pred_score']) == p['gt_label'][0] for p in predictions]
        assert np.mean(right) == pytest.approx(self.value(log), abs=1e-4)
        for predicted in predictions:
            assert sum(predicted['pred_score']) == pytest.approx(1, abs=1e-5)

    def test_an_image_checkpoint_starts_a_video_training(self, trained):
        folder, _ = trained
        torch.manual_seed(5)
        image = SparseFormer(Config.fromfile(folder / 'toy.py').model.backbone.arch)
        torch.save(dict(state_dict=image.state_dict()), folder / 'image.pth')
        log = run_on_cpu(
            'train', folder, 'toy.py', '--work-dir', 'inflated', '--cfg-options',
            'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0.0',
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.checkpoint=image.pth',
        )  # fmt: skip
        assert 'image weights inflated to tubes with token_inflation=2' in log
        saved = torch.load(folder / 'inflated/epoch_1.pth', weights_only=False)
        state = saved['state_dict']
        for name, value in image.state_dict().items():
            if state[f'backbone.{name}'].shape == value.shape:
                assert torch.equal(state[f'backbone.{name}'], value), name
        rois = state['backbone.latent.token_rois']
        assert rois[:, 2].tolist() == [0.25] * 4 + [0.75] * 4
