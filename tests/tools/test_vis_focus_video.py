"""tools/visualization/vis_focus.py on videos: tubes, their times and their pictures."""

import importlib.util
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from helpers.scripts import load_tool

pytest.importorskip('matplotlib')

from sparseformer_mm.visualization.draw import light_colors  # noqa: E402
from sparseformer_mm.visualization.panels import Panel, draw_panels  # noqa: E402

pytestmark = pytest.mark.mmaction

CLASSES = ('rising', 'falling', 'resting')
MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
CONFIG = """
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    data_preprocessor=dict(
        type='ActionDataPreprocessor', mean={mean}, std={std}, format_shape='NCTHW'),
    backbone=dict(
        type='sparseformer_mm.SparseFormer', spatial_dims=3, token_inflation=2,
        out_type='featmap',
        arch=dict(num_tokens=4, num_points=4, focusing_dims=16, focusing_repeats=1,
                  cortex_dims=32, cortex_depth=1, num_heads=4, feat_channels=8)),
    cls_head=dict(type='I3DHead', in_channels=32, num_classes=3, average_clips='prob'))
test_pipeline = [
    dict(type='OpenCVInit'),
    dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=2,
         test_mode=True),
    dict(type='OpenCVDecode'),
    dict(type='Resize', scale=(32, 24), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')]
test_dataloader = dict(dataset=dict(
    type='VideoDataset', data_root=r'{root}', ann_file='val.txt',
    data_prefix=dict(video=''), pipeline=test_pipeline, test_mode=True))
"""
READ_FRAMES = "dict(type='sparseformer_mm.video.ReadFrames', sample=dict(" + (
    "type='SampleFrames'"
)
# Frames of 48 x 40 pixels; of the second clip of four, every other from the sixth.
NUM_FRAMES, SECOND_CLIP = 12, [5, 7, 9, 11]


@pytest.fixture(scope='module')
def tool():
    parts = {
        name: import_module(f'sparseformer_mm.visualization.{name}')
        for name in ('video_strips', 'videos')
    }
    return SimpleNamespace(vis_focus=load_tool('visualization/vis_focus'), **parts)


# ------------------------------------------------------------- tubes and times


def test_frames_in_the_middle_of_equal_parts(tool):
    drawn = tool.video_strips.drawn_frames
    assert drawn(32, 4).tolist() == [4, 12, 20, 28]
    assert drawn(16, 6).tolist() == [1, 4, 6, 9, 12, 14]
    assert drawn(3, 6).tolist() == [0, 1, 2]
    assert drawn(7, 1).tolist() == [3]
    np.testing.assert_allclose(tool.video_strips.frame_times(2), [0.25, 0.75])


def test_tubes_are_there_from_start_to_end(tool):
    # x, y, t, w, h, l; only t and l matter.
    rois = np.array(
        [
            [0.5, 0.5, 0.25, 0.9, 0.9, 0.5],  # first half
            [0.1, 0.1, 0.75, 0.1, 0.1, 0.5],  # second half
            [0.5, 0.5, 0.5, 0.5, 0.5, 3.0],  # longer than the clip
            [0.5, 0.5, -0.5, 0.5, 0.5, 0.5],  # before it
        ]
    )
    for time, there in (
        (0.1, [1, 0, 1, 0]),
        (0.5, [1, 1, 1, 0]),
        (0.51, [0, 1, 1, 0]),
        (0.99, [0, 1, 1, 0]),
    ):
        assert tool.video_strips.tubes_at(rois, time).tolist() == there


def test_points_near_a_frame_in_time(tool):
    times = np.array([[0.1, 0.37], [0.38, 0.5], [0.62, 0.63]])
    points = np.stack([np.zeros_like(times), np.ones_like(times), times], -1)
    near = tool.video_strips.points_near(points, 0.5, 0.25)
    assert near.tolist() == [[False, False], [True, True], [True, False]]
    # The next frame's points are not this one's.
    both = near & tool.video_strips.points_near(points, 0.75, 0.25)
    assert not both.any()


def test_share_of_points_in_a_box_that_moves(tool):
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    points = np.array(
        [
            [[0.2, 0.2, 0.1], [0.7, 0.7, 0.1], [0.2, 0.2, 0.9], [0.7, 0.7, 0.9]],
            # At the corner, too far right, before and after the clip.
            [[1.0, 1.0, 1.0], [1.1, 0.7, 0.9], [0.2, 0.2, -0.1], [0.7, 0.7, 1.1]],
        ]
    )
    assert tool.video_strips.share_inside(points[0], boxes) == 0.5
    assert tool.video_strips.share_inside(points[1], boxes) == 0.25
    assert tool.video_strips.share_inside(points, boxes) == 0.375


def test_best_tokens_of_each_copy(tool):
    scores = np.array([1.0, 9, 5, 5, 0, -1, -3, -2])
    best = tool.video_strips.best_tokens
    assert best(scores, 2, 2).tolist() == [1, 2, 4, 5]
    assert best(scores, 1, 3).tolist() == [1, 2, 3]
    assert best(scores, 2, 9).tolist() == [1, 2, 3, 0, 4, 5, 7, 6]
    assert best(scores, 4, 0).tolist() == []


def test_each_token_is_asked_for_its_class(tool):
    model = SimpleNamespace(
        backbone=SimpleNamespace(embed_dims=6),
        cls_head=SimpleNamespace(fc_cls=torch.nn.Linear(6, 3)),
    )
    tokens = torch.randn(5, 6)
    head = model.cls_head.fc_cls
    expected = tokens @ head.weight.T + head.bias
    torch.testing.assert_close(tool.video_strips.token_logits(model, tokens), expected)
    for other in (SimpleNamespace(), SimpleNamespace(fc_cls=torch.nn.Linear(7, 3))):
        model.cls_head = other
        with pytest.raises(SystemExit, match='no linear layer fc_cls .* by --tokens'):
            tool.video_strips.token_logits(model, tokens)


# ---------------------------------------------------------- files and folders


def test_folders_of_videos_and_of_frames(tool, tmp_path):
    find = tool.videos.find_videos
    for name in ('a/2.MP4', 'a/1.webm', 'a/cover.jpg', 'b/y/1.png', 'b/x/1.png', 'c/d'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    a, b, c = (tmp_path / name for name in 'abc')
    assert find([a]) == [a / '1.webm', a / '2.MP4']
    assert find([b / 'x']) == [b / 'x']
    assert find([b]) == [b / 'x', b / 'y']
    assert find([str(c / 'd'), b / 'y']) == [c / 'd', b / 'y']
    with pytest.raises(SystemExit, match=r'folder .*c has no video \(.avi, .mkv'):
        find([c])


def test_numbers_of_raw_frames(tool, tmp_path):
    for number in (7, 8, 9):
        (tmp_path / f'img_{{a}}2_{number:05}.png').touch()
    info = tool.videos.frames_info(tmp_path)
    assert info['total_frames'] == 3 and info['start_index'] == 7
    template = info['filename_tmpl']
    assert template.format(8) == 'img_{a}2_00008.png'
    assert (Path(info['frame_dir']) / template.format(9)).is_file()
    (tmp_path / template.format(8)).unlink()
    with pytest.raises(SystemExit, match='has no img_{a}2_00008.png; number the'):
        tool.videos.frames_info(tmp_path)
    (tmp_path / 'mask_00001.png').touch()
    with pytest.raises(SystemExit, match='not numbered in one way; frames of a video'):
        tool.videos.frames_info(tmp_path)


# -------------------------------------------------------------------- a model


def box_of(frame):
    """Of the object, in pixels."""
    return [2 + 2 * frame, 6 + frame, 14 + 2 * frame, 20 + frame]


@pytest.fixture(scope='module')
def recognizer(tmp_path_factory):
    """Two videos, one of them known, as files and as frames; configs; weights."""
    if importlib.util.find_spec('mmaction') is None:
        pytest.skip('needs mmaction2')
    import sparseformer_mm.video.compat  # noqa: F401

    root = tmp_path_factory.mktemp('recognizer')
    rng = np.random.default_rng(0)
    for name in ('known', 'other'):
        background = cv2.resize(
            rng.integers(0, 120, (5, 6, 3), dtype=np.uint8), (48, 40)
        )
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        writer = cv2.VideoWriter(str(root / f'{name}.mp4'), codec, 10, (48, 40))
        for frame in range(NUM_FRAMES):
            picture = background.copy()
            x1, y1, x2, y2 = box_of(frame)
            picture[y1:y2, x1:x2] = (40, 200, 250)
            writer.write(picture)
        writer.release()
        # As they are after the codec.
        (root / f'frames/{name}').mkdir(parents=True)
        reader = cv2.VideoCapture(str(root / f'{name}.mp4'))
        for frame in range(NUM_FRAMES):
            path = root / f'frames/{name}/img_{frame + 1:05}.png'
            assert cv2.imwrite(str(path), reader.read()[1])
    (root / 'val.txt').write_text('known.mp4 2\n')
    boxes = [[*box_of(frame), 2] for frame in range(NUM_FRAMES)]
    (root / 'val_boxes.json').write_text(json.dumps({'known.mp4': boxes}))
    (root / 'classes.txt').write_text(''.join(f'{name}\n' for name in CLASSES))

    text = CONFIG.format(mean=MEAN, std=STD, root=root)
    (root / 'toy.py').write_text(text)
    cfg = Config.fromfile(root / 'toy.py')
    with DefaultScope.overwrite_default_scope('mmaction'):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    with torch.no_grad():  # as if trained: nothing is zero, no two tokens agree
        for name, param in model.named_parameters():
            scale = 0.02 if 'token_rois' in name else 0.05
            param.add_(torch.randn_like(param) * scale)
    torch.save(dict(state_dict=model.state_dict(), meta={}), root / 'model.pth')
    return root


def derive(recognizer, folder, *replacements):
    """A config beside the toy's."""
    text = (recognizer / 'toy.py').read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = folder / 'derived.py'
    path.write_text(text)
    return path


@pytest.fixture
def run(tool, recognizer, monkeypatch, tmp_path):
    """Run the tool on the toy; what it draws: (rows, titles, legends, title) each."""

    def call(*args, config=None):
        drawn = []

        def draw(*args):
            drawn.append(args)
            return draw_panels(*args)

        monkeypatch.setattr(tool.vis_focus, 'draw_panels', draw)
        config = config or recognizer / 'toy.py'
        args = [config, recognizer / 'model.pth', *args, '--out', tmp_path / 'out']
        tool.vis_focus.main([str(arg) for arg in args])
        return drawn

    return call


def pictures_of(recognizer, frames):
    """What the toy's pipeline makes of frames, (T, 24, 32, 3) RGB uint8."""
    paths = [recognizer / f'frames/known/img_{frame + 1:05}.png' for frame in frames]
    return np.stack(
        [
            cv2.cvtColor(cv2.resize(cv2.imread(str(path)), (32, 24)), cv2.COLOR_BGR2RGB)
            for path in paths
        ]
    )


@torch.no_grad()
def by_hand(recognizer, frames):
    """Scores, stages and logits of single tokens without mmaction2's machinery."""
    cfg = Config.fromfile(recognizer / 'toy.py')
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(recognizer / 'model.pth')['state_dict'])
    pixels = torch.from_numpy(pictures_of(recognizer, frames)).float()
    inputs = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    seen = model.backbone.forward_intermediates(inputs.permute(3, 0, 1, 2)[None])
    classifier = model.cls_head.fc_cls
    scores = classifier(seen.pooled).softmax(1)[0]
    return scores, seen.stages, classifier(seen.tokens)[0]


def corners(rois):
    """(N, 6) -> x1, y1, x2, y2."""
    return np.concatenate(
        [rois[:, :2] - rois[:, 3:5] / 2, rois[:, :2] + rois[:, 3:5] / 2], 1
    )


def test_strip(run, recognizer, capsys, tmp_path):
    (rows, names, legends, title), sheet = run(
        recognizer / 'known.mp4', '--view', 1, '--top-tokens', 2
    )
    scores, stages, logits = by_hand(recognizer, SECOND_CLIP)
    label = int(scores.argmax())
    # The two best of each copy in time, by their answer to that class.
    ranks = logits[:, label].view(2, 4).argsort(1, descending=True)
    tokens = (ranks[:, :2] + torch.tensor([[0], [4]])).flatten().numpy()
    others = np.setdiff1d(np.arange(8), tokens)
    colors = light_colors(4)
    assert names == ['focusing.0', 'cortex.0'] == [stage.name for stage in stages]
    found = f'{CLASSES[label]} {scores[label]:.2f}, true resting'
    assert title == f'known.mp4: {found} (view 1 of 2)'
    assert [name for name, _ in legends[-1]] == [f'token {token}' for token in tokens]
    np.testing.assert_array_equal([color for _, color in legends[-1]], colors)
    assert not legends[0]

    pictures = pictures_of(recognizer, SECOND_CLIP)
    shown = 0
    for row, stage in zip(rows, stages):
        rois = stage.rois[0].double().numpy()
        points = stage.points[0].double().numpy()
        assert [panel.title for panel in row] == [f'frame {i}' for i in SECOND_CLIP]
        for i, panel in enumerate(row):
            np.testing.assert_array_equal(panel.image, pictures[i])
            time = (i + 0.5) / 4
            start, end = rois[:, 2] - rois[:, 5] / 2, rois[:, 2] + rois[:, 5] / 2
            there = (start <= time) & (time <= end)
            grey, mine, true = panel.frames
            for frames, indices in ((grey, others), (mine, tokens)):
                expected = corners(rois[indices[there[indices]]])
                np.testing.assert_allclose(frames.corners, expected, atol=1e-5)
            assert not len(grey.colors) or np.ptp(grey.colors) == 0
            np.testing.assert_array_equal(mine.colors, colors[there[tokens]])
            expected = np.array(box_of(SECOND_CLIP[i])) / [48, 40, 48, 40]
            np.testing.assert_allclose(true.corners, expected[None])
            assert true.dashed and not mine.dashed and grey.width < mine.width
            near = np.abs(points[tokens][..., 2] - time) < 1 / 8
            np.testing.assert_allclose(
                panel.points[:, 0], points[tokens][near][:, :2], atol=1e-5
            )
            np.testing.assert_array_equal(panel.point_colors, colors[near.nonzero()[0]])
            shown += len(mine.corners) + near.sum()
    assert shown > 20
    # Copies stay in their half of the clip enough to tell them apart.
    assert 0 < len(rows[0][0].frames[1].corners) < 4

    shares = []
    for stage in stages:
        x, y, t = stage.points[0].double().numpy().reshape(-1, 3).T
        boxes = [np.array(box_of(i)) / [48, 40, 48, 40] for i in SECOND_CLIP]
        inside = [
            0 <= t[i] <= 1
            and boxes[min(int(t[i] * 4), 3)][0]
            <= x[i]
            <= boxes[min(int(t[i] * 4), 3)][2]
            and boxes[min(int(t[i] * 4), 3)][1]
            <= y[i]
            <= boxes[min(int(t[i] * 4), 3)][3]
            for i in range(len(t))
        ]
        shares.append(f'{stage.name} {np.mean(inside):.0%}')
    said = capsys.readouterr().out
    assert (
        f'known_focus.png: {found}; points in the true box: {", ".join(shares)}\n'
        in (said)
    )
    assert "1 of these 1 videos are in the config's test data" in said

    # The sheet has the last stage; both are written.
    assert sheet[0] == [rows[-1]] and sheet[1] == [title]
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == ['known_focus.png', 'sheet.png']
    # Rows of 24 x 32 pixels, 8 times as large, with borders of 8.
    picture = np.asarray(Image.open(tmp_path / 'out/known_focus.png').convert('RGB'))
    assert picture.shape == (20 + 18 + 2 * (192 + 16) + 18, 20 + 4 * (256 + 16), 3)


def test_title_is_above_the_panels():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = np.zeros((256, 256, 3), np.uint8)
    plain = draw_panels([[Panel('x', image)]])
    titled = draw_panels([[Panel('x', image)]], title='long ' * 20)
    assert titled.get_figheight() * titled.dpi == plain.get_figheight() * plain.dpi + 20
    bounds = [figure.axes[0].get_window_extent().bounds for figure in (plain, titled)]
    np.testing.assert_allclose(*bounds)
    text = titled.texts[0]
    assert text.get_text().endswith('...')
    top = plain.get_figheight() * plain.dpi
    assert top < text.get_window_extent(FigureCanvasAgg(titled).get_renderer()).y0


def test_tokens_by_hand_without_truth(run, recognizer, capsys):
    (rows, _, legends, title), _ = run(
        '--truth', 'none', '--num-frames', 2, '--tokens', '6,1,6',
        recognizer / 'other.mp4',
    )  # fmt: skip
    assert [name for name, _ in legends[-1]] == ['token 6', 'token 1']
    assert 'true' not in title and title.endswith('(view 0 of 2)')
    said = capsys.readouterr().out
    assert 'no truth: --truth none' in said and 'mean tube at cortex.0 ' in said
    for row in rows:
        assert [panel.title for panel in row] == ['frame 2', 'frame 6']
        assert all(len(panel.frames) == 2 for panel in row)
        drawn = np.concatenate([panel.point_colors for panel in row])
        assert {tuple(color) for color in drawn} == set(map(tuple, light_colors(2)))


def test_stages_class_and_numbers(run, recognizer, tmp_path):
    path = tmp_path / 'numbers.json'
    (rows, names, legends, _), _ = run(
        recognizer / 'known.mp4', '--view', 1, '--stages', 'cortex.0', '--class',
        'falling', '--top-tokens', 1, '--json', path,
    )  # fmt: skip
    assert names == ['cortex.0'] and len(rows) == 1
    _, stages, logits = by_hand(recognizer, SECOND_CLIP)
    first, second = logits[:, 1].view(2, 4).argmax(1).tolist()
    assert [name for name, _ in legends[-1]] == [
        f'token {first}',
        f'token {second + 4}',
    ]
    (video,) = json.loads(path.read_text())['pictures']
    (numbers,) = video['stages']
    assert (numbers['name'], numbers['points']) == ('cortex.0', 8 * 4)
    sizes = stages[-1].rois[0, :, 3:].mean(0).tolist()
    for key, size in zip(('roi_width', 'roi_height', 'roi_length'), sizes):
        assert numbers[key] == pytest.approx(size, abs=1e-5)
    points = stages[-1].points[0].double().numpy().reshape(-1, 3)
    outside = ((points < 0) | (points > 1)).any(1)
    assert numbers['outside'] == pytest.approx(outside.mean())
    boxes = np.array([box_of(i) for i in SECOND_CLIP]) / [48, 40, 48, 40]
    inside = [
        0 <= t <= 1
        and boxes[min(int(t * 4), 3)][0] <= x <= boxes[min(int(t * 4), 3)][2]
        and boxes[min(int(t * 4), 3)][1] <= y <= boxes[min(int(t * 4), 3)][3]
        for x, y, t in points
    ]
    assert numbers['in_boxes'] == pytest.approx(np.mean(inside))


def test_raw_frames_are_the_video(run, recognizer, tmp_path):
    """Both decode to the same pictures, so tokens look at the same things."""
    config = derive(
        recognizer,
        tmp_path,
        ("dict(type='OpenCVInit'),", ''),
        ('OpenCVDecode', 'RawFrameDecode'),
        ('VideoDataset', 'RawframeDataset'),
        ('val.txt', 'frames.txt'),
        ('video=', 'img='),
    )
    (recognizer / 'frames.txt').write_text('frames/known 12 1\n')
    frames = run(recognizer / 'frames', config=config)
    videos = run(recognizer / 'known.mp4', recognizer / 'other.mp4', '--truth', 'none')
    assert len(frames) == 3
    assert [title.split(':')[0] for title in frames[-1][1]] == ['known', 'other']
    assert 'true falling' in frames[0][3] and 'true' not in frames[1][3]
    for ours, theirs in zip(frames[-1][0], videos[-1][0]):
        for a, b in zip(ours, theirs):
            assert a.title == b.title
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.points, b.points)
            np.testing.assert_array_equal(a.frames[1].corners, b.frames[1].corners)


def test_boxes_are_not_drawn_on_cropped_clips(tool, recognizer, tmp_path):
    """Where the view shows another part of the frame than the boxes are given for."""
    path = recognizer / 'known.mp4'
    resize = "dict(type='Resize', scale=(32, 24), keep_ratio=False)"
    for step, whole, num_views in (
        ("dict(type='CenterCrop', crop_size=24)", False, 2),
        ("dict(type='CenterCrop', crop_size=(32, 24))", True, 2),
        ("dict(type='Flip', flip_ratio=1)", False, 2),
        ("dict(type='ThreeCrop', crop_size=24)", False, 6),
    ):
        config = derive(recognizer, tmp_path, (resize, f'{resize}, {step}'))
        cfg = Config.fromfile(config)
        clip = tool.videos.read_clip(path, cfg, view=num_views - 1)
        truths = tool.videos.VideoTruths(cfg)
        assert (clip.whole, clip.num_views) == (whole, num_views)
        # Crop by crop, the clips of each.
        assert clip.frames.tolist() == SECOND_CLIP and clip.size == (48, 40)
        assert (truths.clip_boxes(path, clip) is None) == (not whole)
        assert truths.label(path) == 2 and truths.classes == CLASSES


@pytest.mark.parametrize('to_rgb', [False, True])
def test_pictures_are_what_the_model_saw(tool, recognizer, to_rgb):
    from mmaction.models import ActionDataPreprocessor

    pixels = torch.randint(0, 256, (3, 2, 5, 4), dtype=torch.uint8)
    for settings in (dict(mean=MEAN, std=STD), dict()):
        preprocessor = ActionDataPreprocessor(
            format_shape='NCTHW', to_rgb=to_rgb, **settings
        )
        data = preprocessor(dict(inputs=[pixels[None]], data_samples=[]), False)
        seen = tool.video_strips.seen_frames(preprocessor, data['inputs'][0, 0])
        expected = pixels.flip(0) if to_rgb else pixels
        np.testing.assert_array_equal(seen, expected.permute(1, 2, 3, 0))


# --------------------------------------------------------------------- errors


def test_wrong_input(tool, recognizer, tmp_path):
    video, frames = recognizer / 'known.mp4', recognizer / 'frames/known'
    broken = tmp_path / 'broken.mp4'
    broken.write_text('no video')
    out = tmp_path / 'out'
    (tmp_path / 'empty').mkdir()
    raw = [("dict(type='OpenCVInit'),", ''), ('OpenCVDecode', 'RawFrameDecode')]
    clear = [
        ("dict(type='OpenCVInit'),", ''),
        ("dict(type='OpenCVDecode'),", ''),
        ("dict(type='SampleFrames'", READ_FRAMES),
        ('test_mode=True),\n', 'test_mode=True)),\n'),
    ]
    flat = [('NCTHW', 'NCHW')]
    still = [
        ('spatial_dims=3, token_inflation=2', 'spatial_dims=2'),
        ("type='Recognizer3D'", "type='Recognizer2D'"),
    ]
    for replacements, args, message in (
        ([], ['none.mp4'], r'there is no video or folder none.mp4 \(seen from'),
        ([], [tmp_path / 'empty'], 'has no video .* and no frames of one .*frames$'),
        ([], [broken], 'of .*toy.py cannot work on .*broken.mp4: replace the'),
        ([], [frames], 'reads video files, not the frames in folder .*ReadFrames'),
        (raw, [video], 'reads frames, not video .*known.mp4; the step .*ReadFrames'),
        (flat, [video], r'gives \(8, 3, 24, 32\); a model of clips needs .*NCTHW'),
        (clear, [broken], '^error: .* cannot open .*broken.mp4 .*no video at all'),
        ([], [video, '--view', 2], r'--view 2: .* gives 2 view\(s\), numbered from 0'),
        (still, [video], r'single frames \(spatial_dims=2\) and has no tubes'),
        ([], [video, '--what', 'density'], '--what is for pictures; videos are drawn'),
        ([], [video, '--disturb', 'erase'], '--disturb is for pictures; videos'),
        ([], [video, '--top-k-class'], '--top-k-class is for pictures; videos'),
        ([], [video, '--tokens', 8], '--tokens 8: the model has tokens 0 to 7'),
    ):
        config = derive(recognizer, tmp_path, *replacements)
        config = config.rename(tmp_path / 'toy.py')
        args = [config, recognizer / 'model.pth', *args, '--out', out]
        with pytest.raises(SystemExit, match=message):
            tool.vis_focus.main([str(arg) for arg in args])


@pytest.mark.parametrize(
    'args', [('--view', '-1'), ('--num-frames', '0'), ('--top-tokens', '-1')]
)
def test_wrong_numbers(tool, args, capsys):
    with pytest.raises(SystemExit):
        tool.vis_focus.parse_args(['x.py', 'x.pth', 'x.mp4', *args])
    assert f'{args[0]} must be' in capsys.readouterr().err
