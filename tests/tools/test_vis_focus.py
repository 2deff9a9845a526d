"""tools/visualization/vis_focus.py: options, files, numbers and complaints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler

pytest.importorskip('matplotlib')

from helpers.scripts import ROOT, load_tool  # noqa: E402
from helpers.toy_looks import BOXES, by_hand, read  # noqa: E402
from sparseformer_mm.visualization import focus  # noqa: E402
from sparseformer_mm.visualization.disturb import disturb  # noqa: E402
from sparseformer_mm.visualization.recording import stages_of  # noqa: E402
from sparseformer_mm.visualization.statistics import (  # noqa: E402
    share_in_area,
    stage_statistics,
)


@pytest.fixture(scope='module')
def tool():
    return load_tool('visualization/vis_focus')


@pytest.fixture
def run(tool, toys, tmp_path, monkeypatch):
    """Run the tool on a toy; what it draws: rows, row titles, legends, title each."""

    def call(task, *args, config=None, weights=None):
        toy, drawn, draw = toys(task), [], focus.draw_panels

        def spy(rows, titles, legends=(), title=''):
            drawn.append((rows, titles, legends, title))
            return draw(rows, titles, legends, title)

        with monkeypatch.context() as patch:
            patch.setattr(focus, 'draw_panels', spy)
            files = [config or toy.config, weights or toy.weights]
            out = ('--out', tmp_path / 'out')
            tool.main([str(arg) for arg in (*files, *args, *out)])
        return drawn

    return call


def assert_same(rows, others):
    """The same panels."""
    assert [len(row) for row in rows] == [len(row) for row in others]
    for a, b in zip(sum(rows, []), sum(others, [])):
        assert a.title == b.title
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.points, b.points)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def read_numbers(path):
    return json.loads(path.read_text())


# ------------------------------------------------------------------------ files


@pytest.mark.mmpretrain
def test_files_of_a_classifier(run, toys, tmp_path, capsys):
    picture = toys('classification').root / 'val/owl/0.png'
    focus_figure, *kinds, sheet = run('classification', picture, '--top-k-class', 2)
    said = capsys.readouterr().out
    title = said.split('0_focus.png: ')[1].splitlines()[0]
    assert title.endswith(', true owl') and focus_figure[3] == f'0.png: {title}'
    assert "1 of these 1 are in the config's test data" in said
    answer = f'tokens that answer most to owl (true); {title}'
    assert [figure[3] for figure in kinds] == [answer, answer, title]
    assert_same(sheet[0], focus_figure[0])
    assert sheet[1] == [f'0.png: {title}']
    assert sheet[3].startswith('points in the true boxes: focusing.0 ')
    assert names_in(tmp_path / 'out') == [
        '0_density.png', '0_focus.png', '0_points.png', '0_rois.png', 'index.html',
        'sheet.png',
    ]  # fmt: skip
    page = (tmp_path / 'out/index.html').read_text()
    assert '"answer":"owl (true)"' in page and '"shown":["points","rois"]' in page
    assert '<title>Where toy looks</title>' in page
    run('classification', picture, '--what', 'density', '--disturb', 'zero-pad')
    page = (tmp_path / 'out/index.html').read_text()
    assert '"shown":["density"]' in page and 'toy looks (zero-pad)</title>' in page


@pytest.mark.mmdet
def test_files_of_a_detector(run, toys, tmp_path, capsys):
    folder = toys('detection').root / 'data/val2017'
    args = ('--max-images', 2, '--score-thr', 1, '--truth', 'none')
    first, _, (rows, titles, _, _) = run('detection', folder, *args)
    said = capsys.readouterr().out
    assert 'taking 2 of 8 (--max-images)' in said and 'no truth: --truth none' in said
    assert 'nothing with a score of 1' in said and first[3] == ''
    assert titles == [f'{i:012d}.jpg' for i in range(2)] and len(rows) == 2
    names = [f'{i:012d}_focus.png' for i in range(2)]
    assert names_in(tmp_path / 'out') == [*names, 'sheet.png']
    seen = read(tmp_path / 'out/sheet.png')
    # Pictures of 64 x 64 and 64 x 48, four times as large.
    assert seen.shape == (18 + 256 + 192 + 2 * 16, 20 + 4 * 272, 3)
    np.testing.assert_array_equal(seen[26 : 26 + 256, 28 : 28 + 256][::4, ::4],
                                  rows[0][0].image)  # fmt: skip


@pytest.mark.mmseg
def test_files_of_a_segmentor(run, toys, tmp_path, capsys):
    root = toys('segmentation').root
    json_file = tmp_path / 'numbers.json'
    args = (root / 'img', root / 'other/a.png', '--json', json_file, '--what', 'rois')
    *_, (rows, titles, legends, _) = run('segmentation', *args)
    assert titles == ['a.png', 'a.png'] and [len(row) for row in rows] == [4, 3]
    assert '1 of these 2 are in' in capsys.readouterr().out
    # The second of the same name does not overwrite the first.
    assert names_in(tmp_path / 'out') == [
        'a_focus.png', 'a_focus2.png', 'a_rois.png', 'a_rois2.png', 'index.html',
        'sheet.png',
    ]  # fmt: skip
    assert {'road', 'car'} <= {name for name, _ in legends[0]}
    assert read_numbers(json_file)['means']['focus_gain'] is None


@pytest.mark.mmaction
def test_files_of_videos(run, toys, tmp_path, capsys):
    root = toys('video').root
    raw = toys('video').derive(
        tmp_path,
        ("dict(type='OpenCVInit'),", ''),
        ('OpenCVDecode', 'RawFrameDecode'),
        ('VideoDataset', 'RawframeDataset'),
        ('val.txt', 'frames.txt'),
        ('video=', 'img='),
    )
    json_file = tmp_path / 'numbers.json'
    args = ('--json', json_file, '--num-frames', 2, '--top-tokens', 1)
    known, other, sheet = run('video', root / 'frames', *args, config=raw)
    assert [len(figure[0]) for figure in (known, other)] == [2, 2]
    assert known[1] == ['focusing.0', 'cortex.0']
    assert_same(sheet[0], [known[0][-1], other[0][-1]])
    assert sheet[1] == [known[3], other[3]]
    assert known[3].startswith('known: ') and 'true falling (view 0 of 2)' in known[3]
    assert 'true' not in other[3]
    assert names_in(tmp_path / 'out') == [
        'known_focus.png', 'other_focus.png', 'sheet.png'
    ]  # fmt: skip
    # Rows of 24 x 32 pixels, 8 times as large, with margins of 8, and one legend.
    picture = read(tmp_path / 'out/known_focus.png')
    assert picture.shape == (20 + 18 + 2 * (192 + 16) + 18, 20 + 2 * (256 + 16), 3)
    # Both decode to the same pictures, so tokens look at the same things.
    *_, videos = run('video', root / 'known.mp4', root / 'other.mp4', *args[2:])
    assert_same(sheet[0], videos[0])
    assert 'true resting' in videos[1][0]


# ---------------------------------------------------------------------- numbers


@pytest.mark.mmpretrain
def test_numbers(run, toys, tmp_path, capsys):
    toy, path = toys('classification'), tmp_path / 'deep/numbers.json'
    args = ('--what', 'none', '--json', path, '--max-images', 5)
    assert not run('classification', toy.root / 'val', *args)
    assert not (tmp_path / 'out').exists()
    numbers = read_numbers(path)
    assert (numbers['num_pictures'], numbers['disturb']) == (5, None)
    # Classes take turns.
    names = ['cat/0.png', 'dog/0.png', 'owl/0.png', 'cat/1.png', 'dog/1.png']
    files = [toy.root / 'val' / name for name in names]
    assert [picture['file'] for picture in numbers['pictures']] == list(map(str, files))
    shares, model = [], toy.model()
    for name, file, picture in zip(names, files, numbers['pictures']):
        assert picture['size'] == [48, 32] and picture['area_share'] is None
        box = np.array(BOXES.get(name, [0] * 5)[:4])
        boxes = [box / [48, 32, 48, 32]] if name in BOXES else []
        np.testing.assert_allclose(picture['boxes'], boxes, atol=1e-6)
        expected = (box[2] - box[0]) * (box[3] - box[1]) / (48 * 32) if boxes else None
        assert picture['box_share'] == pytest.approx(expected)
        stages = stages_of(by_hand(model, read(file)).stages)
        statistics = stage_statistics(stages, np.array(boxes), (48, 32))
        for ours, one in zip(picture['stages'], statistics):
            assert ours.pop('on_area') is ours.pop('on_area_undisturbed') is None
            assert ours == pytest.approx(one._asdict(), abs=0.01)
        shares += [[stage['in_boxes'] for stage in picture['stages']]] if boxes else []
    means = numbers['means']
    assert len(shares) == 2
    shares = np.mean(shares, 0)
    assert [stage['in_boxes'] for stage in means['stages']] == pytest.approx(shares)
    gain = dict(first=shares[0], last=shares[2], gain=shares[2] - shares[0])
    assert means['focus_gain'] == pytest.approx(dict(gain, ratio=shares[2] / shares[0]))
    every = [picture['stages'][1]['entropy_bits'] for picture in numbers['pictures']]
    assert means['stages'][1]['entropy_bits'] == pytest.approx(np.mean(every))
    said = capsys.readouterr().out
    assert 'Means over 5 picture(s)' in said and 'on area' not in said
    assert f'to last stage: {shares[0]:.1%} -> {shares[2]:.1%} (' in said


@pytest.mark.mmpretrain
def test_many_at_random_and_few_drawn(run, toys, tmp_path):
    """Those that mmengine's sampler takes first; a grid of points for all of them."""
    toy, path = toys('classification'), tmp_path / 'numbers.json'
    one_token = ('num_tokens=6', 'num_tokens=1'), ('num_points=4', 'num_points=16')
    config = toy.derive(
        tmp_path, *one_token, end="\nmodel['backbone']['roi_init'] = 'whole'"
    )
    from mmengine.config import Config
    from mmengine.registry import MODELS

    toy.model()  # enters the library's scope
    state = MODELS.build(Config.fromfile(config).model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'untrained.pth')
    args = ('--max-images', 5, '--shuffle', '--num-drawn', 2, '--json', path)
    weights = dict(config=config, weights=tmp_path / 'untrained.pth')
    *_, (rows, _, _, _) = run('classification', toy.root / 'val', *args, **weights)
    assert len(rows) == 2
    files = sorted((toy.root / 'val').glob('*/*.png'))
    order = list(DefaultSampler(files, shuffle=True, seed=0))[:5]
    numbers = read_numbers(path)
    names = [Path(picture['file']) for picture in numbers['pictures']]
    assert names == [files[i] for i in order] != files[:5]
    # An untrained token that sees the whole image samples a 4 x 4 grid, standardised
    # to three times its deviation.
    grid = (np.arange(4) + 0.5) / 4 - 0.5
    line = 0.5 + grid / (3 * np.std(np.repeat(grid, 4), ddof=1))
    shares = []
    for x1, y1, x2, y2, _ in BOXES.values():
        x, y = line * 48, line * 32
        shares.append(np.outer((x1 <= x) & (x <= x2), (y1 <= y) & (y <= y2)).mean())
    for stage in numbers['means']['stages']:
        assert stage['in_boxes'] == pytest.approx(np.mean(shares))
    assert numbers['means']['focus_gain']['ratio'] == pytest.approx(1)


@pytest.mark.mmpretrain
@pytest.mark.parametrize(
    'args',
    [
        dict(kind='zero-pad', share=0.25),
        dict(kind='erase', seed=7, fill='black'),
    ],
)
def test_disturbed_pictures(run, toys, tmp_path, args):
    toy, path = toys('classification'), tmp_path / 'numbers.json'
    picture = toy.root / 'val/cat/0.png'
    flags = dict(kind='disturb', share='disturb-share', fill='erase-fill', seed='seed')
    flags = [x for key, value in args.items() for x in (f'--{flags[key]}', value)]
    flags += ['--json', path, '--what', 'points', '--stages', '-1', 'focusing.0']
    drawn = run('classification', picture, *flags)
    disturbed = disturb(read(picture), **args)
    (panels,) = drawn[1][0]
    assert [panel.title for panel in panels] == ['image', 'focusing.0', 'cortex.0']
    np.testing.assert_array_equal(panels[0].image, disturbed.image)
    numbers = read_numbers(path)
    assert (numbers['disturb'], numbers['seed']) == (args['kind'], args.get('seed', 0))
    (picture_numbers,) = numbers['pictures']
    box = disturbed.boxes(np.array(BOXES['cat/0.png'][:4]) / [48, 32, 48, 32])
    np.testing.assert_allclose(picture_numbers['boxes'], box, atol=1e-6)
    assert picture_numbers['area_share'] == pytest.approx(disturbed.area.mean())
    seen = dict(on_area=disturbed.image, on_area_undisturbed=read(picture))
    for key, image in seen.items():
        stages = by_hand(toy.model(), image).stages[::2]
        for ours, stage in zip(picture_numbers['stages'], stages):
            expected = pytest.approx(share_in_area(stage.points[0], disturbed.area))
            elsewhere = image.shape != disturbed.image.shape
            assert ours[key] == (None if elsewhere else expected)


# -------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    'args, message',
    [
        (('--what', 'none'), '--what none is for --json FILE alone'),
        (('--what', 'none', 'points', '--json', 'x'), '--what none is for'),
        (('--bandwidth', '0'), '--bandwidth must be above 0'),
        (('--top-k-class', '0'), '--top-k-class must be between 1'),
        (('--score-thr', '1.5'), '--score-thr must be between 0 and 1'),
        (('--max-images', '0'), '--max-images must be between 1'),
        (('--max-images', '101'), '--max-images above 100 needs --num-drawn'),
        (('--num-drawn', '101'), '--num-drawn must be between 1 and 100'),
        (('--view', '-1'), '--view must be between 0'),
        (('--num-frames', '0'), '--num-frames must be between 1 and 64'),
        (('--class', 'a', '--tokens', '1'), 'both choose tokens; give one'),
        (('--top-k-class', '2', '--tokens', '1'), 'both choose tokens; give one'),
        (('--disturb-share', '0.1'), '--disturb-share belongs to --disturb, which'),
        (('--erase-fill', 'mean'), '--erase-fill belongs to --disturb'),
        (('--seed', '1'), '--seed belongs to --disturb'),
        (('--tokens', 'a,b'), "'a,b' are no indices; give numbers such as 3,17"),
    ],
)
def test_wrong_options(tool, args, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['x.py', 'x.pth', str(ROOT), *args])
    assert message in capsys.readouterr().err


PRETRAIN, DET = pytest.mark.mmpretrain, pytest.mark.mmdet
ACTION = pytest.mark.mmaction
RAW = [("dict(type='OpenCVInit'),", ''), ('OpenCVDecode', 'RawFrameDecode')]
CLEAR = [
    ("dict(type='OpenCVInit'),", ''),
    ("dict(type='OpenCVDecode'),", ''),
    ("dict(type='SampleFrames'", "dict(type='sparseformer_mm.video.ReadFrames', "
     "sample=dict(type='SampleFrames'"),
    ('test_mode=True),\n', 'test_mode=True)),\n'),
]  # fmt: skip
STILL = [
    ('spatial_dims=3, token_inflation=2', 'spatial_dims=2'),
    ("type='Recognizer3D'", "type='Recognizer2D'"),
]
SINGLE = "model.update(type='SingleStageDetector', "


@pytest.mark.parametrize(
    'task, replacements, source, args, message',
    [
        pytest.param('classification', [], 'val/cat/0.png', *rest, marks=PRETRAIN)
        for rest in (
            (['--tokens', '1,6'], '--tokens 6: the model has tokens 0 to 5'),
            (['--stages', 'cortex'], '--stages cortex: the model has 3 sampling'),
            (
                ['--top-k-class', 2, '--class', 'bat'],
                r'--class bat: no class of the model; .* 0 to 2 or .* \(cat, dog, o',
            ),
            (['--disturb', 'erase', '--disturb-share', 1], 'share must be above 0'),
            (['--class', 'cat'], '--class is the class of --top-k-class'),
            (['--view', 1], '--view is for videos, and this model takes pictures'),
            (['--json', '.'], 'it is a folder; name a file'),
            (['--truth', 'none.json'], 'none.json is no file of boxes'),
        )
    ]
    + [
        pytest.param('classification', [('num_points=4', 'num_points=9')],
                     'val/cat/0.png', [], 'does not fit the model of', marks=PRETRAIN),
        pytest.param('detection', [("'mmdet'", "'mmengine'")], 'data/val2017', [],
                     'mmengine.; this tool draws .* mmpretrain and', marks=DET),
        pytest.param('detection', [('test_dataloader =', 'other =')], 'data/val2017',
                     [], 'has no test_dataloader', marks=DET),
        pytest.param('detection', [], 'empty', [], r'empty has no picture \(.bmp',
                     marks=DET),
        pytest.param('detection', [], 'text.jpg', [], 'text.jpg is text, not a',
                     marks=DET),
        pytest.param('detection', SINGLE + "backbone=dict(type='ResNet', depth=18))",
                     'data/val2017', [], 'is a ResNet and has no tokens', marks=DET),
    ]
    + [
        pytest.param('video', *rest, marks=ACTION)
        for rest in (
            ([], 'none.mp4', [], r'there is no file or folder .*none.mp4 \(seen from'),
            ([], 'empty', [], 'has no video .* and no frames of one .*frames$'),
            ([], 'text.jpg', [], 'of .*toy.py cannot work on .*text.jpg: replace the'),
            ([], 'frames/known', [], 'reads video files, not the frames .*ReadFrames'),
            (RAW, 'known.mp4', [], 'reads frames, not video .*known.mp4; .*ReadFrames'),
            ([('NCTHW', 'NCHW')], 'known.mp4', [], r'\(8, 3, 24, 32\); .*NCTHW'),
            (CLEAR, 'text.jpg', [], '^error: .*text.jpg'),
            ([], 'known.mp4', ['--view', 2], r'gives 2 view\(s\), numbered from 0'),
            (STILL, 'known.mp4', [], 'single frames .spatial_dims=2. and has no tubes'),
            ([], 'known.mp4', ['--what', 'rois'], '--what is for pictures, and this'),
            ([], 'known.mp4', ['--disturb', 'erase'], '--disturb is for pictures'),
            ([], 'known.mp4', ['--tokens', 8], '--tokens 8: the model has tokens 0'),
        )
    ],
)  # fmt: skip
def test_wrong_input(run, toys, tmp_path, task, replacements, source, args, message):
    toy = toys(task)
    (toy.root / 'empty').mkdir(exist_ok=True)
    (toy.root / 'text.jpg').write_text('no picture')
    end = replacements if isinstance(replacements, str) else ''
    config = toy.derive(tmp_path, *([] if end else replacements), end=end)
    with pytest.raises(SystemExit, match=message):
        run(task, toy.root / source, *args, config=config)
    assert not list(tmp_path.glob('out/*'))


@pytest.mark.mmdet
def test_broken_checkpoints_and_absent_data(run, toys, tmp_path, capsys):
    toy = toys('detection')
    picture = toy.root / 'data/val2017/000000000001.jpg'
    state = torch.load(toy.weights)['state_dict']
    del state['bbox_head.fc_cls.0.weight']
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    for weights, message in (
        ('none.pth', 'there is no checkpoint file none.pth'),
        (tmp_path / 'other.pth', 'does not fit the model of .*toy.py'),
    ):
        with pytest.raises(SystemExit, match=message):
            run('detection', picture, weights=weights)
    config = toy.derive(tmp_path, ('annotations/instances_val', 'nothing/instances'))
    drawn = run('detection', picture, config=config)
    said = capsys.readouterr().out
    assert 'no truth: the test data of' in said and 'nothing/instances' in said
    assert not len(drawn[0][0][0][0].rectangles[1].corners)


def test_missing_picture_from_the_shell():
    """As a user runs it."""
    config = ROOT / 'configs/detection/sparseformer-nano_1xb16_digits.py'
    script = ROOT / 'tools/visualization/vis_focus.py'
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, str(script), str(config), 'none.pth', 'none.jpg'],
        env=dict(os.environ, PYTHONPATH=path),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'error: there is no file or folder none.jpg (seen from '
    )
