"""torch.compile, torch.export: one graph, the same answer."""

import importlib

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch._inductor import config as inductor

from helpers.numerics import assert_near
from helpers.small_model import small_bootstrapped, small_model
from sparseformer_mm.models import kernels, ops

pytestmark = pytest.mark.usefixtures('new_compiler')
MODERN = tuple(int(n) for n in torch.__version__.split('.')[:2]) >= (2, 6)


@pytest.mark.skipif(not MODERN, reason='older compilers break the graph here')
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(spatial_dims=3, token_inflation=2),
        dict(out_type='maps', map_strides=(4, 8), focusing_repeats=1, cortex_depth=1),
        dict(
            out_type='maps',
            map_strides=(4,),
            focusing_repeats=1,
            cortex_depth=1,
            with_cp=True,
        ),
    ],
)
def test_compiles_without_graph_breaks(kwargs):
    eager, compiled = small_model(**kwargs), small_model(**kwargs)
    for module in (eager, compiled):
        module.set_loss_scale(2.0)
    run = torch.compile(compiled, fullgraph=True, backend='aot_eager')
    shape = (2, 3, 3, 32, 40) if 'spatial_dims' in kwargs else (2, 3, 32, 40)
    inputs = torch.randn(shape)
    expected = eager(inputs)[-1]
    out = run(inputs)[-1]
    assert_near([out], [expected], 1e-5)
    expected.sum().backward()
    out.sum().backward()
    grads = ([p.grad for p in module.parameters()] for module in (compiled, eager))
    assert_near(*grads, 1e-4)


@torch.no_grad()
@pytest.mark.skipif(not MODERN, reason='older compilers break the graph here')
def test_a_bootstrapped_model_compiles():
    eager = small_bootstrapped(focusing_repeats=1, cortex_depth=2).double().eval()
    run = torch.compile(eager, fullgraph=True, backend='aot_eager')
    inputs = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    assert_near(run(inputs), eager(inputs), 1e-9)


@pytest.mark.skipif(not MODERN, reason='older compilers break the graph here')
@pytest.mark.parametrize('learns', [False, True])
def test_compiled_inference_gets_neither_grid_sample_nor_a_fused_kernel(learns):
    """Both are slow where a compiler for CPUs cannot look inside."""
    model, graphs = small_model().eval(), []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph

    inputs = torch.randn(2, 3, 32, 40)
    with torch.set_grad_enabled(learns):
        (out,) = torch.compile(model, fullgraph=True, backend=keep)(inputs)
        (expected,) = model(inputs)
    assert_near([out], [expected], 1e-5)
    for name in ('grid_sample', 'scaled_dot_product'):
        assert (name in graphs[0]) is learns


@pytest.mark.skipif(not MODERN, reason='older compilers do not say what they do')
@pytest.mark.parametrize(
    'fast, learns, freezing, operators',
    [
        (True, False, False, {'linear'}),
        (True, False, True, {'linear', 'pack'}),
        (False, False, True, set()),
        (True, True, True, set()),
    ],
)
def test_compiled_inference_keeps_the_fast_products(
    fast, learns, freezing, operators, monkeypatch
):
    model, graphs = small_model().eval(), []

    def keep(graph, _):
        graphs.append(graph.graph)
        return graph

    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    inputs = torch.randn(2, 3, 32, 40)
    with torch.set_grad_enabled(learns), inductor.patch(freezing=freezing):
        (out,) = torch.compile(model, fullgraph=True, backend=keep)(inputs)
        (expected,) = model(inputs)
    assert_near([out], [expected], 1e-5)
    targets = [node.target for node in graphs[0].nodes if node.op == 'call_function']
    ours = torch.ops.sparseformer_mm
    assert {name for name in ('linear', 'pack') if getattr(ours, name) in targets} == (
        operators
    )
    if kernels.OPS is not None:
        own = kernels.OPS.self_attention
        assert (own in targets) is ('linear' in operators)
    plain = torch._C._nn.linear in targets
    assert plain is not ('linear' in operators)


@pytest.mark.skipif(not MODERN, reason='older compilers do not say what they do')
def test_frozen_weights_are_packed_while_compiling():
    layer = nn.Linear(48, 96).eval()
    x = torch.randn(2, 7, 48)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return ops.project_gelu(x, self.layer)

    with torch.no_grad(), inductor.patch(freezing=True):
        run = torch.compile(Model())
        assert_near([run(x)], [layer(F.gelu(x))], 1e-5)
        with torch.profiler.profile() as profile:
            assert_near([run(x)], [layer(F.gelu(x))], 1e-5)
    called = {event.key for event in profile.key_averages()}
    assert 'mkldnn::_linear_pointwise' in called
    assert 'mkldnn::_reorder_linear_weight' not in called


@pytest.mark.skipif(not MODERN, reason='older compilers do not say what they do')
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_weights_that_are_not_constant_are_not_packed(backend):
    """``freezing`` or not: an argument, and a layer whose result is trained on."""
    layer, x = nn.Linear(48, 96), torch.randn(7, 48)
    bias = torch.zeros(96, requires_grad=True)

    def teach(x):
        with torch.no_grad():
            out = ops.project(x, layer)
        return out + bias

    with inductor.patch(freezing=True):
        with torch.no_grad():
            run = torch.compile(ops.linear, backend=backend)
            for weight in (layer.weight.detach(), layer.weight.detach() * 2):
                assert_near([run(x, weight)], [F.linear(x, weight)], 1e-5)
        out = torch.compile(teach, backend=backend)(x)
        assert_near([out], [layer(x)], 1e-5)
    out.sum().backward()
    assert torch.equal(bias.grad, torch.full((96,), 7.0))


@pytest.mark.skipif(not MODERN, reason='older compilers do not say what they do')
@torch.no_grad()
def test_compiled_transforms_and_settings_get_plain_products():
    layer, x = ops.make_linear(6, 3), torch.randn(4, 6)

    def slope(x):
        return torch.func.jvp(lambda x: ops.project(x, layer), (x,), (x,))[1]

    run = torch.compile(slope, backend='aot_eager')
    assert_near([run(x)], [F.linear(x, layer.weight)], 1e-5)
    run = torch.compile(lambda x: ops.project(x, layer), backend='aot_eager')
    off = torch.backends.mkldnn.flags(enabled=False)
    with off, torch.profiler.profile() as profile:
        run(x)
    called = {event.key for event in profile.key_averages()}
    assert 'sparseformer_mm::linear' in called
    assert 'mkldnn::_linear_pointwise' not in called


@pytest.mark.skipif(not MODERN, reason='older compilers do not say what they do')
def test_operators_outlive_a_reload():
    importlib.reload(ops)
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    run = torch.ops.sparseformer_mm.linear
    assert_near([run(x, weight, None)], [F.linear(x, weight)], 1e-5)
    assert run(x[:0], weight, None).shape == (0, 3)
    empty = run(x[:, :0], weight[:, :0], weight[:, 0])
    assert torch.equal(empty, weight[:, 0].expand(4, 3))


@pytest.mark.skipif(not MODERN, reason='torch.export of this torch is a prototype')
@pytest.mark.parametrize(
    'out_type, gather',
    [('pooled', False), ('pooled', True), ('featmap', False), ('tokens', False)],
)
@pytest.mark.parametrize('dims', [2, 3])
def test_exports_with_dynamic_batch(out_type, dims, gather, monkeypatch):
    monkeypatch.setattr(ops, 'TRACE_GATHER', gather)
    module = small_model(out_type=out_type, spatial_dims=dims, token_inflation=dims - 1)
    module.eval()
    size = (3, 32, 40) if dims == 2 else (3, 6, 32, 40)
    batch = torch.export.Dim('batch', min=2, max=16)
    program = torch.export.export(
        module, (torch.randn(2, *size),), dynamic_shapes=({0: batch},)
    )
    targets = {str(node.target) for node in program.graph.nodes}
    assert any('grid_sampler' in target for target in targets) is not gather
    inputs = torch.randn(5, *size)
    outputs, references = program.module()(inputs), module(inputs)
    if out_type == 'tokens':
        assert outputs.map_extents is None
        outputs, references = outputs[:3], references[:3]
    if isinstance(references, torch.Tensor):  # the map of a video
        outputs, references = (outputs,), (references,)
    assert_near(outputs, references, 1e-5)
