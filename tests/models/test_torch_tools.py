"""What torch offers around a model: meta devices, tracing, torch.func, quantization."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap

from helpers.numerics import assert_near
from helpers.small_model import ARCH, small_model
from sparseformer_mm import SparseFormer, SparseFormerClassifier
from sparseformer_mm.models import ops
from sparseformer_mm.models.location_attention import LocationAwareAttention


def make(dtype=torch.float64, **kwargs):
    return small_model(**kwargs).to(dtype)


@pytest.fixture
def image():
    return torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize('kwargs', [dict(), dict(out_type='maps', map_strides=(4, 8))])
def test_fake_tensors_of_a_cpu(kwargs):
    """Shapes without values: tools that plan memory or sharding run models so."""
    with FakeTensorMode(), torch.no_grad():
        outputs = small_model(noise=0.0, **kwargs).eval()(torch.rand(2, 3, 24, 32))
    real = small_model(**kwargs).eval()(torch.rand(2, 3, 24, 32))
    assert [x.shape for x in outputs] == [x.shape for x in real]


def loss_of(model, params, image):
    return functional_call(model, params, (image,))[0].square().sum()


def gradients(model, image):
    params = dict(model.named_parameters())
    loss = loss_of(model, params, image)
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    return dict(zip(params, found))


# ------------------------------------------------------ state that no file holds


def scales(model):
    return [m.loss_scale for m in model.modules() if hasattr(m, 'loss_scale')]


@pytest.mark.parametrize('assign', [False, True])
def test_a_model_from_the_meta_device_has_the_same_gradients(assign, image):
    """to_empty leaves memory as it is: here it is what a long training left there."""
    model = make()
    with torch.device('meta'):
        other = SparseFormer(ARCH).double()
    if not assign:
        other.to_empty(device='cpu')
        for scale in scales(other):
            scale.fill_(1e-30)
    other.load_state_dict(model.state_dict(), assign=assign)
    assert [scale.item() for scale in scales(other)] == [1.0, 1.0]
    expected = gradients(model, image)
    for name, value in gradients(other, image).items():
        torch.testing.assert_close(value, expected[name])


def test_initialising_restores_the_loss_scale_too():
    with torch.device('meta'):
        model = SparseFormer(ARCH)
    model.to_empty(device='cpu')
    for scale in scales(model):
        scale.fill_(float('nan'))
    model.init_weights()
    assert [scale.item() for scale in scales(model)] == [1.0, 1.0]


def test_loading_keeps_a_loss_scale_that_was_set():
    model = make()
    model.set_loss_scale(64.0)
    model.load_state_dict(make().state_dict())
    assert [scale.item() for scale in scales(model)] == [64.0, 64.0]


def test_every_buffer_outside_the_state_dict_is_known():
    """Another one would need the same care."""
    model = SparseFormerClassifier(ARCH, num_classes=3)
    buffers = {name.rpartition('.')[2] for name, _ in model.named_buffers()}
    assert buffers - {k.rpartition('.')[2] for k in model.state_dict()} == {
        'loss_scale'
    }


def test_features_leave_a_compiled_backbone_as_it_was(new_compiler):
    torch.manual_seed(0)
    model = SparseFormerClassifier(ARCH, num_classes=3).eval()
    image = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        expected = model(image)
        model.backbone = torch.compile(model.backbone, backend='eager')
        seen = model.features(image)
        assert len(seen.stages) == 3
        assert_near([model(image)], [expected], 64)


# ------------------------------------------------------------------ torch.jit.trace


def test_trace_with_gradients_on(image):
    model = make().eval()
    traced = torch.jit.trace(model, image)
    assert_near(traced(image), model(image), 64)


def test_trace_in_training_says_what_is_lost(image):
    model = make()
    with pytest.warns(UserWarning, match='cannot record the limit .* model.eval()'):
        torch.jit.trace(model, image, check_trace=False)


# ----------------------------------------------------------------------- torch.func


def test_grad_and_vmap_over_samples(image):
    model = make()
    params = {k: v.detach() for k, v in model.named_parameters()}
    expected = gradients(model, image)
    for name, value in grad(lambda p: loss_of(model, p, image))(params).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)
    one_by_one = vmap(grad(lambda p, x: loss_of(model, p, x[None])), in_dims=(None, 0))(
        params, image
    )
    for i in range(2):
        expected = gradients(model, image[i : i + 1])
        for name, value in one_by_one.items():
            torch.testing.assert_close(value[i], expected[name], rtol=1e-9, atol=1e-9)


def test_vmap_over_models(image):
    models = [make(), make()]
    with torch.no_grad():
        models[1].norm.weight.mul_(3)
    params, buffers = torch.func.stack_module_state(models)
    outputs = vmap(lambda p, b: functional_call(models[0], (p, b), (image,))[0])(
        params, buffers
    )
    for output, model in zip(outputs, models):
        torch.testing.assert_close(output, model(image)[0], rtol=1e-9, atol=1e-9)


def test_jvp_is_the_slope(image):
    model = make().eval()
    params = {k: v.detach() for k, v in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    tangents = {
        k: torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for k, v in params.items()
    }

    def run(params):
        return functional_call(model, params, (image,))[0]

    _, slope = jvp(run, (params,), (tangents,))
    step = 1e-6
    ends = [
        run({k: v + sign * step * tangents[k] for k, v in params.items()})
        for sign in (1, -1)
    ]
    torch.testing.assert_close(
        slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-4
    )


# --------------------------------------------------- quantization, LoRA and the like


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def test_dynamic_quantization_reaches_every_linear_layer():
    model = make(torch.float32).eval()
    image = torch.rand(2, 3, 24, 32)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert len(linears(model)) == 23
    assert not linears(quantized)
    with torch.no_grad():
        ours, theirs = quantized(image)[0], model(image)[0]
    assert (ours - theirs).abs().max() < 0.1 * theirs.abs().max()
    assert not torch.equal(ours, theirs)


def test_dynamic_quantization_of_location_attention():
    torch.manual_seed(0)
    attention = LocationAwareAttention(8, 16, embed_dims=32).eval()
    quantized = torch.ao.quantization.quantize_dynamic(attention, {nn.Linear})
    args = torch.rand(1, 4, 5, 8), torch.rand(1, 3, 16), torch.rand(1, 3, 4)
    with torch.no_grad():
        ours, theirs = quantized(*args), attention(*args)
    assert (ours - theirs).abs().max() < 0.1 * theirs.abs().max()


@pytest.mark.parametrize('kind', ['subclass', 'hook', 'method', 'global hook'])
def test_what_stands_in_a_linear_layers_place_is_called(kind):
    layer = ops.make_linear(4, 3)
    x = torch.rand(2, 4)
    expected = layer(x).detach() + 1
    handle = None
    if kind == 'subclass':

        class Plus(nn.Linear):
            def forward(self, x):
                return super().forward(x) + 1

        other = Plus(4, 3)
        other.load_state_dict(layer.state_dict())
        layer = other
    elif kind == 'hook':
        layer.register_forward_hook(lambda module, args, output: output + 1)
    elif kind == 'method':
        forward = layer.forward
        layer.forward = lambda x: forward(x) + 1
    else:
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, args, output: output + 1
        )
    try:
        torch.testing.assert_close(ops.project(x, layer), expected)
    finally:
        if handle:
            handle.remove()


# ------------------------------------------------------------------ numpy's integers


def test_numpy_integers_are_integers():
    model = SparseFormer(
        {k: np.int64(v) for k, v in ARCH.items()}, frozen_stages=np.int64(0)
    )
    assert model.state_dict().keys() == SparseFormer(ARCH).state_dict().keys()
    assert {type(model.arch[key]) for key in ARCH} == {int}
    with pytest.raises(ValueError, match='num_tokens=.*2.5.* must be an integer'):
        SparseFormer(ARCH, num_tokens=np.float64(2.5))
