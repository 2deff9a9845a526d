"""tools/visualization/vis_focus.py: what it computes, and the pixels it draws."""

import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from helpers.scripts import load_tool

pytest.importorskip('matplotlib')

from sparseformer_mm.visualization.disturb import erase  # noqa: E402
from sparseformer_mm.visualization.draw import token_colors  # noqa: E402
from sparseformer_mm.visualization.panels import (  # noqa: E402
    Frames,
    Panel,
    corners_of,
    draw_panels,
    fit_image,
)

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools/visualization/vis_focus.py'
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
# Of a figure without row titles: the first image's upper left corner.
X0, Y0 = 8, 18 + 8


@pytest.fixture(scope='module')
def tool():
    return load_tool('visualization/vis_focus')


@pytest.fixture(scope='module')
def recording(tool):
    return importlib.import_module('sparseformer_mm.visualization.truths')


def pixels(figure, path):
    figure.savefig(path)
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def is_color(pixel, color, tolerance=2):
    return np.abs(pixel - np.array(color) * 255).max() <= tolerance


# -------------------------------------------------------------------- drawing


def test_fit_image():
    small = np.random.default_rng(0).integers(0, 255, (40, 64, 3)).astype(np.uint8)
    large = fit_image(small)
    assert large.shape == (160, 256, 3)
    np.testing.assert_array_equal(large[3::4, 2::4], small)
    # 100 pixels need a factor of 2.56; whole pixels need 3.
    assert fit_image(np.zeros((100, 10, 3), np.uint8)).shape == (300, 30, 3)
    same = np.zeros((300, 200, 3), np.uint8)
    assert fit_image(same) is same
    assert fit_image(np.zeros((600, 896, 3), np.uint8)).shape == (300, 448, 3)


def test_image_and_frames_are_at_their_pixels(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(40, 90, (64, 128, 3)).astype(np.uint8)
    frames = Frames(
        np.array([[0.25, 0.5, 0.75, 0.875]]), np.array([RED]), width=2, halo=False
    )
    seen = pixels(draw_panels([[Panel('x', image, [frames])]]), tmp_path / 'a.png')
    assert seen.shape == (18 + 128 + 16, 256 + 16, 3)
    inside = seen[Y0 : Y0 + 128, X0 : X0 + 256]
    red = (inside == [255, 0, 0]).all(-1)
    # Lines of two pixels centerd on x = 64 ... 192 and y = 64 ... 112.
    expected = np.zeros((128, 256), bool)
    expected[63:113, 63:193] = True
    expected[65:111, 65:191] = False
    np.testing.assert_array_equal(red, expected)
    untouched = ~expected
    whole = image.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(inside[untouched], whole[untouched])


def test_halo_dashes_labels_and_points(tmp_path):
    image = np.full((256, 256, 3), 200, np.uint8)
    corners = np.array([[0.125, 0.25, 0.375, 0.75], [0.5, 0.5, 0.75, 0.75]])
    frames = [
        Frames(corners[:1], np.array([RED]), labels=['cat 0.90']),
        Frames(corners[1:], np.array([GREEN]), dashed=True, halo=False),
    ]
    points = np.array([[[0.9, 0.125], [-0.01, 0.5]]])
    panel = Panel('x', image, frames, points=points, point_colors=np.array([GREEN]))
    figure = draw_panels([[panel]])
    seen = pixels(figure, tmp_path / 'a.png')[Y0:, :]
    left = seen[128, X0 + 32 - 5 : X0 + 32 + 5]
    # Both sides of the red line are darker than the image.
    middle = (left == [255, 0, 0]).all(-1).nonzero()[0]
    assert len(middle) == 2
    assert left[middle[0] - 1].max() < 150 and left[middle[-1] + 1].max() < 150
    row = seen[128, X0 + 130 : X0 + 190]
    assert 0.3 < (row != 200).any(-1).mean() < 0.9  # dashes
    for x, y in points[0]:
        assert is_color(seen[round(y * 256), X0 + round(x * 256)], GREEN)
    (text,) = figure.axes[0].texts
    assert text.get_text() == 'cat 0.90' and text.get_position() == (32, 64 - 3)
    assert text.get_bbox_patch().get_facecolor()[:3] == RED


def test_rows_of_different_sizes_and_titles():
    wide, tall = np.zeros((50, 300, 3), np.uint8), np.zeros((300, 50, 3), np.uint8)
    row = [Panel('a', wide), Panel('b', tall)]
    rows = [row, row, [Panel('c', tall)]]
    figure = draw_panels(
        rows, ['1', '2', '3'], [[('sky', RED), ('road', GREEN)], [], []]
    )
    # Three rows as high as their tallest image, one legend, titles where they change.
    size = (figure.get_size_inches() * figure.dpi).tolist()
    assert size == [20 + 316 + 66, 3 * 316 + 3 * 18]
    texts = [text.get_text() for text in figure.texts]
    squares = [text for text in figure.texts if text.get_text() == '\u25a0']
    assert [text.get_color() for text in squares] == [RED, GREEN]
    assert [text for text in texts if text != '\u25a0'] == [
        '1', 'a', 'b', 'sky', 'road', '2', '3', 'c'
    ]  # fmt: skip
    boxes = [axes.get_window_extent().bounds for axes in figure.axes]
    second, third = 316 + 18, 316 + 18 + 316 + 18
    np.testing.assert_allclose(
        boxes,
        [
            [20, third + 250, 316, 66],
            [336, third, 66, 316],
            [20, second + 250, 316, 66],
            [336, second, 66, 316],
            [20, 0, 66, 316],
        ],
        atol=1e-6,
    )


@pytest.mark.parametrize('height, width', [(258, 270), (297, 301), (445, 13)])
def test_images_stay_as_they_are(height, width, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, height, width, 3)).astype(np.uint8)
    row = [Panel('x', image) for image in images]
    seen = pixels(draw_panels([row, row], ['a', 'b']), tmp_path / 'a.png')
    high, wide = height + 16, width + 16
    assert seen.shape == (18 + 2 * high, 20 + 3 * wide, 3)
    for top in (Y0, Y0 + high):
        for i, image in enumerate(images):
            left = 20 + X0 + i * wide
            np.testing.assert_array_equal(
                seen[top : top + height, left : left + width], image
            )


# ------------------------------------------------------------------ recording


def stage_record(name, rois, points):
    return SimpleNamespace(
        name=name, rois=torch.tensor([rois]), points=torch.tensor([points])
    )


def test_windows_and_padding_become_parts_of_the_picture(recording):
    roi, point = [[0.5, 0.25, 0.5, 1.0]], [[[0.5, 1.0]]]
    batch = torch.zeros(1, 3, 60, 100)
    window = batch[:, :, 20:60, 40:100]
    assert recording._position(batch) == (0, 0)
    assert recording._position(window) == (40, 20)
    lasting = batch.contiguous(memory_format=torch.channels_last)
    assert recording._position(lasting[:, :, 20:60, 40:100]) == (40, 20)
    calls = [
        # The whole input, padded to 120 x 80.
        recording.Call((0, 0), (120, 80), [stage_record('a', roi, point)]),
        recording.Call((40, 20), (60, 40), [stage_record('a', roi, point)]),
    ]
    (stage,) = recording.picture_stages(calls, (60, 100))
    assert stage.name == 'a'
    np.testing.assert_allclose(
        stage.rois, [[0.6, 20 / 60, 0.6, 80 / 60], [0.7, 30 / 60, 0.3, 40 / 60]]
    )
    np.testing.assert_allclose(stage.points, [[[0.6, 80 / 60]], [[0.7, 1.0]]])


def test_crowds_are_no_true_boxes(recording):
    instances = [
        dict(bbox=[10, 20, 30, 40], bbox_label=1, ignore_flag=0),
        dict(bbox=[0, 0, 90, 40], bbox_label=1, ignore_flag=1),
    ]
    for info, expected in (
        (dict(instances=instances), [[0.1, 0.4, 0.3, 0.8]]),
        (None, np.zeros((0, 4))),
    ):
        truths = SimpleNamespace(info=lambda path, info=info: info, wanted=False)
        boxes = recording.Truths.boxes(truths, Path('a.jpg'), (50, 100, 3))
        np.testing.assert_allclose(boxes, expected)


@pytest.mark.parametrize('sigmoid', [True, False])
def test_best_class_of_each_token(recording, sigmoid):
    head = SimpleNamespace(loss_cls=SimpleNamespace(use_sigmoid=sigmoid))
    # A token with two good classes counts once; softmax ends with no object.
    logits = torch.tensor([[2.0, 1.5, -9], [-9, -9, 3], [-9, 3, -9], [0, -1, 1]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]]).repeat(4, 1)
    boxes[2] = torch.tensor([0.1, 0.9, 0.4, 0.4])
    # Earlier levels do not count.
    levels = [torch.stack([torch.zeros_like(x), x])[:, None] for x in (logits, boxes)]
    found = recording.token_detections(head, levels, 0.6)
    if sigmoid:
        assert found.tokens.tolist() == [1, 2, 0, 3]
        assert found.labels.tolist() == [2, 1, 0, 2]
        np.testing.assert_allclose(found.scores, torch.tensor([3.0, 3, 2, 1]).sigmoid())
    else:
        assert found.tokens.tolist() == [2, 0] and found.labels.tolist() == [1, 0]
        expected = logits.softmax(-1)
        np.testing.assert_allclose(found.scores, [expected[2, 1], expected[0, 0]])
    first = found.tokens.tolist().index(2)
    # Cut at the image's edge.
    np.testing.assert_allclose(found.boxes[first], [0, 0.7, 0.3, 1], atol=1e-6)
    other = found.tokens.tolist().index(0)
    np.testing.assert_allclose(found.boxes[other], [0.4, 0.3, 0.6, 0.7], atol=1e-6)


# ------------------------------------------------------------------ detection


def save_model(config, path):
    """Random weights, none of them zero."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token_rois' not in name:
                param.add_(torch.randn_like(param) * 0.05)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """A folder with a data set, configs and weights for them."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    from helpers.toy_detector import make_toy

    root = tmp_path_factory.mktemp('detector')
    config = make_toy(root)

    def derive(name, source, old, new):
        text = (root / source).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    derive('padded.py', 'toy.py', 'bgr_to_rgb', 'pad_size_divisor=128, bgr_to_rgb')
    derive(
        'plain.py',
        'padded.py',
        'sparseformer_mm.detection.SparseFormerDetector',
        'SingleStageDetector',
    )
    derive('nodata.py', 'toy.py', 'annotations/instances_val', 'nothing/instances_val')

    save_model(config, root / 'model.pth')
    return root


def image_of(root, index):
    return root / f'data/val2017/{index:012d}.jpg'


def capture(tool, monkeypatch, *args):
    """Run the tool; return rows and titles of its sheet."""
    drawn = []

    def draw(*rows_titles_legends):
        drawn.append(rows_titles_legends)
        return draw_panels(*rows_titles_legends)

    monkeypatch.setattr(tool, 'draw_panels', draw)
    tool.main([str(arg) for arg in args])
    return drawn[-1]


def spied_inference(tool, root, config, index):
    """mmdet's own detections of an image, with the backbone's inputs and model."""
    from mmdet.apis import inference_detector

    model = tool.load_model(
        Config.fromfile(root / config), str(root / 'model.pth'), 'cpu'
    )
    inputs = []
    hook = model.backbone.register_forward_hook(
        lambda module, args, output: inputs.append(args[0])
    )
    sample = inference_detector(model, str(image_of(root, index)))
    hook.remove()
    return sample.pred_instances, inputs[0], model


@pytest.mark.mmdet
def test_detection_panels(tool, detector, monkeypatch, tmp_path, capsys):
    """Tokens, boxes and RoIs are those that mmdet's own results come from."""
    best, inputs, model = spied_inference(tool, detector, 'toy.py', 1)
    threshold = best.scores.sort().values[len(best) // 2].item() - 1e-4
    rows, titles, _ = capture(
        tool, monkeypatch, detector / 'toy.py', detector / 'model.pth',
        image_of(detector, 1), '--out', tmp_path, '--score-thr', threshold,
    )  # fmt: skip
    assert titles == ['000000000001.jpg']
    (row,) = rows
    assert [panel.title for panel in row] == [
        'detections', 'focusing.0', 'focusing.1', 'cortex.0'
    ]  # fmt: skip
    found, truth = row[0].frames
    size = np.array([64, 48, 64, 48])  # the file; the network sees 96 x 72
    # mmdet lists (token, class) pairs, best first; of a token's only the best is shown.
    expected = {}
    for box, label, score in zip(best.bboxes, best.labels, best.scores):
        if score >= threshold:
            text = f'{("red", "green")[label]} {score:.2f}'
            expected.setdefault(tuple(box.tolist()), text)
    assert 2 <= len(expected) < 8
    assert found.labels == list(expected.values())
    np.testing.assert_allclose(found.corners * size, list(expected), atol=1e-4)
    assert (found.corners[:, 2:] - found.corners[:, :2]).min() > 0.01
    np.testing.assert_allclose(truth.corners * size, [[4, 10, 44, 40]])
    assert truth.dashed and not found.dashed

    with torch.no_grad():
        seen = model.backbone(inputs)
        logits, _ = model.bbox_head(seen)
    order = logits[-1, 0].max(-1).values.argsort(descending=True)[: len(expected)]
    others = [token for token in range(16) if token not in order.tolist()]
    colors = found.colors
    assert len(np.unique(colors.round(3), axis=0)) == len(expected)
    assert len(seen.stages) == 3
    for panel, stage in zip(row[1:], seen.stages):
        rest, mine = panel.frames
        rois = corners_of(stage.rois[0].numpy())
        np.testing.assert_allclose(mine.corners, rois[order], atol=1e-5)
        np.testing.assert_allclose(rest.corners, rois[others], atol=1e-5)
        np.testing.assert_allclose(panel.points, stage.points[0, order], atol=1e-5)
        # A token has one colour in all stages, that of its box.
        np.testing.assert_array_equal(mine.colors, colors)
        np.testing.assert_array_equal(panel.point_colors, colors)
        assert np.ptp(rest.colors) == 0
    assert np.abs(row[1].frames[1].corners - row[3].frames[1].corners).max() > 0.01
    said = capsys.readouterr().out
    assert f'{found.labels[0]} (token {order[0]})' in said
    assert "1 of these 1 pictures are in the config's test data" in said


@pytest.mark.mmdet
def test_truth_of_wrapped_data_sets(tool, recording, detector):
    from mmdet.utils import register_all_modules

    register_all_modules()
    cfg = Config.fromfile(detector / 'toy.py')
    plain = cfg.test_dataloader.dataset
    other = copy.deepcopy(plain)
    other.update(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
    )
    joined = dict(type='ConcatDataset', datasets=[other, plain])
    path = image_of(detector, 1)
    for dataset in (joined, dict(type='RepeatDataset', times=2, dataset=joined)):
        cfg.test_dataloader.dataset = copy.deepcopy(dataset)
        truths = recording.Truths(cfg)
        assert not truths.missing
        assert truths.classes == ('red', 'green')
        expected = [[4 / 64, 10 / 48, 44 / 64, 40 / 48]]
        for there in (path, detector / 'data/train2017' / path.name):
            assert Path(truths.info(there)['img_path']) == there
            np.testing.assert_allclose(truths.boxes(there, (48, 64)), expected)
        # One of them is not there.
        for joint in recording._nested(cfg.test_dataloader.dataset):
            if 'datasets' in joint:
                joint.datasets[0].ann_file = 'nothing/instances_val2017.json'
        assert 'is not there' in recording.Truths(cfg).missing
        # Joined data sets need not agree.
        for joint in recording._nested(cfg.test_dataloader.dataset):
            if 'datasets' in joint:
                joint.datasets[1].metainfo = dict(classes=('green',))
        assert recording.Truths(cfg, wanted=False).classes == ('red', 'green')


@pytest.mark.mmdet
def test_files_and_their_pixels(tool, detector, monkeypatch, tmp_path):
    """The RoI of the one token that detects, in the files."""
    best, _, _ = spied_inference(tool, detector, 'toy.py', 0)
    rows, _, _ = capture(
        tool, monkeypatch, detector / 'toy.py', detector / 'model.pth',
        detector / 'data/val2017', '--out', tmp_path, '--max-images', 2,
        '--score-thr', best.scores[0].item() - 1e-5, '--truth', 'none',
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        '000000000000_focus.png', '000000000001_focus.png', 'sheet.png'
    ]  # fmt: skip
    row = rows[0]
    assert len(row[0].frames[0].corners) == 1 and not len(row[0].frames[1].corners)
    side = 256 + 16
    for name in ('000000000000_focus.png', 'sheet.png'):
        seen = np.asarray(Image.open(tmp_path / name).convert('RGB')).astype(int)
        assert seen.shape[1] == 20 + 4 * side
        hits = []
        for column, panel in enumerate(row):
            corners = panel.frames[0 if column == 0 else 1].corners[0] * 256
            x1, y1, x2, y2 = corners.round().astype(int) + [X0, Y0, X0, Y0]
            x, y = (x1 + x2) // 2, (y1 + y2) // 2
            # The left and upper edge have a label in the first panel.
            for px, py in ((x, y2), (x2, y), (x, y1), (x1, y))[
                : 2 if not column else 4
            ]:
                if X0 <= px < X0 + 256 and Y0 <= py < Y0 + 256:
                    px += 20 + column * side
                    around = seen[py - 2 : py + 3, px - 2 : px + 3].reshape(-1, 3)
                    # Lighter than pure red.
                    hits.append(any(is_color(p, (1, 0.2, 0.2), 3) for p in around))
        assert len(hits) >= 8 and all(hits)


@pytest.mark.mmdet
def test_padded_input(tool, detector, monkeypatch, tmp_path):
    """RoIs are in units of the picture, whatever the model takes for it."""
    panels = {}
    for config in ('toy', 'padded', 'plain'):
        rows, _, _ = capture(
            tool, monkeypatch, detector / f'{config}.py', detector / 'model.pth',
            image_of(detector, 1), '--out', tmp_path, '--score-thr', 0,
        )  # fmt: skip
        panels[config] = rows[0]
    for ours, padded in zip(panels['toy'], panels['padded']):
        for a, b in zip(ours.frames, padded.frames):
            np.testing.assert_allclose(a.corners, b.corners, atol=1e-4)
    # mmdet's detector has the whole 128 x 128 for image, of which 96 x 72 are it.
    _, inputs, model = spied_inference(tool, detector, 'plain.py', 1)
    assert inputs.shape[-2:] == (128, 128)
    with torch.no_grad():
        stages = model.backbone(inputs).stages
    scale = np.array([128 / 96, 128 / 72])
    for panel, stage in zip(panels['plain'][1:], stages):
        # All 8 queries detect, the other 8 tokens do not.
        rois = corners_of(stage.rois[0, 8:].numpy())
        np.testing.assert_allclose(
            panel.frames[0].corners, rois * np.tile(scale, 2), atol=1e-5
        )


@pytest.mark.mmdet
def test_figures_of_padded_scenes(tool, detector, monkeypatch, tmp_path):
    """Pictures in memory go the way of files; boxes and points move with them."""
    from mmdet.apis import inference_detector

    drawn, path = [], tmp_path / 'numbers.json'

    def draw(*args, **kwargs):
        drawn.append((args, kwargs))
        return draw_panels(*args, **kwargs)

    monkeypatch.setattr(tool, 'draw_panels', draw)
    args = [
        detector / 'toy.py', detector / 'model.pth', image_of(detector, 1), '--out',
        tmp_path / 'out', '--what', 'rois', 'density', '--disturb', 'zero-pad',
        '--disturb-share', 0.25, '--top-k-class', 3, '--json', path,
    ]  # fmt: skip
    tool.main([str(arg) for arg in args])
    names = sorted(file.name for file in (tmp_path / 'out').iterdir())
    stem = '000000000001'
    assert names == [
        f'{stem}_density.png', f'{stem}_focus.png', f'{stem}_rois.png', 'index.html',
        'sheet.png',
    ]  # fmt: skip
    image = np.pad(tool.read_image(image_of(detector, 1)), ((12, 12), (16, 16), (0, 0)))
    (focus,), (rois,), (density,) = (call[0][0] for call in drawn[:3])
    for row in (focus, rois, density):
        np.testing.assert_array_equal(row[0].image, image)
        true = row[0].frames[-1].corners * [96, 72, 96, 72]
        np.testing.assert_allclose(true, [[4 + 16, 10 + 12, 44 + 16, 40 + 12]])

    model = tool.load_model(
        Config.fromfile(detector / 'toy.py'), str(detector / 'model.pth'), 'cpu'
    )
    inputs = []
    hook = model.backbone.register_forward_hook(
        lambda module, args, output: inputs.append(args[0])
    )
    best = inference_detector(model, image[..., ::-1].copy()).pred_instances
    hook.remove()
    with torch.no_grad():
        seen = model.backbone(inputs[0])
        logits, _ = model.bbox_head(seen)
    label = int(best.labels[0])
    order = logits[-1, 0, :, label].argsort(descending=True)[:3]
    title = f'answer most to {("red", "green")[label]} (best detection)'
    assert title in drawn[1][1]['title'] and title not in drawn[2][1]['title']
    for panel, stage in zip(rois[1:], seen.stages):
        corners = corners_of(stage.rois[0, order].double().numpy())
        np.testing.assert_allclose(panel.frames[0].corners, corners, atol=1e-5)
    (picture,) = json.loads(path.read_text())['pictures']
    assert picture['area_share'] == pytest.approx(1 - 1 / 2.25)
    for ours, stage in zip(picture['stages'], seen.stages):
        x, y = stage.points[0].reshape(-1, 2).double().numpy().T
        there = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        kept = (x >= 1 / 6) & (x < 5 / 6) & (y >= 1 / 6) & (y < 5 / 6)
        assert ours['on_area'] == pytest.approx(np.mean(there & ~kept), abs=1e-6)
        inside = (x >= 20 / 96) & (x <= 60 / 96) & (y >= 22 / 72) & (y <= 52 / 72)
        assert ours['in_boxes'] == pytest.approx(np.mean(inside), abs=1e-6)


# --------------------------------------------------------------- segmentation

SEG_CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='sparseformer_mm.segmentation.SparseFormerSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.] * 3,
        bgr_to_rgb=True, test_cfg=dict(size_divisor=32)),
    backbone=dict(
        type='sparseformer_mm.SparseFormer', out_type='tokens',
        arch=dict(num_tokens=9, num_points=4, focusing_dims=16,
                  focusing_repeats=1, cortex_dims=16, cortex_depth=1,
                  num_heads=2, feat_channels=8)),
    decode_head=dict(
        type='sparseformer_mm.segmentation.LocationAwareHead', in_channels=16,
        feat_channels=8, channels=8, num_classes=3, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg={test_cfg})
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root=r'{root}', img_suffix='.png',
    metainfo=dict(classes=('sky', 'road', 'car'), palette={palette}),
    data_prefix=dict(img_path='img', seg_map_path='ann'), pipeline=test_pipeline))
"""
PALETTE = [[0, 0, 200], [0, 200, 0], [200, 0, 0]]
SLIDE = dict(mode='slide', crop_size=(32, 40), stride=(32, 20))


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """A picture of 60 x 32 pixels with a mask, one without, configs, weights."""
    pytest.importorskip('mmseg', reason='needs mmseg')
    root = tmp_path_factory.mktemp('segmentor')
    for folder in ('img', 'ann', 'other'):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 60, 3)).astype(np.uint8))
    image.save(root / 'img/a.png')
    image.save(root / 'other/a.png')
    mask = np.full((32, 60), 255, np.uint8)
    mask[:16, :20], mask[16:, 20:] = 1, 2
    Image.fromarray(mask).save(root / 'ann/a.png')
    for name, test_cfg in (('whole', dict(mode='whole')), ('slide', SLIDE)):
        text = SEG_CONFIG.format(root=root, test_cfg=test_cfg, palette=PALETTE)
        (root / f'{name}.py').write_text(text)
    save_model(root / 'whole.py', root / 'model.pth')
    return root


@pytest.mark.mmseg
def test_segmentation_panels(tool, segmentor, monkeypatch, tmp_path, capsys):
    rows, titles, legends = capture(
        tool, monkeypatch, segmentor / 'whole.py', segmentor / 'model.pth',
        segmentor / 'img', segmentor / 'other/a.png', '--out', tmp_path,
    )  # fmt: skip
    assert titles == ['a.png', 'a.png']
    known, unknown = ([panel.title for panel in row] for row in rows)
    assert known == ['image', 'truth', 'prediction', 'token RoIs (cortex.0)']
    assert unknown == ['image', 'prediction', 'token RoIs (cortex.0)']
    assert '1 of these 2 pictures are in' in capsys.readouterr().out
    # The second of the same name does not overwrite the first.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['a_focus.png', 'a_focus2.png', 'sheet.png']

    image, truth, prediction, tokens = rows[0]
    bare, painted = image.image.astype(float), truth.image.astype(float)
    np.testing.assert_array_equal(painted[:16, 20:], bare[:16, 20:])  # unlabelled
    for area, color in (
        ((slice(0, 16), slice(0, 20)), PALETTE[1]),
        ((slice(16, 32), slice(20, 60)), PALETTE[2]),
    ):
        mixed = 0.35 * bare[area] + 0.65 * np.array(color)
        np.testing.assert_allclose(painted[area], mixed, atol=0.51)

    from mmseg.apis import inference_model

    cfg = Config.fromfile(segmentor / 'whole.py')
    model = tool.load_model(cfg, str(segmentor / 'model.pth'), 'cpu')
    sample = inference_model(model, str(segmentor / 'img/a.png'))
    classes = sample.pred_sem_seg.data[0].numpy()
    mixed = 0.35 * bare + 0.65 * np.array(PALETTE)[classes]
    np.testing.assert_allclose(prediction.image, mixed, atol=0.51)
    shown = sorted({1, 2, *np.unique(classes).tolist()})
    assert [name for name, _ in legends[0]] == [
        ('sky', 'road', 'car')[i] for i in shown
    ]
    assert [(np.array(c) * 255).round().tolist() for _, c in legends[0]] == [
        PALETTE[i] for i in shown
    ]

    pixels = torch.from_numpy(image.image.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        seen = model.backbone((pixels.float() - 127.5) / 64)
    (frames,) = tokens.frames
    rois = corners_of(seen.rois[0].numpy())
    np.testing.assert_allclose(frames.corners, rois, atol=1e-5)
    np.testing.assert_allclose(frames.colors, 0.2 + 0.8 * token_colors(9))


@pytest.mark.mmseg
def test_sliding_windows(tool, segmentor, monkeypatch, tmp_path):
    """Each window's tokens are where the window is."""
    rows, _, _ = capture(
        tool, monkeypatch, segmentor / 'slide.py', segmentor / 'model.pth',
        segmentor / 'img', '--out', tmp_path,
    )  # fmt: skip
    image, *_, tokens = rows[0]
    cfg = Config.fromfile(segmentor / 'slide.py')
    model = tool.load_model(cfg, str(segmentor / 'model.pth'), 'cpu')
    pixels = (torch.from_numpy(image.image.copy()).permute(2, 0, 1) - 127.5) / 64
    canvas = torch.nn.functional.pad(pixels, (0, 4))[None]  # to 64 x 32
    expected = []
    for left in (0, 20, 24):
        with torch.no_grad():
            seen = model.backbone(canvas[..., left : left + 40].contiguous())
        corners = corners_of(seen.rois[0].numpy())
        expected.append(
            corners * [40 / 60, 1, 40 / 60, 1] + [left / 60, 0, left / 60, 0]
        )
    (frames,) = tokens.frames
    assert frames.corners.shape == (27, 4)
    np.testing.assert_allclose(frames.corners, np.concatenate(expected), atol=1e-5)


@pytest.mark.mmseg
def test_erased_parts_have_no_truth(tool, segmentor, monkeypatch, tmp_path):
    rows, _, _ = capture(
        tool, monkeypatch, segmentor / 'whole.py', segmentor / 'model.pth',
        segmentor / 'img', '--out', tmp_path, '--disturb', 'erase', '--erase-fill',
        'black', '--tokens', '2,5', '--json', tmp_path / 'numbers.json',
    )  # fmt: skip
    image, truth, prediction, tokens = rows[0]
    erased = erase(np.asarray(Image.open(segmentor / 'img/a.png')), fill='black')
    np.testing.assert_array_equal(image.image, erased.image)
    # Classes are not painted there.
    assert (truth.image[erased.area] == 0).all()
    assert (truth.image[:16, :20][~erased.area[:16, :20]] > 0).any()
    assert (prediction.image[erased.area] > 0).any()

    x = torch.from_numpy(erased.image.copy()).permute(2, 0, 1)[None]
    cfg = Config.fromfile(segmentor / 'whole.py')
    model = tool.load_model(cfg, str(segmentor / 'model.pth'), 'cpu')
    with torch.no_grad():
        stages = model.backbone((x.float() - 127.5) / 64).stages
    rois = corners_of(stages[-1].rois[0].numpy())[[2, 5]]
    np.testing.assert_allclose(tokens.frames[0].corners, rois, atol=1e-5)
    (picture,) = json.loads((tmp_path / 'numbers.json').read_text())['pictures']
    assert picture['area_share'] == pytest.approx(erased.area.mean())
    points = stages[-1].points[0].reshape(-1, 2).double().numpy()
    inside = ((points >= 0) & (points < 1)).all(1)
    x, y = (points[inside] * [60, 32]).astype(int).T
    expected = erased.area[y, x].sum() / len(points)
    assert picture['stages'][-1]['on_area'] == pytest.approx(expected)
    assert picture['stages'][-1]['on_area_undisturbed'] is not None
    assert not (tmp_path / 'index.html').exists()
    with pytest.raises(SystemExit, match='classifies pixels, no tokens; choose them'):
        capture(
            tool, monkeypatch, segmentor / 'whole.py', segmentor / 'model.pth',
            segmentor / 'img', '--out', tmp_path, '--top-k-class',
        )  # fmt: skip


# --------------------------------------------------------------------- errors


def test_missing_picture_from_the_shell():
    """As a user runs it."""
    config = ROOT / 'configs/detection/sparseformer-nano_1xb16_digits.py'
    env = dict(os.environ)
    env['PYTHONPATH'] = os.pathsep.join([str(ROOT), env.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(config), 'none.pth', 'none.jpg'],
        env=env,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'error: there is no picture or folder none.jpg (seen from '
    )


@pytest.mark.mmdet
def test_wrong_input(tool, detector, tmp_path):
    toy, weights, image = (
        detector / 'toy.py',
        detector / 'model.pth',
        image_of(detector, 0),
    )
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'bare.py').write_text("default_scope = 'mmdet'\nmodel = dict()")
    state = torch.load(weights)['state_dict']
    del state['bbox_head.fc_cls.0.weight']
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    (tmp_path / 'resnet.py').write_text(
        toy.read_text() + "model.update(type='SingleStageDetector', "
        "backbone=dict(type='ResNet', depth=18))"
    )
    (tmp_path / 'head.py').write_text(
        toy.read_text() + "model.update(type='SingleStageDetector', "
        "bbox_head=dict(type='DETRHead', num_classes=2, embed_dims=32))"
    )
    for args, message in (
        (('none.py', weights, image), 'there is no config file none.py'),
        ((toy, weights, tmp_path / 'empty'), r'empty has no picture \(.bmp'),
        ((toy, weights, tmp_path / 'text.jpg'), 'text.jpg is no image that can'),
        ((toy, 'none.pth', image), 'there is no checkpoint file none.pth'),
        ((toy, tmp_path / 'other.pth', image), 'does not fit the model of .*toy.py'),
        ((tmp_path / 'bare.py', weights, image), 'has no test_dataloader'),
        ((tmp_path / 'resnet.py', weights, image), 'is a ResNet and has no tokens'),
        ((tmp_path / 'head.py', weights, image), 'is a DETRHead, whose boxes'),
    ):
        with pytest.raises(SystemExit, match=message):
            tool.main([*map(str, args), '--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_other_libraries(tool, tmp_path):
    (tmp_path / 'cls.py').write_text('model = dict()')
    (tmp_path / 'x.jpg').touch()
    with pytest.raises(SystemExit, match='=None; this tool draws .* mmpretrain and'):
        tool.main([str(tmp_path / 'cls.py'), 'x.pth', str(tmp_path / 'x.jpg')])


@pytest.mark.parametrize('args', [('--max-images', '101'), ('--score-thr', '1.5')])
def test_wrong_numbers(tool, args, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['x.py', 'x.pth', 'x.jpg', *args])
    assert f'{args[0]} must be' in capsys.readouterr().err


@pytest.mark.mmdet
def test_absent_test_data_and_no_detection(
    tool, detector, monkeypatch, tmp_path, capsys
):
    rows, _, _ = capture(
        tool, monkeypatch, detector / 'nodata.py', detector / 'model.pth',
        image_of(detector, 1), '--out', tmp_path, '--score-thr', 1,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert 'no truth: the test data of' in said and 'nothing/instances_val' in said
    assert 'nothing with a score of 1' in said
    found, truth = rows[0][0].frames
    assert not len(truth.corners) and not len(found.corners)
    # All tokens are there, in grey.
    assert [len(panel.frames[0].corners) for panel in rows[0][1:]] == [16] * 3
