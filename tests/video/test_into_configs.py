"""The 2-D configs that mmaction2 ships, with SparseFormer frame by frame."""

import pytest
import torch

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')
pytest.importorskip('mmpretrain', reason='2-D recognizers take its kind of backbone')

from mmaction.structures import ActionDataSample  # noqa: E402

from helpers.into_configs import build, load, load_snippet, train  # noqa: E402

pytestmark = [pytest.mark.mmaction, pytest.mark.usefixtures('quiet')]
CASES = {
    'tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb': 3,
    'tsm_imagenet-pretrained-r50_8xb16-1x1x8-100e_kinetics400-rgb': 8,
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('out_type', ['featmap', 'maps'])
def test_trains_and_predicts(name, out_type):
    if out_type == 'maps':  # the head stays as well
        backbone = dict(map_strides=[32], map_channels=2048)
        cfg = load(f'mmaction:{name}', dict(backbone, out_type='maps'))
        cfg.model.backbone.type = 'mmpretrain.SparseFormer'
    elif 'tsn' in name:
        cfg = load_snippet('mmaction', name)
    else:
        backbone, head = dict(out_type='featmap'), dict(in_channels=512)
        cfg = load(f'mmaction:{name}', backbone, cls_head=head)
        cfg.model.backbone.type = 'mmpretrain.SparseFormer'
    if name.startswith('tsm'):
        model = build(cfg)
        with pytest.raises(ValueError, match='New atomic module type'):
            train(cfg, model, {})  # mmaction2's constructor knows convolutions only
        cfg.optim_wrapper.update(
            constructor='DefaultOptimWrapperConstructor', paramwise_cfg=None
        )
    model, frames = build(cfg), CASES[name]
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (2, frames, 3, 64, 64), generator=generator).byte()
    data = dict(
        inputs=list(clips),
        data_samples=[ActionDataSample().set_gt_label(label) for label in (3, 7)],
    )
    train(cfg, model, data)
    model.eval()
    for sample in model.test_step(data):
        assert sample.pred_score.shape == (400,)
        assert sample.pred_score.sum().item() == pytest.approx(1, abs=1e-4)
