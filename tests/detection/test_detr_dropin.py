"""SparseFormer dropped into mmdet's own DETR config, as the README says."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from helpers.coco_standin import make_coco  # noqa: E402

pytestmark = pytest.mark.mmdet
README = Path(__file__).parents[2] / 'configs' / 'detection' / 'README.md'


def read_snippet() -> str:
    """The config in the README that starts from one of mmdet's."""
    blocks = re.findall(r'```python\n(.*?)```', README.read_text('utf-8'), re.DOTALL)
    (snippet,) = (block for block in blocks if "_base_ = 'mmdet::" in block)
    return snippet


def test_detr_config_trains_with_the_model_of_the_readme(tmp_path):
    (tmp_path / 'mine.py').write_text(read_snippet())
    cfg = Config.fromfile(tmp_path / 'mine.py')
    # The rest is DETR's, by mmdet.
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1
    assert cfg.model.train_cfg.assigner.type == 'HungarianAssigner'
    assert cfg.model.data_preprocessor.pad_size_divisor == 1

    # Small images and widths; everything else as it stands.
    root = make_coco(tmp_path / 'data')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
    cfg.train_dataloader.batch_size = 4
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / 'annotations' / 'instances_val2017.json')
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomChoice':
            step.transforms = [[dict(type='Resize', scale=(133, 80), keep_ratio=True)]]
    for step in cfg.val_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (133, 80)
    cfg.model.backbone.update(
        focusing_repeats=1, focusing_dims=64, cortex_dims=64, num_heads=4
    )
    cfg.model.bbox_head.embed_dims = 64
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(tmp_path / 'work_dir')
    cfg.experiment_name = 'detr-dropin'
    runner = Runner.from_cfg(cfg)
    assert type(runner.model.backbone).__name__ == 'SparseFormer'
    before = {k: v.clone() for k, v in runner.model.bbox_head.state_dict().items()}
    runner.train()
    assert runner.iter == 1
    scalars = runner.message_hub
    for key in ('loss', 'loss_cls', 'loss_bbox', 'loss_iou'):
        loss = scalars.get_scalar(f'train/{key}').current()
        assert np.isfinite(loss) and loss > 0, key
    assert 0 <= scalars.get_scalar('val/coco/bbox_mAP').current() <= 1
    after = runner.model.bbox_head.state_dict()
    assert all((after[key] != before[key]).any() for key in before if 'weight' in key)
    # mmdet gives the backbone a tenth of the learning rate.
    rates = {group['lr'] for group in runner.optim_wrapper.param_groups}
    assert len(rates) == 2 and max(rates) == pytest.approx(10 * min(rates))
