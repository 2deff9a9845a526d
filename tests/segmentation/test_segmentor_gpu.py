"""One training step of a segmentor in float16 on a GPU, beside the CPU's in float32."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.optim import AmpOptimWrapper, OptimWrapper  # noqa: E402

from helpers.segmentor_standin import build, image, sample  # noqa: E402
from sparseformer_mm.engine import LossScaleHook  # noqa: E402

pytestmark = [
    pytest.mark.mmseg,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]
PREPROCESSOR = dict(
    type='SegDataPreProcessor', size=(64, 64), pad_val=0, seg_pad_val=255
)


def train_one_step(device, make_wrapper):
    """Losses of a step, and all gradients as one vector."""
    model = build(data_preprocessor=PREPROCESSOR, head=dict(dropout_ratio=0.0))
    model.to(device).train()
    weights = [weight.detach().clone() for weight in model.parameters()]
    # Steps of the gradients themselves.
    wrapper = make_wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    LossScaleHook().before_train_iter(runner, 0)
    # One is upright, one lies: both are padded.
    inputs = [image(60, 44, seed=1), image(48, 64, seed=2)]
    data = dict(inputs=inputs, data_samples=[sample(x) for x in inputs])
    losses = {key: x.item() for key, x in model.train_step(data, wrapper).items()}
    steps = zip(weights, model.parameters())
    return losses, torch.cat([(old - new).detach().flatten() for old, new in steps])


def test_float16_step_is_the_cpus():
    expected, reference = train_one_step('cpu', OptimWrapper)
    losses, gradient = train_one_step(
        'cuda',
        lambda **kwargs: AmpOptimWrapper(dtype='float16', loss_scale=1024.0, **kwargs),
    )
    assert losses.pop('decode.acc_seg') == pytest.approx(
        expected.pop('decode.acc_seg'), abs=2
    )
    assert expected.keys() == {'loss', 'decode.loss_ce'}
    assert losses == pytest.approx(expected, rel=0.01)
    # Far more if the limit of coordinate gradients did not follow the loss scale.
    assert (gradient.cpu() - reference).norm() < 0.05 * reference.norm()
