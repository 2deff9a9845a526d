"""No tensor stays on the CPU: every task's model on a CUDA device that only pretends.

torch's fake tensors have shapes and devices, but no values; mixing devices is an error
as on a real one. (Backward passes need a driver.)
"""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import toy_classifier, toy_detector, toy_segmentor, toy_video
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.location_attention import LocationAwareAttention


def pretends() -> bool:
    """torch before 2.2 asks for a driver all the same."""
    try:
        with FakeTensorMode():
            torch.empty(1, device='cuda') + 1
    except (AssertionError, RuntimeError):
        return False
    return True


pytestmark = pytest.mark.skipif(
    not pretends(), reason='this torch has no CUDA device that only pretends'
)
CONFIGS = dict(
    mmpretrain=toy_classifier.CONFIG.format(data='data', shuffle=False, limit=True),
    mmdet=toy_detector.CONFIG.format(
        data='data', classes=toy_detector.CLASSES, epochs=2
    ),
    mmseg=toy_segmentor.CONFIG.format(data='data', iterations=2),
    mmaction=toy_video.CONFIG.format(data='data', epochs=2, size=24),
)
SIZE = (40, 48)


@pytest.fixture
def fake():
    with FakeTensorMode():
        yield


def on_cuda(function, *args, **kwargs):
    """Build something where tensors are made on the fake device."""
    with torch.device('cuda'):
        return function(*args, **kwargs)


def tensors_in(outputs):
    if torch.is_tensor(outputs):
        yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors_in(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_in(value)
    elif hasattr(outputs, 'all_items'):  # a data sample
        for _, value in outputs.all_items():
            yield from tensors_in(value)


def assert_on_cuda(outputs, least=1):
    devices = [tensor.device.type for tensor in tensors_in(outputs)]
    assert len(devices) >= least
    assert set(devices) == {'cuda'}


def samples_of(scope):
    """Data samples of two pictures without padding, whose size would be a value."""
    if scope == 'mmpretrain':
        return None
    if scope == 'mmaction':
        from mmaction.structures import ActionDataSample

        return [ActionDataSample() for _ in range(2)]
    meta = dict(
        img_shape=SIZE,
        ori_shape=SIZE,
        pad_shape=SIZE,
        batch_input_shape=SIZE,
        scale_factor=(1.0, 1.0),
    )
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    return [Sample(metainfo=meta) for _ in range(2)]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kind', ['image', 'padded', 'video', 'gather'])
def test_backbone(fake, monkeypatch, kind, training):
    is_video = kind == 'video'
    model = on_cuda(
        SparseFormer,
        'nano',
        cortex_depth=2,
        spatial_dims=3 if is_video else 2,
        out_indices=(0, 1),
        drop_path_rate=0.2,
    ).train(training)
    if kind == 'gather':  # as torch told to be deterministic
        monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    shape = (2, 3, 4, *SIZE) if is_video else (2, 3, *SIZE)
    inputs = on_cuda(torch.rand, shape)
    shapes = [SIZE, (16, 24)] if kind == 'padded' else None
    outputs = model.forward_intermediates(inputs, shapes)
    assert_on_cuda(outputs, least=5 + 3 * len(outputs.stages))


@pytest.mark.parametrize('stem', ['early_conv', 'patch_embed', 'pixel'])
@pytest.mark.parametrize('decoding', ['adaptive', 'static', 'linear'])
def test_parts(fake, stem, decoding):
    model = on_cuda(SparseFormer, 'nano', stem=stem, decoding=decoding, cortex_depth=1)
    assert_on_cuda(model(on_cuda(torch.rand, (1, 3, 24, 32))))


def test_location_attention(fake):
    attention = on_cuda(LocationAwareAttention, 8, 16, embed_dims=32)
    shapes = (2, 5, 7, 8), (2, 9, 16), (2, 9, 4)
    feature, tokens, rois = (on_cuda(torch.rand, shape) for shape in shapes)
    extents = on_cuda(torch.tensor, [[7.0, 5.0], [4.0, 3.0]])
    assert_on_cuda(attention(feature, tokens, rois, extents))


@pytest.mark.parametrize('mode', ['tensor', 'predict'])
@pytest.mark.parametrize('scope', CONFIGS)
def test_model_of_every_task(scope, mode):
    reason = f'needs {scope}'
    if scope == 'mmaction':
        pytest.importorskip('sparseformer_mm.video.compat', reason=reason)
    pytest.importorskip(f'{scope}.models', reason=reason)
    cfg = Config.fromstring(CONFIGS[scope], '.py')
    with DefaultScope.overwrite_default_scope(scope), FakeTensorMode():
        model = on_cuda(MODELS.build, cfg.model).eval().requires_grad_(False)
        shape = (2, 1, 3, 8, 24, 24) if scope == 'mmaction' else (2, 3, *SIZE)
        inputs = on_cuda(torch.rand, shape)
        kwargs = dict(data_samples=samples_of(scope))
        if scope == 'mmaction' and mode == 'tensor':
            kwargs['stage'] = 'head'
        assert_on_cuda(model(inputs, mode=mode, **kwargs))
