"""One training step of a detector in float16 on a GPU, beside the CPU's in float32."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import AmpOptimWrapper, OptimWrapper  # noqa: E402

from helpers.toy_detector import CLASSES, CONFIG  # noqa: E402
from sparseformer_mm.engine import LossScaleHook  # noqa: E402

pytestmark = [
    pytest.mark.mmdet,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


def train_one_step(device, make_wrapper):
    """Losses of a step, and all gradients as one vector."""
    text = CONFIG.format(data='', classes=CLASSES, epochs=1)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromstring(text, '.py').model)
    for name, weight in model.named_parameters():
        if 'token_rois' not in name:
            weight.data.add_(torch.randn_like(weight) * 0.05)
    model.to(device).train()
    weights = [weight.detach().clone() for weight in model.parameters()]
    # Steps of the gradients themselves.
    wrapper = make_wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    LossScaleHook().before_train_iter(runner, 0)
    # One is upright, one lies: both are padded.
    data = demo_mm_inputs(2, [[3, 60, 44], [3, 48, 64]], [3, 1], len(CLASSES))
    losses = {key: x.item() for key, x in model.train_step(data, wrapper).items()}
    steps = zip(weights, model.parameters())
    return losses, torch.cat([(old - new).detach().flatten() for old, new in steps])


def test_float16_step_is_the_cpus():
    expected, reference = train_one_step('cpu', OptimWrapper)
    losses, gradient = train_one_step(
        'cuda',
        lambda **kwargs: AmpOptimWrapper(dtype='float16', loss_scale=1024.0, **kwargs),
    )
    assert len(expected) == 7  # three of each of two levels, and their sum
    assert losses == pytest.approx(expected, rel=0.01)
    # Far more if the limit of coordinate gradients did not follow the loss scale.
    assert (gradient.cpu() - reference).norm() < 0.05 * reference.norm()
