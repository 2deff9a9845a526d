"""SparseFormer dropped into mmpretrain's own Swin-T config, as the README says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

mmpretrain = pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from PIL import Image  # noqa: E402

pytestmark = pytest.mark.mmpretrain
SWIN = (
    Path(mmpretrain.__file__).parent
    / '.mim'
    / 'configs'
    / 'swin_transformer'
    / 'swin-tiny_16xb64_in1k.py'
)
README = Path(__file__).parents[2] / 'README.md'


def make_imagenet(root: Path) -> None:
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split).mkdir()
        for index in range(2):
            pixels = np.random.default_rng(index).integers(
                0, 256, (80, 100, 3), np.uint8
            )
            Image.fromarray(pixels).save(root / split / f'{index}.JPEG')
        (root / 'meta' / f'{split}.txt').write_text('0.JPEG 0\n1.JPEG 7')


def drop_in(folder: Path) -> Config:
    """The config in the README, on top of mmpretrain's."""
    (snippet,) = re.findall(
        r'```python\n(model = dict\(.*?)```', README.read_text('utf-8'), re.DOTALL
    )
    path = folder / 'mine.py'
    path.write_text(f"_base_ = '{SWIN}'\n{snippet}")
    return Config.fromfile(path)


def test_a_pooling_neck_may_stay_with_a_map_of_one_pixel(tmp_path):
    cfg = drop_in(tmp_path)
    init_default_scope('mmpretrain')
    cfg.model.backbone.update(num_tokens=9, cortex_depth=1)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    without = MODELS.build(cfg.model).eval()
    cfg.model.backbone.out_type = 'featmap'
    cfg.model.neck = Config.fromfile(SWIN).model.neck
    assert cfg.model.neck.type == 'GlobalAveragePooling'
    with_neck = MODELS.build(cfg.model).eval()
    with_neck.load_state_dict(without.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(without(images), with_neck(images))
        assert without(images).std() > 0


def test_swin_config_trains_with_backbone_and_head_width_replaced(tmp_path):
    cfg = drop_in(tmp_path)
    assert cfg.model.neck is None and cfg.model.head.in_channels == 512
    decays = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert decays.token_rois.decay_mult == 0
    make_imagenet(tmp_path / 'data')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.data_root = str(tmp_path / 'data')
    cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = None
    cfg.work_dir = str(tmp_path / 'work_dir')
    cfg.experiment_name = 'dropin'
    runner = Runner.from_cfg(cfg)
    assert type(runner.model.backbone).__name__ == 'SparseFormer'
    runner.train()
    assert runner.iter == 1
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert np.isfinite(loss)
    top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
    assert 0 <= top1 <= 100
