"""Models that are not three-channel softmax: pictures, and how an ONNX file is read."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from helpers import toy_classifier, toy_segmentor, toy_video
from helpers.scripts import load_tool, run_tool
from sparseformer_mm.answers import Normalisation
from sparseformer_mm.host import Host, host_of
from sparseformer_mm.models.layouts import from_mm
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.visualization.truth import name_of

TEXTS = dict(
    mmpretrain=toy_classifier.CONFIG.format(data='data', shuffle=False, limit=True),
    mmseg=toy_segmentor.CONFIG.format(data='data', iterations=2),
    mmaction=toy_video.CONFIG.format(data='data', epochs=2, size=24),
)


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


def make(scope: str, *changes):
    """A toy model of a library, after replacements in its config's text."""
    reason = f'needs {scope}'
    if scope == 'mmaction':
        pytest.importorskip('sparseformer_mm.video.compat', reason=reason)
    pytest.importorskip(f'{scope}.models', reason=reason)
    text = TEXTS[scope]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    cfg = Config.fromstring(text, '.py')
    torch.manual_seed(0)
    return cfg, text, host_of(scope), host_of(scope).init_model(cfg, 'cpu')


def channels(count: int, gray: bool = False):
    kind = 'grayscale' if gray else 'unchanged'
    return (
        ('num_classes=3, mean=[127.5] * 3, std=[64.] * 3', 'num_classes=3'),
        (
            "type='sparseformer_mm.SparseFormer',",
            f"type='sparseformer_mm.SparseFormer', in_channels={count},",
        ),
        (
            "dict(type='LoadImageFromFile')",
            f"dict(type='LoadImageFromFile', color_type='{kind}')",
        ),
    )


# -------------------------------------------------------------------- channels


@pytest.mark.parametrize('count, mode', [(1, 'L'), (4, 'RGBA')])
def test_pictures_of_one_and_four_channels(tmp_path, count, mode):
    cfg, text, host, model = make('mmpretrain', *channels(count, count == 1))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, count), np.uint8)
    path = tmp_path / 'photo.png'
    Image.fromarray(pixels.squeeze(), mode).save(path)
    prediction = host.predict(model, str(path))
    assert prediction.frames.shape == (1, 24, 32, 3)
    expected = pixels.repeat(3, 2) if count == 1 else pixels[..., :3]
    np.testing.assert_array_equal(prediction.frames[0], expected)
    if count == 1:  # a disturbed picture comes from memory
        again = host.predict(model, expected)
        np.testing.assert_allclose(again.scores, prediction.scores, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="color_type='unchanged'.*--disturb"):
            host.predict(model, expected)


@pytest.mark.parametrize('count, mode', [(1, 'L'), (4, 'RGBA')])
def test_tools_on_one_and_four_channels(tmp_path, count, mode):
    cfg, text, host, model = make('mmpretrain', *channels(count, count == 1))
    (tmp_path / 'toy.py').write_text(text)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
    Image.new(mode, (32, 24), 77).save(tmp_path / 'photo.png')
    pytest.importorskip('matplotlib')
    status, log = run_tool(
        load_tool('visualization/vis_focus'),
        *(tmp_path / 'toy.py', tmp_path / 'model.pth', tmp_path / 'photo.png'),
        *('--out', tmp_path / 'shown', '--truth', 'none'),
    )
    assert status == 0 and (tmp_path / 'shown/photo_focus.png').is_file(), log
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    out = tmp_path / 'model.onnx'
    status, log = run_tool(
        load_tool('deployment/export_onnx'),
        *(tmp_path / 'toy.py', tmp_path / 'model.pth', '--out', out),
        *('--shape', 24, 32, '--check'),
    )
    assert status == 0, log
    (entry,) = onnx.load(str(out)).graph.input
    assert entry.type.tensor_type.shape.dim[1].dim_value == count


def test_normalisation_of_any_number_of_channels():
    preprocessor = torch.nn.Module()
    preprocessor._enable_normalize = True
    preprocessor.mean, preprocessor.std = (
        torch.tensor([[[5.0]]]),
        torch.tensor([[[2.0]]]),
    )
    gray = Host().read_normalisation(preprocessor, 1)
    assert gray == Normalisation((5.0,), (2.0,), 'as loaded')
    images = torch.arange(6.0).view(1, 1, 2, 3) * 40
    assert gray.undo(gray.apply(images))[0, 1, 2].tolist() == [200, 200, 200]
    preprocessor._enable_normalize = False
    assert Host().read_normalisation(preprocessor, 2).mean == (0.0, 0.0)


# ---------------------------------------------------- sigmoid and several classes

BINARY = (
    ('num_classes=3,\n', 'num_classes=2, out_channels=1, threshold=0.4,\n'),
    (
        'residual=True)',
        "residual=True, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))",
    ),
)


def test_one_output_with_sigmoid(tmp_path):
    cfg, text, host, model = make('mmseg', *BINARY)
    assert host.reading(model) == dict(activation='sigmoid', threshold=0.4)
    path = tmp_path / 'photo.png'
    Image.new('RGB', (48, 40), (220, 50, 50)).save(path)
    prediction = host.predict(model, str(path))
    assert prediction.mask.shape == (40, 48) and set(np.unique(prediction.mask)) <= {
        0,
        1,
    }
    (tmp_path / 'toy.py').write_text(text)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
    pytest.importorskip('matplotlib')
    status, log = run_tool(
        load_tool('visualization/vis_focus'),
        *(tmp_path / 'toy.py', tmp_path / 'model.pth', path),
        *('--out', tmp_path / 'shown', '--truth', 'none'),
    )
    assert status == 0 and (tmp_path / 'shown/photo_focus.png').is_file(), log
    onnx = pytest.importorskip('onnx')
    out = tmp_path / 'model.onnx'
    status, log = run_tool(
        load_tool('deployment/export_onnx'),
        *(tmp_path / 'toy.py', tmp_path / 'model.pth', '--out', out, '--shape', 40, 48),
    )
    assert status == 0, log
    props = {prop.key: prop.value for prop in onnx.load(str(out)).metadata_props}
    assert props['activation'] == 'sigmoid' and json.loads(props['threshold']) == 0.4


def test_softmax_is_what_others_have():
    for scope in TEXTS:
        *_, host, model = make(scope)
        assert host.reading(model) == dict(activation='softmax')


def test_labels_of_a_clip_with_several(tmp_path):
    """Sigmoids of each class, all those above a half named, best first."""
    from sparseformer_mm.answers import Prediction
    from sparseformer_mm.visualization.looks import _class_title

    *_, host, model = make(
        'mmaction',
        (
            "average_clips='prob'",
            "average_clips='score', multi_class=True, "
            "loss_cls=dict(type='BCELossWithLogits')",
        ),
    )
    assert host.reading(model) == dict(activation='sigmoid', threshold=0.5)
    scores = np.array([0.6, 0.2, 0.9])
    prediction = Prediction((8, 8), scores=scores, threshold=0.5)
    title = _class_title(prediction, None, ('run', 'sit', 'wave'))
    assert title == 'wave 0.90, run 0.60'
    none = _class_title(prediction._replace(threshold=0.95), None, None)
    assert none == 'no class with a score of 0.95'
    softmax = _class_title(prediction._replace(threshold=None), 1, None)
    assert softmax == '2 0.90, true 1'


def test_a_plain_string_is_the_name_of_one_class():
    assert name_of('cell', 0) == 'cell' and name_of('cell', 1) == '1'
    assert name_of(('red', 'blue'), 1) == 'blue' and name_of(None, 3) == '3'


# -------------------------------------------------- the second paper's models

BOOTSTRAPPED = (
    'arch=dict(num_tokens=4',
    "arch='bootstrapped-base', **dict(num_tokens=4",
)


def test_tools_on_a_bootstrapped_model(tmp_path):
    """From the authors' file to pictures and an ONNX file."""
    cfg, text, host, model = make('mmpretrain', BOOTSTRAPPED)
    state = {k: torch.randn_like(v) * 0.1 for k, v in model.state_dict().items()}
    rois = state['backbone.latent.token_rois']
    rois.copy_(torch.tensor([0.5, 0.5, 0.3, 0.4]))
    short = {k.replace('backbone.', ''): v for k, v in state.items()}
    short = {k.replace('head.fc.', 'head.'): v for k, v in short.items()}
    torch.save(from_mm(short, 'bootstrapped'), tmp_path / 'authors.pth')
    (tmp_path / 'toy.py').write_text(text)
    loaded = load_model(cfg, str(tmp_path / 'authors.pth')).state_dict()
    assert loaded.keys() == state.keys()
    for name, value in loaded.items():
        torch.testing.assert_close(value, state[name])
    pytest.importorskip('matplotlib')
    Image.new('RGB', (32, 24), (9, 99, 199)).save(tmp_path / 'photo.png')
    status, log = run_tool(
        load_tool('visualization/vis_focus'),
        *(tmp_path / 'toy.py', tmp_path / 'authors.pth', tmp_path / 'photo.png'),
        *('--out', tmp_path / 'shown', '--truth', 'none'),
    )
    assert status == 0 and (tmp_path / 'shown/photo_focus.png').is_file(), log
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    status, log = run_tool(
        load_tool('deployment/export_onnx'),
        *(tmp_path / 'toy.py', tmp_path / 'authors.pth'),
        *('--out', tmp_path / 'model.onnx', '--shape', 24, 32, '--check'),
    )
    assert status == 0, log


@pytest.mark.parametrize('scope', ['mmseg', 'mmaction'])
def test_dense_heads_and_tubes_on_a_bootstrapped_model(scope):
    """The class token is not among the tokens, and answers for a video."""
    old = 'arch=dict(num_tokens=16' if scope == 'mmseg' else BOOTSTRAPPED[0]
    new = f"arch='bootstrapped-base', **{old[5:]}"
    cfg, text, host, model = make(
        scope, (old, new), ('cortex_depth=2', 'cortex_depth=3')
    )
    size = (2, 3, 24, 32) if scope == 'mmseg' else (2, 1, 3, 8, 24, 24)
    images = torch.randn(size)
    with torch.no_grad():
        answer = model.eval()(images, None, mode='tensor')
        seen = model.backbone.forward_intermediates(images.squeeze(1))
    assert len(seen.tokens[0]) == len(seen.rois[0]) == (16 if scope == 'mmseg' else 8)
    if scope == 'mmseg':
        torch.testing.assert_close(answer, model.decode_head(seen))
    else:
        torch.testing.assert_close(answer.flatten(1), seen.pooled)


# ------------------------------------------------- files of others, for all tools


@pytest.mark.parametrize('kind', ['plain', 'module', 'lightning', 'authors'])
def test_tools_take_the_files_that_training_takes(tmp_path, kind):
    cfg, text, host, model = make('mmpretrain')
    state = {k: torch.randn_like(v) * 0.1 for k, v in model.state_dict().items()}
    rois = state['backbone.latent.token_rois']
    rois.copy_(torch.tensor([0.5, 0.5, 0.3, 0.4]))
    content = dict(state_dict=state, meta={})
    if kind == 'module':
        content = dict(state_dict={f'module.{k}': v for k, v in state.items()})
    elif kind == 'lightning':
        content = dict(state_dict={f'model.{k}': v for k, v in state.items()})
    elif kind == 'authors':
        short = {k.replace('backbone.', ''): v for k, v in state.items()}
        short = {k.replace('head.fc.', 'head.'): v for k, v in short.items()}
        content = dict(model=from_mm(short, 'v1'))
    torch.save(content, tmp_path / 'weights.pth')
    loaded = load_model(cfg, str(tmp_path / 'weights.pth')).state_dict()
    assert loaded.keys() == state.keys()
    for name, value in loaded.items():
        torch.testing.assert_close(value, state[name])


def test_tools_name_both_models_of_a_file(tmp_path):
    cfg, text, host, model = make('mmpretrain')
    state = model.state_dict()
    both = {
        f'{name}.{k}': v for name in ('student', 'teacher') for k, v in state.items()
    }
    torch.save(dict(state_dict=both), tmp_path / 'both.pth')
    with pytest.raises(SystemExit, match='student.*teacher'):
        load_model(cfg, str(tmp_path / 'both.pth'))
