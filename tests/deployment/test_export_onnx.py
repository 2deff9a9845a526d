"""tools/deployment/export_onnx.py: the file's answers are the library's."""

import copy
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

from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from helpers import toy_classifier, toy_detector, toy_segmentor, toy_video  # noqa: E402
from helpers.scripts import load_tool, run_tool  # noqa: E402
from sparseformer_mm import SparseFormer  # noqa: E402
from sparseformer_mm.deployment import check, export  # noqa: E402
from sparseformer_mm.utils.configs import load_config  # noqa: E402

tool = load_tool('deployment/export_onnx')

CLASSES = ('one', 'two', 'thrée')
# Each channel has figures of its own, or a wrong order would not show.
GREY = 'mean=[127.5] * 3, std=[64.] * 3'
COLOURED = 'mean=[120., 110., 90.], std=[50., 60., 75.]'
TEXTS = {
    'classification': toy_classifier.CONFIG.format(
        data='data', shuffle=False, limit=True
    ).replace('num_classes=3, mean', 'to_rgb=True, num_classes=3, mean'),
    'detection': toy_detector.CONFIG.format(
        data='data', classes=toy_detector.CLASSES, epochs=2
    ),
    # One that takes BGR, as Caffe's models do.
    'segmentation': toy_segmentor.CONFIG.format(data='data', iterations=2).replace(
        'bgr_to_rgb=True', 'bgr_to_rgb=False'
    ),
    'video': toy_video.CONFIG.format(data='data', epochs=2, size=24),
}
TEXTS['softmax'] = TEXTS['detection'].replace(
    "loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=2.)",
    "loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=.1, class_weight=1.)",
)
assert TEXTS['softmax'] != TEXTS['detection']
TEXTS['evidence'] = TEXTS['detection'].replace(
    'refine_boxes=True', 'refine_boxes=True, map_evidence=dict(feat_channels=16)'
)
assert TEXTS['evidence'] != TEXTS['detection']
SIZES = dict(
    classification=(32, 40),
    detection=(48, 64),
    softmax=(48, 64),
    # The map of stride 8 leaves the image.
    evidence=(44, 60),
    segmentation=(41, 54),
    video=(8, 24, 36),
)
LIBRARIES = dict(
    classification='mmpretrain',
    detection='mmdet',
    softmax='mmdet',
    evidence='mmdet',
    segmentation='mmseg',
    video='mmaction',
)


def params(*kinds):
    return [pytest.param(k, marks=getattr(pytest.mark, LIBRARIES[k])) for k in kinds]


TASKS = params('classification', 'detection', 'segmentation', 'video')
ALL = [*TASKS, *params('softmax', 'evidence')]


@pytest.fixture(autouse=True)
def scope():
    """Leave the scope of whatever library a test enters."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


class Toy:
    """A toy model with its config and checkpoint, and the files exported from it.

    All weights are random, so that RoIs, points and boxes differ between images.
    """

    def __init__(self, kind: str, folder: Path):
        self.kind, self.folder = kind, folder
        self.config, self.checkpoint = folder / 'toy.py', folder / 'toy.pth'
        assert GREY in TEXTS[kind]
        self.config.write_text(TEXTS[kind].replace(GREY, COLOURED))
        cfg = load_config(str(self.config))
        if cfg.get('data_preprocessor'):
            cfg.model.data_preprocessor = cfg.data_preprocessor
        with DefaultScope.overwrite_default_scope(LIBRARIES[kind]):
            self.model = MODELS.build(cfg.model).eval()
        torch.manual_seed(0)
        for name, param in self.model.named_parameters():
            if 'token_rois' not in name:
                param.data.add_(torch.randn_like(param) * 0.15)
        for name, buffer in self.model.named_buffers():
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
        meta = dict(dataset_meta=dict(classes=CLASSES))
        torch.save(dict(state_dict=self.model.state_dict(), meta=meta), self.checkpoint)
        self._files = {}

    def run(self, *options) -> str:
        """What the tool prints; it has to succeed."""
        status, output = self.call(*options)
        assert status == 0, output
        return output

    def call(self, *options):
        """Exit status and output of the tool; ``--shape`` is given if not there."""
        if '--shape' not in options:
            options = ('--shape', *SIZES[self.kind], *options)
        out = ('--out', self.folder / 'model.onnx')
        return run_tool(tool, self.config, self.checkpoint, *options, *out)

    def export(self, *options) -> Path:
        """The file that the tool makes with options, made once."""
        if options not in self._files:
            self.run(*options)
            path = self.folder / f'{len(self._files)}.onnx'
            (self.folder / 'model.onnx').rename(path)
            self._files[options] = path
        return self._files[options]


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    made = {}

    def make(kind: str) -> Toy:
        library = 'sparseformer_mm.video' if kind == 'video' else LIBRARIES[kind]
        pytest.importorskip(library, reason=f'needs {LIBRARIES[kind]}')
        if kind not in made:
            made[kind] = Toy(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


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


def preprocess(toy: Toy, pixels: torch.Tensor) -> torch.Tensor:
    """By the library's own data preprocessor."""
    preprocessor = toy.model.data_preprocessor
    # Pictures come as loaded, BGR; clips RGB, and with an axis for views.
    if toy.kind == 'video':
        data = dict(inputs=list(pixels[:, None]), data_samples=None)
        return preprocessor(data)['inputs'][:, 0]
    inputs = pixels.flip(1)
    if toy.kind == 'classification':
        return preprocessor(dict(inputs=inputs))['inputs']
    if toy.kind == 'segmentation':
        preprocessor.size = tuple(pixels.shape[-2:])  # which it pads to
        return preprocessor(dict(inputs=list(inputs), data_samples=None))['inputs']
    from mmdet.structures import DetDataSample

    samples = [DetDataSample() for _ in pixels]
    return preprocessor(dict(inputs=list(inputs), data_samples=samples))['inputs']


@torch.no_grad()
def expected(toy: Toy, images: torch.Tensor, raw: bool = False) -> dict:
    """What the library's own prediction says."""
    model, kind = toy.model, toy.kind
    if kind == 'classification':
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
    if kind == 'segmentation':
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


def properties(path: Path) -> dict:
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


@pytest.mark.parametrize('kind', ALL)
def test_answers_of_the_library(toy, kind):
    toy = toy(kind)
    out = toy.export()
    # Sampling is GridSample for pictures (one per stage, and one for the cells of
    # boxes), gathered rows for clips.
    samplings = dict(video=0, evidence=4).get(kind, 3)
    assert node_types(out).count('GridSample') == samplings
    for batch in (1, 3):
        images = preprocess(toy, pictures(kind, batch))
        assert_same(answer(out, images), expected(toy, images))
    # The images are told apart, and so is where the tokens look.
    with torch.no_grad():
        records = toy.model.backbone.forward_intermediates(images).stages
    for record in records[1:]:
        assert record.rois.std(0).max() > 1e-3
        assert record.points.std(0).max() > 1e-3
    assert (records[-1].rois - records[0].rois).abs().max() > 0.05

    *frames, height, width = SIZES[kind]
    out = toy.export('--dynamic-size')
    for size in ((height + 13, width - 6), (height - 8, width + 21)):
        images = preprocess(toy, pictures(kind, 2, (*frames, *size)))
        assert_same(answer(out, images), expected(toy, images))


@pytest.mark.parametrize('kind', params('classification'))
def test_a_file_has_one_number_of_tokens(toy, kind):
    toy = toy(kind)
    out = toy.export('--cfg-options', 'model.backbone.test_tokens=2')
    images = preprocess(toy, pictures(kind, 2))
    every = expected(toy, images)
    toy.model.backbone.test_tokens = 2
    few = expected(toy, images)
    toy.model.backbone.test_tokens = None
    assert not torch.allclose(few['logits'], every['logits'], atol=1e-3)
    assert_same(answer(out, images), few)


@pytest.mark.parametrize('kind', params('detection', 'softmax', 'segmentation'))
def test_raw(toy, kind):
    toy = toy(kind)
    images = preprocess(toy, pictures(kind, 2))
    wanted = expected(toy, images, raw=True)
    assert_same(answer(toy.export('--raw'), images), wanted)
    shapes = dict(
        detection=dict(logits=(2, 8, 2), boxes=(2, 8, 4)),
        softmax=dict(logits=(2, 8, 3), boxes=(2, 8, 4)),
        segmentation=dict(logits=(2, 3, 11, 14)),
    )
    assert {k: tuple(v.shape) for k, v in wanted.items()} == shapes[kind]


@pytest.mark.parametrize('kind', TASKS)
def test_preprocessing_inside(toy, kind):
    toy = toy(kind)
    props = properties(toy.export())
    assert json.loads(props['mean']) == [120, 110, 90]
    assert json.loads(props['std']) == [50, 60, 75]
    assert props['channel_order'] == ('BGR' if kind == 'segmentation' else 'RGB')
    assert json.loads(props['preprocess_included']) is False
    out = toy.export('--with-preprocess')
    props = properties(out)
    assert json.loads(props['preprocess_included']) is True
    assert props['channel_order'] == 'RGB'
    pixels = pictures(kind, 2)
    assert_same(answer(out, pixels), expected(toy, preprocess(toy, pixels)))


@pytest.mark.parametrize('kind', [*TASKS, *params('evidence')])
def test_old_opsets_gather_rows(toy, kind):
    toy = toy(kind)
    # The two that have no GridSample differ in nothing that these models use.
    out = toy.export('--opset', 15 if kind == 'segmentation' else 14)
    assert 'GridSample' not in node_types(out)
    images = preprocess(toy, pictures(kind, 2))
    assert_same(answer(out, images), expected(toy, images))


@pytest.mark.mmaction
def test_grid_sample_of_clips(toy):
    toy = toy('video')
    status, output = toy.call('--sampler', 'grid')
    assert status == 1 and 'opset 17 has no GridSample for 3' in output
    options = ('--sampler', 'grid', '--opset', '20')
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 5):
        assert 'cannot write opset 20; take 17' in toy.call(*options)[1]
        return
    out = toy.export(*options)
    assert node_types(out).count('GridSample') == 3
    images = preprocess(toy, pictures('video', 2))
    assert_same(answer(out, images), expected(toy, images))


@pytest.mark.mmpretrain
def test_file(toy):
    toy = toy('classification')
    proto = onnx.load(str(toy.export()))
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [['batch', 3, 32, 40], ['batch', 3]]
    props = properties(toy.export())
    assert props['task'] == 'classification'
    assert json.loads(props['input_size']) == [32, 40]
    assert json.loads(props['dynamic_batch']) is True
    assert json.loads(props['classes']) == list(CLASSES)
    # Without its optional bias, onnxruntime 1.31 crashes.
    norms = [n for n in proto.graph.node if n.op_type == 'LayerNormalization']
    assert norms and all(len(n.input) == 3 and n.input[2] for n in norms)

    output = toy.run('--batch', 2, '--check')
    assert 'input 2x3x32x40, logits: largest difference' in output
    proto = onnx.load(str(toy.folder / 'model.onnx'))
    shape = proto.graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 32, 40]


@pytest.mark.mmpretrain
def test_check_finds_a_difference(toy):
    toy = toy('classification')
    output = toy.run('--check')
    assert 'input 1x3x32x40, logits' in output and 'input 3x3x32x40, logits' in output
    data = (toy.folder / 'model.onnx').read_bytes()
    model = copy.deepcopy(toy.model)
    model.backbone.focusing.sampler.bias.data += 0.5 * torch.rand(8)
    module = export.Exportable(model, 'mmpretrain')
    shapes = [(1, 3, 32, 40)]
    (other,) = check.compare(module, check.onnx_runner(module, data, 1), shapes)
    assert other.largest > 1e-3 and not other.is_fine
    (own,) = check.compare(module, check.float64_runner(module), shapes)
    assert 0 < own.largest < 1e-4
    message = f'more than 0.0001.*float64 by {own.largest:.2e}'
    with pytest.raises(SystemExit, match=message):
        tool.report(module, data, shapes)


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


@pytest.mark.mmpretrain
def test_refuses(toy, monkeypatch):
    toy = toy('classification')

    def refusal(*options, status=1) -> str:
        found, output = toy.call(*options)
        assert found == status
        return output

    no_size = run_tool(tool, toy.config, toy.checkpoint)
    assert no_size[0] == 1 and 'does not say which size' in no_size[1]
    no_weights = run_tool(tool, toy.config, 'none.pth', '--shape', 32, 40)
    assert no_weights[0] == 1 and 'there is no checkpoint file' in no_weights[1]
    assert '--shape must be H W' in refusal('--shape', 8, 32, 40)
    other = ('--cfg-options', 'model.head.num_classes=7')
    assert 'does not fit the model' in refusal(*other)
    assert 'cannot write opset 99; take 17' in refusal('--opset', 99)
    assert 'opset 13 is too old: give 14 or more' in refusal('--opset', 13)
    said = refusal('--batch', 'many', status=2)
    assert "'dynamic' or a positive number" in said
    before = set(toy.folder.glob('*.onnx'))
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'pip install onnx onnxruntime' in refusal('--check')
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert 'pip install onnx onnxruntime' in refusal()
    assert set(toy.folder.glob('*.onnx')) == before


def test_refuses_models_it_does_not_know():
    with pytest.raises(ValueError, match="default_scope 'mmocr' is none of mmpretrain"):
        export.Exportable(torch.nn.Identity(), 'mmocr')
    with pytest.raises(ValueError, match='the backbone is a NoneType'):
        export.Exportable(torch.nn.Identity(), 'mmengine')


@pytest.mark.mmdet
def test_refuses_detectors_on_maps():
    pytest.importorskip('mmdet', reason='needs mmdet')
    model = torch.nn.Module()
    model.backbone = SparseFormer('nano', out_type='maps', map_channels=8)
    with pytest.raises(ValueError, match='Module is not exported here: give a config'):
        export.Exportable(model, 'mmdet')
