"""SparseFormer dropped into mmpretrain's own Swin-T config."""

from pathlib import Path

import numpy as np
import pytest

mmpretrain = pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
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


def test_swin_config_trains_with_backbone_and_head_width_replaced(tmp_path):
    cfg = Config.fromfile(SWIN)
    cfg.model.backbone = dict(
        type='sparseformer_mm.SparseFormer',
        arch='tiny',
        drop_path_rate=0.2,
        out_type='featmap',  # for the config's pooling neck
    )
    cfg.model.head.in_channels = 512

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
