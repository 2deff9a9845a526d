"""SparseFormer dropped into mmseg's own Swin UperNet config, as the README says."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmseg.models import EncoderDecoder, FCNHead  # noqa: E402

from helpers.segmentation_data_standin import make_ade  # noqa: E402
from sparseformer_mm.utils.configs import find_config  # noqa: E402

pytestmark = pytest.mark.mmseg
README = Path(__file__).parents[2] / 'configs' / 'segmentation' / 'README.md'


def read_snippet() -> str:
    """The config in the README that starts from one of mmseg's."""
    blocks = re.findall(r'```python\n(.*?)```', README.read_text('utf-8'), re.DOTALL)
    (snippet,) = (block for block in blocks if "'mmseg::" in block)
    return snippet


def load_snippet(folder: Path) -> Config:
    """With ``mmseg::`` if mmengine finds it, and with the README's cure if not."""
    snippet, path = read_snippet(), folder / 'mine.py'
    path.write_text(snippet)
    try:
        return Config.fromfile(path)
    except ModuleNotFoundError as error:
        assert 'mmsegmentation' in str(error)
    found = re.search(r"find\('(mmseg:[^']+)'\)", README.read_text('utf-8'))[1]
    path.write_text(re.sub(r"'mmseg::.*'", repr(find_config(found)), snippet))
    return Config.fromfile(path)


def test_swin_config_trains_with_the_model_of_the_readme(tmp_path):
    cfg = load_snippet(tmp_path)
    # The rest is Swin's, by mmseg.
    assert cfg.model.type == 'EncoderDecoder'
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.optim_wrapper.optimizer.lr == 6e-5
    assert cfg.train_cfg.max_iters == 160_000
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'

    # Small images and widths; everything else as it stands.
    root = make_ade(tmp_path / 'data')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step.scale = (96, 48)
            if 'crop_size' in step:
                step.crop_size = (32, 32)
    cfg.model.data_preprocessor.size = (32, 32)
    cfg.model.backbone.update(
        focusing_repeats=1, focusing_dims=64, cortex_dims=64, num_heads=4
    )
    cfg.model.decode_head.update(in_channels=64, channels=32)
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(tmp_path / 'work_dir')
    cfg.experiment_name = 'swin-dropin'
    runner = Runner.from_cfg(cfg)
    model = runner.model
    assert type(model) is EncoderDecoder
    assert type(model.backbone).__name__ == 'SparseFormer'
    assert type(model.decode_head).__name__ == 'LocationAwareHead'
    assert type(model.auxiliary_head) is FCNHead

    runner.train()
    assert runner.iter == 1
    scalars = runner.message_hub
    loss, main, aux = (
        scalars.get_scalar(f'train/{key}').current()
        for key in ('loss', 'decode.loss_ce', 'aux.loss_ce')
    )
    assert loss == pytest.approx(main + aux)
    # The auxiliary loss counts 0.4 times.
    for part in (main, aux / 0.4):
        assert 0.2 < part / np.log(150) < 1.3, (main, aux)
    assert 0 <= scalars.get_scalar('val/mIoU').current() <= 100
    # Everything learns, from Swin's optimizer, and RoIs and norms do not decay.
    groups = {
        id(parameter): group
        for group in runner.optim_wrapper.param_groups
        for parameter in group['params']
    }
    moments = runner.optim_wrapper.optimizer.state
    parameters = dict(model.named_parameters())
    for key, value in parameters.items():
        assert moments[value]['exp_avg'].isfinite().all(), key
        decay = 0 if 'norm' in key or 'token_rois' in key else 0.01
        assert groups[id(value)]['weight_decay'] == decay, key
    for key in (
        'backbone.stem.conv.weight',
        'backbone.latent.token_embeddings',
        'backbone.latent.token_rois',
        'decode_head.attention.key.weight',
        'decode_head.conv_seg.weight',
        'auxiliary_head.conv_seg.weight',
    ):
        assert moments[parameters[key]]['exp_avg'].abs().sum() > 0, key
