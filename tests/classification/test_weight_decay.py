"""Which parameters the configs decay, through mmengine's constructor."""

from pathlib import Path

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

pytestmark = pytest.mark.mmpretrain
CONFIGS = Path(__file__).parents[2] / 'configs' / 'classification'


@pytest.mark.parametrize(
    'name, decay',
    [
        ('sparseformer-tiny_8xb128_in1k', 0.05),
        ('sparseformer-tiny_8xb128-60e_in21k', 0.05),
        ('sparseformer-base-144tok_in21k-pre_8xb128-30e_in1k-384px', 1e-8),
        ('sparseformer-nano_1xb32_digits', 0.05),
        ('sparseformer-nano_1xb64_flowers5', 0.05),
    ],
)
def test_rois_norms_biases_and_vectors_are_not_decayed(name, decay):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    # Names and shapes are enough: no memory for the weights.
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {
        id(parameter): group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    names = dict(model.named_parameters())
    assert len(decays) == len(names)  # each once, none left out

    actual = {key for key, value in names.items() if decays[id(value)] == 0}
    expected = {key for key, value in names.items() if value.ndim == 1}
    expected |= {key for key in names if key.endswith('bias')}
    expected.add('backbone.latent.token_rois')
    assert actual == expected
    rest = {decays[id(value)] for key, value in names.items() if key not in actual}
    assert rest == {decay}
    assert decays[id(names['backbone.latent.token_embeddings'])] == decay
    assert decays[id(names['head.fc.weight'])] == decay
