"""The configs that mmpretrain ships, with SparseFormer for a backbone.

Their neck, ``GlobalAveragePooling``, stays: it takes the pooled tokens as a map of one
pixel, or a map of stride 32 where the head's width has to stay, too.
"""

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmpretrain.structures import DataSample  # noqa: E402

from helpers.into_configs import build, load, load_snippet, train  # noqa: E402

pytestmark = [pytest.mark.mmpretrain, pytest.mark.usefixtures('quiet')]
WIDTHS = {'swin-tiny_16xb64_in1k': 768, 'resnet50_8xb32_in1k': 2048}


@pytest.mark.parametrize('name', WIDTHS)
@pytest.mark.parametrize('out_type', ['featmap', 'maps'])
def test_trains_and_predicts(name, out_type):
    if out_type == 'maps':  # the head stays as well
        backbone = dict(map_strides=[32], map_channels=WIDTHS[name])
        cfg = load(f'mmpretrain:{name}', dict(backbone, out_type='maps'))
    elif 'resnet' in name:
        cfg = load_snippet('mmpretrain', name)
    else:
        backbone, head = dict(out_type='featmap'), dict(in_channels=512)
        cfg = load(f'mmpretrain:{name}', backbone, head=head)
    assert cfg.model.neck.type == 'GlobalAveragePooling'
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = build(cfg)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 64, 96), generator=generator).byte()
    data = dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(label) for label in (3, 7)],
    )
    train(cfg, model, data)
    model.eval()
    for sample in model.test_step(data):
        assert sample.pred_score.shape == (1000,)
        assert sample.pred_score.sum().item() == pytest.approx(1, abs=1e-4)
        assert sample.pred_label == sample.pred_score.argmax()
