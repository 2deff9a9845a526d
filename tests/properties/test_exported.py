"""Generated models, exported: the program's answer is the model's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers.generated import cases
from helpers.generated_models import IMAGES, VIDEOS, build, everything, models
from helpers.numerics import assert_near
from sparseformer_mm import SparseFormerOutput
from sparseformer_mm.deployment import check, export
from sparseformer_mm.models import ops

MODERN = tuple(int(n) for n in torch.__version__.split('.')[:2]) >= (2, 6)


# ('middle' magnifies rounding a millionfold: tubes of points without length in time.)
KINDS = dict(
    images=models(IMAGES, with_cp=False),
    maps=models(
        IMAGES, with_cp=False, out_type='maps', map_strides=(8, 16), map_channels=[6, 4]
    ),
    videos=models(VIDEOS, with_cp=False, time_offsets='spread'),
)


def tensors(outputs) -> list:
    """All tensors of what a backbone gives, in order."""
    if isinstance(outputs, SparseFormerOutput):
        assert outputs.map_extents is None
        return [*everything(outputs), outputs.image_feature]
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.skipif(not MODERN, reason='torch.export of this torch is a prototype')
@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_torch_export_is_eager(monkeypatch, kind):
    @given(KINDS[kind], st.booleans())
    @cases(3)
    def compare(case, gather):
        arguments, inputs = case
        monkeypatch.setattr(ops, 'TRACE_GATHER', gather)
        model = build(arguments)
        inputs = torch.cat(
            [inputs, inputs.flip(-1)]
        )  # two at least: one would stay one
        batch = torch.export.Dim('batch', min=2, max=64)
        program = torch.export.export(model, (inputs,), dynamic_shapes=({0: batch},))
        for others in (inputs, torch.cat([inputs, inputs.flip(-2)])[:-1]):
            exported = program.module()(others)
            assert_near(tensors(exported), tensors(model(others)), 1e-9)

    compare()


class Plain(nn.Module):
    """A model of mmengine alone; its answer is all that the backbone gives."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.data_preprocessor = backbone, None

    def forward(self, images, mode):
        return torch.cat([x.flatten(1) for x in tensors(self.backbone(images))], 1)


EXPORTS = st.fixed_dictionaries(
    dict(
        opset=st.sampled_from([14, 15, 16, 17]),
        batch=st.sampled_from([None, None, 1, 3]),
        dynamic_size=st.sampled_from([True, True, False]),
        sampler=st.sampled_from(['auto', 'grid', 'gather']),
    )
)
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_onnx_is_eager(kind):
    pytest.importorskip('onnx', reason='needs onnx: pip install onnx onnxruntime')
    pytest.importorskip('onnxruntime', reason='needs onnxruntime')

    @given(KINDS[kind], EXPORTS, SIDES)
    @cases(7)
    def compare(case, options, other):
        arguments, inputs = case
        module = export.Exportable(Plain(build(arguments).float()), 'mmengine')
        module.task = 'none'  # which the file is to name
        size = inputs.shape[2:]
        if options['sampler'] == 'grid':
            options['opset'] = max(16, options['opset'])
        if options['sampler'] == 'grid' and module.rank == 3:
            with pytest.raises(ValueError, match='has no GridSample for 3 dimensions'):
                export.to_onnx(module, size, **options)
            options['sampler'] = 'auto'
        proto = export.to_onnx(module, size, **options)
        run = check.onnx_runner(module, proto.SerializeToString(), threads=1)
        sizes = [size, (*size[:-2], *other)] if options['dynamic_size'] else [size]
        batches = [1, 3] if options['batch'] is None else [options['batch']]
        for shape in [(n, module.channels, *sides) for n in batches for sides in sizes]:
            images = check.random_images(module, shape)
            eager = [x.flatten(1) for x in tensors(module.model.backbone(images))]
            (answer,) = map(torch.from_numpy, run(images))
            assert len(answer) == shape[0]
            widths = [x.shape[1] for x in eager]
            assert_near(answer.split(widths, 1), eager, check.TOLERANCE)

    compare()
