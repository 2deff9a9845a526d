"""tools/deployment/export_onnx.py: the file's answers are the library's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

onnx = pytest.importorskip('onnx', reason='needs onnx: pip install onnx onnxruntime')
onnxruntime = pytest.importorskip(
    'onnxruntime', reason='needs onnxruntime: pip install onnx onnxruntime'
)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from helpers import toy_detector, toy_segmentor, toy_training, toy_video  # noqa: E402
from helpers.scripts import load_tool  # noqa: E402
from sparseformer_mm.deployment import check, export  # noqa: E402
from sparseformer_mm.host import host_of  # noqa: E402
from sparseformer_mm.utils.configs import load_config  # noqa: E402

ROOT = toy_training.ROOT


tool = load_tool('deployment/export_onnx')

CLASSES = ('one', 'two', 'thrée')
TEXTS = dict(
    cls=toy_training.CONFIG.format(data='data', shuffle=False, limit=True),
    det=toy_detector.CONFIG.format(data='data', classes=toy_detector.CLASSES, epochs=2),
    seg=toy_segmentor.CONFIG.format(data='data', iterations=2),
    video=toy_video.CONFIG.format(data='data', epochs=2, size=24),
)
TEXTS['softmax'] = TEXTS['det'].replace(
    "loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=2.)",
    "loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=.1, class_weight=1.)",
)
SIZES = dict(cls=(32, 40), det=(48, 64), softmax=(48, 64), seg=(41, 54))
SIZES['video'] = (8, 24, 36)
LIBRARIES = dict(cls='mmpretrain', seg='mmseg', video='mmaction')
MARKS = dict(LIBRARIES, det='mmdet', softmax='mmdet')


def params(*kinds):
    return [pytest.param(k, marks=getattr(pytest.mark, MARKS[k])) for k in kinds]


ALL = params('cls', 'det', 'softmax', 'seg', 'video')


@pytest.fixture(autouse=True)
def scope():
    """Leave the scope of whatever library a test enters."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


@pytest.fixture
def toy(tmp_path):
    """Make config and checkpoint of a task's toy model; return paths and model.

    All weights are random, so that RoIs, points and boxes differ between images.
    """

    def make(kind: str, text: str = None):
        library = MARKS[kind]
        if library == 'mmaction':
            pytest.importorskip('sparseformer_mm.video.compat')
        pytest.importorskip(library, reason=f'needs {library}')
        config = tmp_path / f'{kind}.py'
        config.write_text(text or TEXTS[kind])
        cfg = load_config(str(config))
        with DefaultScope.overwrite_default_scope(library):
            model = build(cfg)
        torch.manual_seed(0)
        for name, param in model.named_parameters():
            if 'token_rois' not in name:
                param.data.add_(torch.randn_like(param) * 0.15)
        for name, buffer in model.named_buffers():
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
        checkpoint = tmp_path / f'{kind}.pth'
        meta = dict(dataset_meta=dict(classes=CLASSES))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
        return str(config), str(checkpoint), model.eval()

    return make


def build(cfg):
    from mmengine.registry import MODELS

    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    return MODELS.build(cfg.model)


def run_tool(folder: Path, *argv) -> Path:
    out = folder / 'model.onnx'
    tool.main([*map(str, argv), '--out', str(out)])
    return out


def answer(path: Path, images: torch.Tensor) -> dict:
    session = onnxruntime.InferenceSession(
        path.read_bytes(), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {'input': images.numpy()})))


def pictures(kind: str, batch: int, size=None, seed: int = 7) -> torch.Tensor:
    """Smooth pictures or clips in 0..255, RGB."""
    size = size or SIZES[kind]
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, *(4,) * len(size), generator=generator) * 255
    mode = 'trilinear' if len(size) == 3 else 'bilinear'
    return torch.nn.functional.interpolate(coarse, size, mode=mode)


def preprocess(model, kind: str, pixels: torch.Tensor) -> torch.Tensor:
    """By the library's own data preprocessor."""
    # Pictures come as loaded, BGR; clips RGB, and with an axis for views.
    if kind == 'video':
        data = dict(inputs=list(pixels[:, None]), data_samples=None)
        return model.data_preprocessor(data)['inputs'][:, 0]
    inputs = pixels.flip(1)
    if kind == 'cls':
        return model.data_preprocessor(dict(inputs=inputs))['inputs']
    if kind == 'seg':
        model.data_preprocessor.size = tuple(pixels.shape[-2:])  # which it pads to
        data = dict(inputs=list(inputs), data_samples=None)
        return model.data_preprocessor(data)['inputs']
    from mmdet.structures import DetDataSample

    samples = [DetDataSample() for _ in pixels]
    data = dict(inputs=list(inputs), data_samples=samples)
    return model.data_preprocessor(data)['inputs']


@torch.no_grad()
def expected(model, kind: str, images: torch.Tensor, raw: bool = False) -> dict:
    """What the library's own prediction says."""
    if kind == 'cls':
        return dict(logits=model(images, mode='tensor'))
    if kind == 'video':
        from mmaction.structures import ActionDataSample

        samples = [ActionDataSample() for _ in images]
        scores = model(images[:, None], samples, mode='predict')
        return dict(scores=torch.stack([sample.pred_score for sample in scores]))
    size = tuple(images.shape[-2:])
    metas = dict(
        ori_shape=size, img_shape=size, pad_shape=size, scale_factor=(1.0,) * 2
    )
    if kind == 'seg':
        from mmseg.structures import SegDataSample

        if raw:
            return dict(logits=model(images, mode='tensor'))
        samples = [SegDataSample(metainfo=metas) for _ in images]
        found = model(images, samples, mode='predict')
        return dict(logits=torch.stack([one.seg_logits.data for one in found]))
    from mmdet.structures import DetDataSample

    if raw:
        logits, boxes = model(images, mode='tensor')
        return dict(logits=logits[-1], boxes=boxes[-1])
    samples = [DetDataSample(metainfo=metas) for _ in images]
    found = [one.pred_instances for one in model(images, samples, mode='predict')]
    return {
        name: torch.stack([one[key] for one in found])
        for name, key in dict(boxes='bboxes', scores='scores', labels='labels').items()
    }


def assert_same(found: dict, wanted: dict):
    if set(wanted) == {'scores'}:  # of clips
        found = dict(scores=torch.tensor(found['logits']).softmax(-1).numpy())
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        value = value.numpy()
        assert found[name].shape == value.shape
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=1e-4 * scale, err_msg=name
        )


def node_types(path: Path) -> list:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize('kind', ALL)
def test_answers_of_the_library(toy, tmp_path, kind):
    config, checkpoint, model = toy(kind)
    out = run_tool(tmp_path, config, checkpoint, '--shape', *SIZES[kind])
    # Sampling is GridSample for pictures (one per stage), gathered rows for clips.
    assert node_types(out).count('GridSample') == (0 if kind == 'video' else 3)
    for batch in (1, 3):
        images = preprocess(model, kind, pictures(kind, batch))
        assert_same(answer(out, images), expected(model, kind, images))
    # The images are told apart, and so is where the tokens look.
    with torch.no_grad():
        stages = model.backbone.forward_intermediates(images).stages
    for record in stages[1:]:
        assert record.rois.std(0).max() > 1e-3
        assert record.points.std(0).max() > 1e-3
    first, last = stages[0].rois, stages[-1].rois
    assert (last - first).abs().max() > 0.05


@pytest.mark.parametrize('kind', params('det', 'softmax', 'seg'))
def test_raw(toy, tmp_path, kind):
    config, checkpoint, model = toy(kind)
    out = run_tool(tmp_path, config, checkpoint, '--shape', *SIZES[kind], '--raw')
    images = preprocess(model, kind, pictures(kind, 2))
    wanted = expected(model, kind, images, raw=True)
    assert_same(answer(out, images), wanted)
    shapes = dict(
        det=dict(logits=(2, 8, 2), boxes=(2, 8, 4)),
        softmax=dict(logits=(2, 8, 3), boxes=(2, 8, 4)),
        seg=dict(logits=(2, 3, 11, 14)),
    )
    assert {k: tuple(v.shape) for k, v in wanted.items()} == shapes[kind]


@pytest.mark.parametrize('kind', params('cls', 'det', 'seg', 'video'))
def test_preprocessing_inside(toy, tmp_path, kind):
    # Each channel its own figures, or a wrong order would not show.
    text = TEXTS[kind].replace(
        'mean=[127.5] * 3, std=[64.] * 3', 'mean=[120., 110., 90.], std=[50., 60., 75.]'
    )
    assert text != TEXTS[kind]
    if kind == 'seg':  # one that takes BGR, as Caffe's models do
        text = text.replace('bgr_to_rgb=True', 'bgr_to_rgb=False')
    if kind == 'cls':
        text = text.replace('num_classes=3, mean', 'to_rgb=True, num_classes=3, mean')
    config, checkpoint, model = toy(kind, text)
    argv = (config, checkpoint, '--shape', *SIZES[kind])
    plain = run_tool(tmp_path, *argv)
    props = {p.key: p.value for p in onnx.load(str(plain)).metadata_props}
    assert json.loads(props['mean']) == [120, 110, 90]
    assert json.loads(props['std']) == [50, 60, 75]
    assert props['channel_order'] == ('BGR' if kind == 'seg' else 'RGB')
    assert json.loads(props['preprocess_included']) is False
    out = run_tool(tmp_path, *argv, '--with-preprocess')
    props = {p.key: p.value for p in onnx.load(str(out)).metadata_props}
    assert json.loads(props['preprocess_included']) is True
    assert props['channel_order'] == 'RGB'
    pixels = pictures(kind, 2)
    images = preprocess(model, kind, pixels)
    assert_same(answer(out, pixels), expected(model, kind, images))


@pytest.mark.parametrize('kind', ALL)
def test_dynamic_size(toy, tmp_path, kind):
    config, checkpoint, model = toy(kind)
    argv = (config, checkpoint, '--shape', *SIZES[kind], '--dynamic-size')
    out = run_tool(tmp_path, *argv)
    *frames, height, width = SIZES[kind]
    for size in ((height + 13, width - 6), (height - 8, width + 21)):
        images = preprocess(model, kind, pictures(kind, 2, (*frames, *size)))
        assert_same(answer(out, images), expected(model, kind, images))


@pytest.mark.parametrize('opset', [14, 15])
@pytest.mark.parametrize('kind', params('cls', 'det', 'seg', 'video'))
def test_old_opsets_gather_rows(toy, tmp_path, kind, opset):
    config, checkpoint, model = toy(kind)
    argv = (config, checkpoint, '--shape', *SIZES[kind])
    out = run_tool(tmp_path, *argv, '--opset', opset)
    assert 'GridSample' not in node_types(out)
    images = preprocess(model, kind, pictures(kind, 2))
    assert_same(answer(out, images), expected(model, kind, images))


@pytest.mark.mmaction
def test_grid_sample_of_clips(toy, tmp_path, capsys):
    config, checkpoint, model = toy('video')
    argv = (config, checkpoint, '--shape', *SIZES['video'], '--sampler', 'grid')
    with pytest.raises(SystemExit, match='opset 17 has no GridSample for 3.*raise it'):
        run_tool(tmp_path, *argv)
    try:
        out = run_tool(tmp_path, *argv, '--opset', '20')
    except SystemExit as error:
        assert 'cannot write opset 20; take 17' in str(error)
        assert tuple(map(int, torch.__version__.split('.')[:2])) < (2, 5)
        return
    assert node_types(out).count('GridSample') == 3
    images = preprocess(model, 'video', pictures('video', 2))
    assert_same(answer(out, images), expected(model, 'video', images))


@pytest.mark.mmpretrain
def test_file(toy, tmp_path, capsys):
    config, checkpoint, model = toy('cls')
    argv = (config, checkpoint, '--shape', 32, 40)
    proto = onnx.load(str(run_tool(tmp_path, *argv)))
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [['batch', 3, 32, 40], ['batch', 3]]
    props = {p.key: p.value for p in proto.metadata_props}
    assert props['task'] == 'classification'
    assert json.loads(props['input_size']) == [32, 40]
    assert json.loads(props['dynamic_batch']) is True
    assert json.loads(props['classes']) == list(CLASSES)
    # Without its optional bias, onnxruntime 1.31 crashes.
    norms = [n for n in proto.graph.node if n.op_type == 'LayerNormalization']
    assert norms and all(len(n.input) == 3 and n.input[2] for n in norms)

    out = run_tool(tmp_path, *argv, '--batch', 2, '--check')
    shape = onnx.load(str(out)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 32, 40]
    assert 'input 2x3x32x40, logits: largest difference' in capsys.readouterr().out


@pytest.mark.mmpretrain
def test_check_finds_a_difference(toy, tmp_path, capsys):
    config, checkpoint, model = toy('cls')
    argv = (config, checkpoint, '--shape', 32, 40)
    out = run_tool(tmp_path, *argv, '--check')
    said = capsys.readouterr().out
    assert 'input 1x3x32x40, logits' in said and 'input 3x3x32x40, logits' in said
    model.backbone.focusing.sampler.bias.data += 0.5 * torch.rand(8)
    module = export.Exportable(model, 'mmpretrain')
    shapes = [(1, 3, 32, 40)]
    run = check.onnx_runner(module, out.read_bytes(), threads=1)
    (one,) = check.compare(module, run, shapes)
    assert one.largest > 1e-3 and not one.is_fine
    (own,) = check.compare(module, check.float64_runner(module), shapes)
    assert 0 < own.largest < 1e-4
    said = f'more than 0.0001.*float64 by {own.largest:.2e}'
    with pytest.raises(SystemExit, match=said):
        tool.report(module, out.read_bytes(), shapes)


def test_ties_among_detections():
    expected = [
        np.arange(16.0).reshape(1, 4, 4),
        np.array([[0.9, 0.5, 0.5, 0.2]]),
        np.array([[1, 2, 3, 4]]),
    ]
    found = [x.copy() for x in expected]
    found[1] += 1e-6
    # The middle two have changed places, another one is the last.
    found[0][0, [1, 2]] = found[0][0, [2, 1]]
    found[2][0, 1:] = [3, 2, 7]
    settled = check._settle_ties(expected, found)
    np.testing.assert_array_equal(settled[0], expected[0])
    np.testing.assert_array_equal(settled[2], expected[2])
    found[2][0, 0] = 5  # nothing has the first one's score
    assert check._settle_ties(expected, found)[2][0, 0] == 5


@pytest.mark.parametrize(
    'name, size',
    [
        ('classification/sparseformer-tiny_8xb128_in1k', [224, 224]),
        ('classification/sparseformer-nano_1xb64_flowers5', [160, 160]),
        ('video/sparseformer-tiny_32xb8-32x4-50e_k400', [32, 224, 224]),
    ],
)
def test_size_of_the_test_pipeline(name, size):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    task, scope = name.partition('/')[0], cfg.default_scope
    pytest.importorskip(f'sparseformer_mm.{task}', reason=f'needs {scope}')
    assert host_of(scope).input_size(cfg) == size


@pytest.mark.mmseg
def test_size_of_a_window():
    pytest.importorskip('mmseg', reason='needs mmseg')
    model = dict(test_cfg=dict(mode='slide', crop_size=(512, 1024)))
    assert host_of('mmseg').input_size(Config(dict(model=model))) == [512, 1024]


@pytest.mark.mmpretrain
def test_refuses(toy, tmp_path, monkeypatch, capsys):
    config, checkpoint, model = toy('cls')
    shape = ('--shape', 32, 40)

    def refusal(*argv) -> str:
        with pytest.raises(SystemExit) as error:
            run_tool(tmp_path, *argv)
        return str(error.value)

    assert 'does not say which size' in refusal(config, checkpoint)
    assert '--shape must be H W' in refusal(config, checkpoint, '--shape', 8, 32, 40)
    assert 'there is no checkpoint file' in refusal(config, 'none.pth', *shape)
    other = ('--cfg-options', 'model.head.num_classes=7')
    assert 'does not fit the model' in refusal(config, checkpoint, *shape, *other)
    assert 'cannot write opset 99; take 17' in refusal(
        config, checkpoint, *shape, '--opset', 99
    )
    assert 'opset 13 is too old: give 14 or more' in refusal(
        config, checkpoint, *shape, '--opset', 13
    )
    refusal(config, checkpoint, *shape, '--batch', 'many')
    assert "'dynamic' or a positive number" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'pip install onnx onnxruntime' in refusal(
        config, checkpoint, *shape, '--check'
    )
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert 'pip install onnx onnxruntime' in refusal(config, checkpoint, *shape)
    assert not (tmp_path / 'model.onnx').exists()


def test_refuses_models_it_does_not_know():
    with pytest.raises(ValueError, match="default_scope 'mmocr' is none of mmpretrain"):
        export.Exportable(torch.nn.Identity(), 'mmocr')
    with pytest.raises(ValueError, match='the backbone is a NoneType'):
        export.Exportable(torch.nn.Identity(), 'mmpretrain')
