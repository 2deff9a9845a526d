"""tools/visualization/vis_focus.py on classifiers: figures 3 to 7 and their numbers."""

import json
from importlib import import_module
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

from sparseformer_mm.visualization.density import density_map, entropy_bits  # noqa: E402
from sparseformer_mm.visualization.disturb import erase  # noqa: E402
from sparseformer_mm.visualization.draw import heat_image, light_colors  # noqa: E402
from sparseformer_mm.visualization.panels import (  # noqa: E402
    corners_of,
    draw_panels,
    fit_image,
)

pytestmark = pytest.mark.mmpretrain

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
CLASSES = ('cat', 'dog', 'owl')
CONFIG = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=3, mean={mean}, std={std}, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=6, num_points=4, focusing_dims=16, focusing_repeats=2,
                  cortex_dims=16, cortex_depth=2, num_heads=2, feat_channels=8)),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root=r'{root}', data_prefix='val',
    pipeline=test_pipeline))
"""
BOXES = {'cat/0.png': [4, 8, 20, 28, 0], 'owl/0.png': [30, 2, 44, 16, 2]}


@pytest.fixture(scope='module')
def tool():
    return SimpleNamespace(
        vis_focus=load_tool('visualization/vis_focus'),
        classification=import_module('sparseformer_mm.visualization.classification'),
    )


@pytest.fixture(autouse=True)
def scope():
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """Pictures of 48 x 32 pixels in three class folders, boxes, a config, weights."""
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    root = tmp_path_factory.mktemp('classifier')
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / 'val' / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 255, (32, 48, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f'val/{name}/{number}.png')
    boxes = {f'val/{name}': [box] for name, box in BOXES.items()}
    (root / 'val_boxes.json').write_text(json.dumps(boxes))
    config = root / 'toy.py'
    config.write_text(CONFIG.format(mean=MEAN, std=STD, root=root))
    model = build(config)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'model.pth')
    return root


def build(config, weights=None):
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.manual_seed(0)
        cfg.model.data_preprocessor = cfg.data_preprocessor
        model = MODELS.build(cfg.model).eval()
    if weights:
        model.load_state_dict(torch.load(weights)['state_dict'])
        return model
    with torch.no_grad():  # as if trained: nothing is zero, no two tokens agree
        for name, param in model.named_parameters():
            scale = 0.02 if 'token_rois' in name else 0.1
            param.add_(torch.randn_like(param) * scale)
    return model


def pixels_of(root, name='cat/0'):
    return np.asarray(Image.open(root / f'val/{name}.png').convert('RGB'))


@torch.no_grad()
def by_hand(root, image):
    """Probabilities, stages and single tokens' logits of RGB (H, W, 3)."""
    model = build(root / 'toy.py', root / 'model.pth')
    x = (torch.from_numpy(image.copy()).float() - torch.tensor(MEAN)) / torch.tensor(
        STD
    )
    seen = model.backbone.forward_intermediates(x.permute(2, 0, 1)[None])
    logits = model.head.fc(seen.tokens[0]).numpy()
    return model.head.fc(seen.pooled)[0].softmax(0).numpy(), seen.stages, logits


@pytest.fixture
def run(tool, classifier, monkeypatch, tmp_path):
    """Run the tool on the toy; what it draws: (rows, titles, legends, title) each."""

    def call(*args, config=None):
        drawn = []

        def draw(*args, **kwargs):
            drawn.append((args, kwargs))
            return draw_panels(*args, **kwargs)

        monkeypatch.setattr(tool.vis_focus, 'draw_panels', draw)
        config = config or classifier / 'toy.py'
        args = [config, classifier / 'model.pth', *args, '--out', tmp_path / 'out']
        tool.vis_focus.main([str(arg) for arg in args])
        return drawn

    return call


def derive(classifier, folder, old, new):
    text = (classifier / 'toy.py').read_text()
    assert old in text
    (folder / 'toy.py').write_text(text.replace(old, new))
    return folder / 'toy.py'


# -------------------------------------------------------------------- figures


def test_all_kinds_of_figures(run, classifier, tmp_path, capsys):
    focus, points, rois, density, sheet = run(classifier / 'val/cat/0.png')
    image = pixels_of(classifier)
    scores, stages, _ = by_hand(classifier, image)
    label = int(scores.argmax())
    title = f'{CLASSES[label]} {scores[label]:.2f}, true cat'
    assert title in capsys.readouterr().out
    names = ['image', 'focusing.0', 'focusing.1', 'cortex.0']
    assert [stage.name for stage in stages] == names[1:]
    colors = light_colors(6)
    box = np.array(BOXES['cat/0.png'][:4]) / [48, 32, 48, 32]
    (both,), (dots,), (frames,), (heat,) = (
        x[0][0] for x in (focus, points, rois, density)
    )
    for kind in (both, dots, frames, heat):
        assert [panel.title for panel in kind] == names
        np.testing.assert_array_equal(kind[0].image, image)
        for panel in kind:
            np.testing.assert_allclose(panel.frames[-1].corners, [box])
            assert panel.frames[-1].dashed
    maps = [density_map(s.points[0], (288, 192), 0.05, (192, 288)) for s in stages]
    for i, stage in enumerate(stages, 1):
        corners = corners_of(stage.rois[0].double().numpy())
        for panel in (both[i], frames[i]):
            np.testing.assert_allclose(panel.frames[0].corners, corners, atol=1e-5)
            np.testing.assert_array_equal(panel.frames[0].colors, colors)
        for panel in (both[i], dots[i]):
            np.testing.assert_allclose(panel.points, stage.points[0], atol=1e-5)
            np.testing.assert_array_equal(panel.point_colors, colors)
        assert frames[i].points is None and len(dots[i].frames) == 1
        # Whole pixels six times as large; one scale for all stages.
        expected = heat_image(fit_image(image), maps[i - 1], max(map(np.max, maps)))
        assert heat[i].image.shape == (192, 288, 3)
        assert (heat[i].image == expected).mean() > 0.999
    assert np.abs(both[1].frames[0].corners - both[3].frames[0].corners).max() > 0.01
    assert sheet[0][0] == [both]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        '0_density.png', '0_focus.png', '0_points.png', '0_rois.png', 'index.html',
        'sheet.png',
    ]  # fmt: skip


def test_figure_6_tokens_that_answer_to_a_class(run, classifier, tmp_path):
    image = classifier / 'val/owl/0.png'
    scores, stages, logits = by_hand(classifier, pixels_of(classifier, 'owl/0'))
    kept = {}
    for args, label, kind in (
        ((), 2, 'true'),
        (('--truth', 'none'), int(scores.argmax()), 'predicted'),
        (('--class', 'dog'), 1, 'chosen'),
        (('--class', '0'), 0, 'chosen'),
    ):
        (_, figure, _) = run(image, '--what', 'rois', '--top-k-class', 2, *args)
        order = np.argsort(-logits[:, label], kind='stable')[:2]
        # Without the data set the checkpoint knows the names.
        answer = f'that answer most to {CLASSES[label]} ({kind})'
        assert answer in figure[1]['title'], args
        (panels,) = figure[0][0]
        for panel, stage in zip(panels[1:], stages):
            corners = corners_of(stage.rois[0].double().numpy())[order]
            np.testing.assert_allclose(panel.frames[0].corners, corners, atol=1e-5)
            # The colour of a token does not depend on what else is drawn.
            expected = light_colors(6)[order]
            np.testing.assert_array_equal(panel.frames[0].colors, expected)
        kept[args] = order.tolist()
    assert len({tuple(order) for order in kept.values()}) > 1
    page = (tmp_path / 'out/index.html').read_text()
    assert '"answer":"cat (chosen)"' in page
    assert f'"tokens":{kept[("--class", "0")]}'.replace(' ', '') in page


def test_stages_and_tokens_by_hand(run, classifier):
    (_, figure, _) = run(
        classifier / 'val/cat/0.png', '--what', 'points', '--tokens', '4,0,4',
        '--stages', '-1', 'focusing.1',
    )  # fmt: skip
    _, stages, _ = by_hand(classifier, pixels_of(classifier))
    (panels,) = figure[0][0]
    assert [panel.title for panel in panels] == ['image', 'focusing.1', 'cortex.0']
    for panel, stage in zip(panels[1:], stages[1:]):
        np.testing.assert_allclose(panel.points, stage.points[0][[4, 0]], atol=1e-5)


# -------------------------------------------------------------------- numbers


def read_numbers(path):
    return json.loads(path.read_text())


def test_numbers(run, classifier, tmp_path, capsys):
    path = tmp_path / 'deep/numbers.json'
    assert not run(
        classifier / 'val', '--what', 'none', '--json', path, '--max-images', 5
    )
    assert not (tmp_path / 'out').exists()
    found = read_numbers(path)
    assert (found['num_pictures'], found['disturb']) == (5, None)
    # Classes take turns.
    files = [Path(p['file']).relative_to(classifier / 'val') for p in found['pictures']]
    assert [str(p) for p in files] == [
        'cat/0.png', 'dog/0.png', 'owl/0.png', 'cat/1.png', 'dog/1.png'
    ]  # fmt: skip
    shares = []
    for file, picture in zip(files, found['pictures']):
        _, stages, _ = by_hand(classifier, pixels_of(classifier, str(file)[:-4]))
        assert picture['size'] == [48, 32] and picture['area_share'] is None
        box = BOXES.get(str(file))
        if box:
            x1, y1, x2, y2 = np.array(box[:4]) / [48, 32, 48, 32]
            expected = (box[2] - box[0]) * (box[3] - box[1]) / (48 * 32)
            assert picture['box_share'] == pytest.approx(expected)
        for ours, stage in zip(picture['stages'], stages):
            x, y = points = stage.points[0].double().numpy().reshape(-1, 2).T
            assert (ours['name'], ours['points']) == (stage.name, 24)
            outside = np.mean((points < 0).any(0) | (points > 1).any(0))
            assert ours['outside'] == pytest.approx(outside)
            bits = entropy_bits(density_map(points.T, (48, 32), grid=(64, 64)))
            assert ours['entropy_bits'] == pytest.approx(bits, abs=0.01)
            width, height = stage.rois[0, :, 2:].mean(0).tolist()
            assert ours['roi_width'] == pytest.approx(width, abs=1e-5)
            assert ours['roi_height'] == pytest.approx(height, abs=1e-5)
            assert ours['on_area'] is None
            if box:
                inside = np.mean((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2))
                assert ours['in_boxes'] == pytest.approx(inside)
                shares.append(ours['in_boxes'])
            else:
                assert ours['in_boxes'] is None
    means = found['means']['stages']
    assert means[0]['in_boxes'] == pytest.approx(np.mean(shares[0::3]))
    assert means[2]['in_boxes'] == pytest.approx(np.mean(shares[2::3]))
    every = [picture['stages'][1]['entropy_bits'] for picture in found['pictures']]
    assert means[1]['entropy_bits'] == pytest.approx(np.mean(every))
    said = capsys.readouterr().out
    assert 'Means over 5 picture(s)' in said and 'on area' not in said
    assert f'{means[2]["in_boxes"]:.1%}' in said


def test_padded_pictures(run, classifier, tmp_path):
    path = tmp_path / 'numbers.json'
    drawn = run(
        classifier / 'val/cat/0.png', '--disturb', 'zero-pad', '--disturb-share', 0.25,
        '--json', path, '--what', 'points',
    )  # fmt: skip
    padded = np.zeros((48, 72, 3), np.uint8)
    padded[8:40, 12:60] = pixels_of(classifier)
    _, stages, _ = by_hand(classifier, padded)
    (panels,) = drawn[1][0][0]
    np.testing.assert_array_equal(panels[0].image, padded)
    (picture,) = read_numbers(path)['pictures']
    box = np.array([4 + 12, 8 + 8, 20 + 12, 28 + 8]) / [72, 48, 72, 48]
    np.testing.assert_allclose(picture['boxes'], [box], atol=1e-6)
    assert picture['area_share'] == pytest.approx(1 - 48 * 32 / (72 * 48))
    for ours, stage in zip(picture['stages'], stages):
        x, y = stage.points[0].double().numpy().reshape(-1, 2).T * [[72], [48]]
        there = (x >= 0) & (x < 72) & (y >= 0) & (y < 48)
        kept = (x >= 12) & (x < 60) & (y >= 8) & (y < 40)
        assert ours['on_area'] == pytest.approx(np.mean(there & ~kept))
        assert ours['on_area_undisturbed'] is None
    assert 'index.html' in {path.name for path in (tmp_path / 'out').iterdir()}


def test_erased_pictures(run, classifier, tmp_path):
    path = tmp_path / 'numbers.json'
    run(
        classifier / 'val/cat/0.png', '--disturb', 'erase', '--seed', 7, '--json', path,
        '--erase-fill', 'black', '--what', 'none',
    )  # fmt: skip
    image = pixels_of(classifier)
    erased = erase(image, seed=7, fill='black')
    found = read_numbers(path)
    assert found['disturb'] == 'erase' and found['seed'] == 7
    (picture,) = found['pictures']
    assert picture['area_share'] == pytest.approx(erased.area.mean())
    rows, columns = (erased.area.any(axis).nonzero()[0] for axis in (1, 0))
    for key, seen in (('on_area', erased.image), ('on_area_undisturbed', image)):
        for ours, stage in zip(picture['stages'], by_hand(classifier, seen)[1]):
            x, y = stage.points[0].double().numpy().reshape(-1, 2).T * [[48], [32]]
            inside = (x >= columns[0]) & (x < columns[-1] + 1)
            inside &= (y >= rows[0]) & (y < rows[-1] + 1)
            assert ours[key] == pytest.approx(np.mean(inside))
    numbers = [(s['on_area'], s['on_area_undisturbed']) for s in picture['stages']]
    assert any(a != b for a, b in numbers)


# ------------------------------------------------------------------ pipelines


def test_boxes_and_areas_follow_the_pipeline(tool, run, classifier, tmp_path):
    """Resized to 96 x 64, of which the middle 60 x 60 are kept."""
    steps = (
        "dict(type='LoadImageFromFile'), "
        "dict(type='ResizeEdge', scale=64, edge='short', backend='pillow', "
        "interpolation='bicubic'), dict(type='CenterCrop', crop_size=60)"
    )
    config = derive(classifier, tmp_path, "dict(type='LoadImageFromFile')", steps)
    cfg = Config.fromfile(config)
    pipeline = tool.classification._pipeline(cfg)
    boxes = np.array(
        [
            [10 / 48, 8 / 32, 30 / 48, 20 / 32],  # 20 ... 60, 16 ... 40 when resized
            [12 / 48, 4 / 32, 48 / 48, 16 / 32],  # cut at the right
            [0, 0, 8 / 48, 32 / 32],  # gone: it ends at 16 of 18
        ]
    )
    seen = tool.classification.follow_boxes(pipeline, boxes, (32, 48))
    expected = np.array([[2, 14, 42, 38], [6, 6, 60, 30]]) / 60
    np.testing.assert_allclose(seen, expected, atol=0.3 / 60)

    path = tmp_path / 'numbers.json'
    drawn = run(
        classifier / 'val/cat/0.png', '--disturb', 'erase', '--json', path,
        '--what', 'points', config=config,
    )  # fmt: skip
    (panels,) = drawn[1][0][0]
    image = panels[0].image
    assert image.shape == (60, 60, 3)
    erased = erase(pixels_of(classifier)).area.repeat(2, 0).repeat(2, 1)
    area = erased[2:62, 18:78]
    (picture,) = read_numbers(path)['pictures']
    assert picture['area_share'] == pytest.approx(area.mean(), abs=0.02)
    # What is drawn is what the network sees.
    grey = np.abs(image.astype(int) - 128).max(-1) <= 1
    assert grey[area].mean() > 0.7 and grey[~area].mean() < 0.05
    box = np.array([[-10, 14, 22, 54]]) / 60
    np.testing.assert_allclose(picture['boxes'], box.clip(0), atol=0.3 / 60)


@pytest.mark.parametrize('to_rgb', [True, False])
def test_pictures_are_what_the_model_saw(tool, to_rgb):
    from mmpretrain.models import ClsDataPreprocessor

    pixels = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)  # BGR
    for settings in (dict(mean=MEAN, std=STD), {}):
        preprocessor = ClsDataPreprocessor(to_rgb=to_rgb, **settings)
        inputs = preprocessor(dict(inputs=[pixels]), False)['inputs'][0]
        seen = tool.classification.seen_picture(preprocessor, inputs)
        np.testing.assert_array_equal(seen, pixels.flip(0).permute(1, 2, 0))


# --------------------------------------------------------------------- errors


def test_wrong_input(run, classifier, tmp_path):
    picture = classifier / 'val/cat/0.png'
    other = tmp_path / 'other'
    other.mkdir()
    finer = derive(classifier, other, 'num_points=4', 'num_points=9')
    for args, message in (
        (('--tokens', '1,6'), '--tokens 6: the model has tokens 0 to 5'),
        (('--stages', '3'), '--stages 3: the model has 3 sampling stages, .*cortex.0'),
        (('--stages', 'cortex'), '--stages cortex: the model has 3 sampling'),
        (
            ('--top-k-class', '2', '--class', 'bat'),
            r'--class bat: no class of the model; .* 0 to 2 or a name \(cat, dog, owl',
        ),
        (('--disturb', 'erase', '--disturb-share', '1'), '--disturb-share: share must'),
        (('--class', 'cat'), '--class is the class of --top-k-class'),
        (('--view', '1'), '--view is for videos'),
        (('--json', str(tmp_path)), 'it is a folder; name a file'),
    ):
        with pytest.raises(SystemExit, match=message):
            run(picture, *args)
    with pytest.raises(SystemExit, match='does not fit the model of'):
        run(picture, config=finer)


@pytest.mark.parametrize(
    'args, message',
    [
        (('--what', 'none'), '--what none is for --json FILE alone'),
        (('--what', 'none', 'points', '--json', 'x'), '--what none is for'),
        (('--bandwidth', '0'), '--bandwidth must be above 0'),
        (('--top-k-class', '0'), '--top-k-class must be between 1'),
        (('--class', 'a', '--tokens', '1'), 'give one of them'),
        (('--top-k-class', '2', '--tokens', '1'), 'give one of them'),
        (('--disturb-share', '0.1'), '--disturb-share is the share of --disturb'),
        (('--erase-fill', 'mean'), '--erase-fill is the fill of --disturb'),
        (('--seed', '1'), '--seed is the seed of --disturb'),
        (('--tokens', 'a,b'), "'a,b' are no indices; give numbers such as 3,17"),
        (('--max-images', '0'), '--max-images must be at least 1'),
    ],
)
def test_wrong_options(tool, args, message, capsys):
    with pytest.raises(SystemExit):
        tool.vis_focus.parse_args(['x.py', 'x.pth', 'x.jpg', *args])
    assert message in capsys.readouterr().err


def test_one_picture_of_each_folder_in_turn(tool, tmp_path):
    for name in ('b/1.png', 'b/2.jpg', 'b/3.png', 'a/9.png', 'a/note.txt', 'c/1.webp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = tool.vis_focus.find_images([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        'a/9.png', 'b/1.png', 'c/1.webp', 'b/2.jpg', 'b/3.png'
    ]  # fmt: skip
