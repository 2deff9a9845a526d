"""The embedded data set of moving digits."""

import sys
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import (  # noqa: E402
    check_sources,
    fingerprint,
    make_digits,
    read_json,
)
from sparseformer_mm.digits import clips, scenes  # noqa: E402

SMALL = ['--task', 'video', '--train', '24', '--val', '16']
MOTIONS = ('right', 'left', 'up', 'down', 'growing', 'shrinking')
MOTIONS += ('still', 'turning_back')
SIZE = 52


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    pytest.importorskip('av', reason='mp4 files are written by PyAV')
    root = tmp_path_factory.mktemp('videos') / 'set'
    output = make_digits(root, *SMALL)
    assert 'train: 24/24 clips' in output and 'val: 16/16 clips' in output
    assert '24 training and 16 validation clips of 52x52' in output
    return root


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    root = tmp_path_factory.mktemp('frames') / 'set'
    make_digits(root, *SMALL, '--format', 'frames')
    return root


def read_list(path):
    return [line.split(' ') for line in path.read_text().splitlines()]


def read_folder(folder):
    """Frames of a folder in RGB, (T, H, W, 3)."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f'img_{i:05d}.png' for i in range(1, len(names) + 1)]
    return np.stack([cv2.imread(str(folder / name)) for name in names])[..., ::-1]


def make_sampler(split='train', size=SIZE, digit_size=(13, 19)):
    pixels, labels = scenes.load_source_digits()
    sources = scenes.split_sources(labels)[split]
    return scenes.SceneSampler(pixels, labels, sources, size, digit_size)


def draw(motion, seed, num_frames=15, patch=(24, 18)):
    """A trajectory and the distance and growth drawn for it."""
    rng = np.random.default_rng(seed)
    distance, growth = clips.draw_range(rng, SIZE)
    path = clips.draw_trajectory(rng, motion, num_frames, SIZE, patch, distance, growth)
    return path, distance, growth


def make_clip(motion, seed, num_frames=15, source=7):
    sampler = make_sampler()
    sampler.dealt_source = lambda n: source
    rng = np.random.default_rng(seed)
    return clips.compose_clip(sampler, rng, MOTIONS.index(motion), num_frames)


def test_classes_in_order():
    assert clips.MOTIONS == MOTIONS


@pytest.mark.parametrize('num_frames', [15, 16])
def test_middle_picture_is_the_same_for_all_motions(num_frames):
    """Bit by bit: place, size, digit, colour, clutter and noise."""
    for seed in range(6):
        made = [make_clip(motion, seed, num_frames) for motion in MOTIONS]
        assert [clip.label for clip in made] == list(range(8))
        for clip in made:
            background = clip.frames[0].background
            assert (background == made[0].frames[0].background).all()
            assert all(frame.background is background for frame in clip.frames)
        if num_frames == 15:
            pictures = [clip.render()[7] for clip in made]
            assert all((picture == pictures[0]).all() for picture in pictures)
            first = [clip.render()[0] for clip in made]
            assert not (first[0] == first[1]).all()


def test_middle_is_distributed_alike():
    """Other seeds for each class: place and size pass two-sample KS tests."""
    stats = pytest.importorskip('scipy.stats')
    number, middles = 2000, {}
    for label, motion in enumerate(MOTIONS):
        rows = []
        for seed in range(number):
            path, _, _ = draw(motion, [label, seed])
            assert (path.centers[7] == path.middle).all()
            rows.append([*path.centers[7], path.scales[7]])
        middles[motion] = np.array(rows)
        np.testing.assert_allclose(middles[motion].mean(0)[:2], SIZE / 2, atol=0.5)
    for motion in MOTIONS[1:]:
        for column in range(3):
            # 21 comparisons, each of which passes with 99.9 %.
            both = middles['right'][:, column], middles[motion][:, column]
            assert stats.ks_2samp(*both).pvalue > 1e-3
    # Within the room that there is, all places are equally likely.
    rng = np.random.default_rng(0)
    reach_x, reach_y = (18 / 2**0.5 + 20) / 2, (24 / 2**0.5 + 20) / 2
    places = [
        clips.draw_trajectory(rng, 'up', 5, SIZE, (24, 18), 20, 2).middle
        for _ in range(number)
    ]
    for column, reach in zip(np.transpose(places), (reach_x, reach_y)):
        uniform = stats.uniform(reach, SIZE - 2 * reach)
        assert stats.kstest(column, uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize('num_frames', [4, 15, 16])
def test_pairs_are_each_other_backwards(num_frames):
    pairs = [('right', 'left'), ('up', 'down'), ('growing', 'shrinking')]
    for seed in range(100):
        for there, back in pairs:
            there, _, _ = draw(there, seed, num_frames)
            back, _, _ = draw(back, seed, num_frames)
            np.testing.assert_allclose(there.centers, back.centers[::-1], rtol=1e-12)
            np.testing.assert_allclose(there.scales, back.scales[::-1], rtol=1e-12)
            assert abs(there.centers - back.centers).max() > 1 or (
                there.scales[-1] > back.scales[-1]
            )


def test_motions():
    """Way, direction and growth of every class, always inside the picture."""
    ways = dict(right=(1, 0), left=(-1, 0), up=(0, -1), down=(0, 1))
    extent = np.array([18, 24])
    turns, directions, distances, growths = [], set(), [], []
    for seed in range(400):
        for motion in MOTIONS:
            path, distance, growth = draw(motion, seed, 46)
            half = path.scales[:, None] * extent / 2
            assert (path.centers - half >= -1e-9).all()
            assert (path.centers + half <= SIZE + 1e-9).all()
            steps = np.diff(path.centers, axis=0)
            ratios = path.scales[1:] / path.scales[:-1]
            if motion in ways:
                expected = np.array(ways[motion]) * distance / 45
                np.testing.assert_allclose(steps, np.tile(expected, (45, 1)))
            elif motion != 'turning_back':
                assert (steps == 0).all()
            sign = dict(growing=1, shrinking=-1).get(motion, 0)
            np.testing.assert_allclose(ratios, growth ** (sign / 45))
        # The last one turns back.
        away = path.centers - path.centers[0]
        np.testing.assert_allclose(away[-1], 0, atol=1e-9)
        axis = np.abs(away).max(0).argmax()
        assert (away[:, 1 - axis] == 0).all()
        farthest = np.abs(away[:, axis]).argmax()
        reached = away[farthest, axis]
        assert 0.9 * distance / 2 < abs(reached) <= distance / 2 + 1e-9
        forward = steps[:, axis] * np.sign(reached) > 0
        assert forward[: farthest - 1].all() and not forward[farthest + 1 :].any()
        turns.append(farthest / 45)
        directions.add((int(axis), np.sign(reached)))
        distances.append(distance / SIZE)
        growths.append(growth)
    assert 1 / 3 - 0.02 < min(turns) < 0.36 and 0.64 < max(turns) < 2 / 3 + 0.02
    assert len(directions) == 4
    assert 0.25 <= min(distances) < 0.26 and 0.44 < max(distances) <= 0.45
    assert 1.6 <= min(growths) < 1.62 and 2.18 < max(growths) <= 2.2


def test_too_large_digit_gets_smaller_for_all_motions():
    paths = [draw(motion, 3, patch=(90, 40))[0] for motion in MOTIONS]
    for path in paths:
        assert path.scales[7] == paths[0].scales[7]
        half = path.scales[:, None] * np.array([40, 90]) / 2
        assert (path.centers - half >= -1e-9).all()
        assert (path.centers + half <= SIZE + 1e-9).all()
    assert paths[4].scales[-1] * 90 <= SIZE + 1e-9


def center_of_mass(alpha):
    rows, columns = np.indices(alpha.shape) + 0.5
    return np.array([(columns * alpha).sum(), (rows * alpha).sum()]) / alpha.sum()


def test_warp_puts_the_patch_where_it_should():
    """Between pixels too: mass and its center follow the arguments."""
    alpha = np.zeros((25, 31), np.float32)
    alpha[2:-2, 2:-2] = 1
    for scale in (1, 0.7, 1 / 2.2):
        for step in range(8):
            center = np.array([24 + step / 8, 27 - step / 16])
            canvas = clips.warp_patch(alpha, center, scale, SIZE)
            assert canvas.shape == (SIZE, SIZE) and canvas.min() >= 0
            assert canvas.max() == pytest.approx(1)
            # cv2 knows 1/32 of a pixel.
            np.testing.assert_allclose(center_of_mass(canvas), center, atol=0.04)
            assert canvas.sum() == pytest.approx(21 * 27 * scale**2, rel=0.02)


def test_boxes_hold_the_ink():
    """The rendered digit is where the boxes say, in every frame."""
    for seed in range(16):
        motion = MOTIONS[seed % 8]
        clip = make_clip(motion, seed, 8, source=10 + 50 * seed)
        assert len(clip.boxes()) == len(clip.frames) == 8
        empty = scenes.Scene(clip.frames[0].background).render().astype(int)
        for frame, box in zip(clip.frames, clip.boxes()):
            x1, y1, x2, y2, label = box
            assert MOTIONS[label] == motion
            (digit,) = frame.digits
            change = np.abs(frame.render() - empty).max(axis=-1)
            ink = digit.alpha >= 0.5
            assert ink[y1:y2, x1:x2].sum() == ink.sum() > 8
            assert (change[ink] > 0).mean() > 0.95
            contrast = np.abs(digit.color * 255 - empty).max(axis=-1)
            change[y1:y2, x1:x2] = 0
            assert (change <= 0.5 * contrast + 1).all()


def test_rendered_motion_is_smooth():
    """Steps of a fraction of a pixel are all alike, growth is steady."""
    for seed in range(5):
        clip = make_clip('right', seed, 32)
        masses = [center_of_mass(frame.digits[0].alpha) for frame in clip.frames]
        steps = np.diff(masses, axis=0)
        assert 0.24 * SIZE < steps[:, 0].sum() < 0.46 * SIZE
        assert steps[:, 0].max() - steps[:, 0].min() < 0.1
        assert np.abs(steps[:, 1]).max() < 0.05
        clip = make_clip('shrinking', seed, 8)
        areas = np.array([frame.digits[0].alpha.sum() for frame in clip.frames])
        assert (np.diff(areas) < 0).all()
        assert 1.55**2 < areas[0] / areas[-1] < 2.25**2


def test_still_frames_differ_by_noise_only():
    clip = make_clip('still', 0)
    clean = np.stack([frame.render() for frame in clip.frames]).astype(int)
    assert (clean == clean[0]).all()
    pictures = np.stack(clip.render()).astype(int)
    assert (pictures == np.stack(clip.render())).all()
    unclipped = (clean > 20) & (clean < 235)
    for i in range(14):
        noise = (pictures[i] - clean[i])[unclipped[i]]
        assert noise.std() == pytest.approx(3, rel=0.1) and abs(noise.mean()) < 0.3
        change = (pictures[i] - pictures[i + 1])[unclipped[i]]
        assert change.std() == pytest.approx(3 * 2**0.5, rel=0.1)


def test_every_source_has_ink_at_every_size():
    pixels, labels = scenes.load_source_digits()
    for digit_size, size in (((8, 8), 32), ((13, 19), 52), ((26, 26), 52)):
        sampler = scenes.SceneSampler(pixels, labels, np.arange(1797), size, digit_size)
        for source in range(0, 1797, 13):
            sampler.dealt_source = lambda n, source=source: source
            rng = np.random.default_rng(source)
            first, _, _, last = clips.compose_clip(sampler, rng, 4, 4).boxes()
            assert last[3] - last[1] > first[3] - first[1] > 2


def test_lists_boxes_and_balance(videos, frames):
    for split, each in (('train', 3), ('val', 2)):
        lines = read_list(videos / f'{split}.txt')
        assert lines == [
            [f'videos/{split}/{i:06d}.mp4', str(i % 8)] for i in range(8 * each)
        ]
        files = sorted((videos / f'videos/{split}').iterdir())
        assert [path.relative_to(videos).as_posix() for path in files] == [
            name for name, _ in lines
        ]
        raw_lines = read_list(frames / f'{split}.txt')
        assert raw_lines == [
            [f'frames/{split}/{i:06d}', '16', str(i % 8)] for i in range(8 * each)
        ]
        boxes = read_json(videos / f'{split}_boxes.json')
        raw_boxes = read_json(frames / f'{split}_boxes.json')
        assert list(boxes) == [name for name, _ in lines]
        assert list(raw_boxes) == [name for name, _, _ in raw_lines]
        assert list(boxes.values()) == list(raw_boxes.values())
        for index, clip_boxes in enumerate(boxes.values()):
            assert len(clip_boxes) == 16
            for x1, y1, x2, y2, label in clip_boxes:
                assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
                assert label == index % 8
        for name, number, _ in raw_lines:
            assert read_folder(frames / name).shape == (int(number), SIZE, SIZE, 3)
    for root in (videos, frames):
        assert (root / 'classes.txt').read_text().splitlines() == list(MOTIONS)
    manifest = read_json(videos / 'digits_manifest.json')
    assert manifest['arguments'] == dict(
        task='video',
        train=24,
        val=16,
        size=52,
        digit_size=[13, 19],
        frames=16,
        format='mp4',
        seed=0,
    )
    assert sorted(manifest['versions']) == ['av', 'numpy', 'opencv']
    # x264 writes its settings into the file: none may depend on the machine.
    clip = (videos / 'videos/val/000000.mp4').read_bytes()
    assert b' threads=1 lookahead_threads=1 ' in clip


def test_files_show_the_drawn_clips(frames):
    for split_index, split in enumerate(('train', 'val')):
        sampler = make_sampler(split)
        boxes = read_json(frames / f'{split}_boxes.json')
        for index in range(8):
            rng = np.random.default_rng([0, split_index, index])
            clip = clips.compose_clip(sampler, rng, index, 16)
            name = f'frames/{split}/{index:06d}'
            assert (read_folder(frames / name) == np.stack(clip.render())).all()
            assert boxes[name] == clip.boxes()


def test_split_shares_no_source(videos):
    check_sources(videos, 24, 16)  # dealt from a pack: no source comes twice


def read_opencv(path):
    capture, pictures = cv2.VideoCapture(str(path)), []
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 16
    assert capture.get(cv2.CAP_PROP_FPS) == 8
    while True:
        there, picture = capture.read()
        if not there:
            return np.stack(pictures)[..., ::-1]
        pictures.append(picture)


def read_pyav(path):
    av = pytest.importorskip('av')
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 16
        decoded = container.decode(video=0)
        return np.stack([frame.to_ndarray(format='rgb24') for frame in decoded])


def read_decord(path):
    decord = pytest.importorskip('decord')
    reader = decord.VideoReader(str(path))
    assert len(reader) == 16
    whole = reader.get_batch(range(16)).asnumpy()
    # Any frame by itself, as a sampler asks for them.
    assert (reader.get_batch([13, 2, 9]).asnumpy() == whole[[13, 2, 9]]).all()
    return whole


@pytest.mark.parametrize('read', [read_opencv, read_pyav, read_decord])
def test_mp4_shows_the_frames(videos, frames, read):
    """Brightness within 32 dB, colours (every second pixel) within 24 dB."""
    for split, count in (('train', 24), ('val', 16)):
        for index in range(count):
            drawn = read_folder(frames / f'frames/{split}/{index:06d}').astype(float)
            found = read(videos / f'videos/{split}/{index:06d}.mp4').astype(float)
            assert found.shape == drawn.shape == (16, SIZE, SIZE, 3)
            gray = np.array([0.299, 0.587, 0.114])
            for i in range(16):
                error = found[i] - drawn[i]
                assert 10 * np.log10(255**2 / (error**2).mean()) > 24
                assert 10 * np.log10(255**2 / ((error @ gray) ** 2).mean()) > 32


@pytest.mark.parametrize('form', ['mp4', 'frames'])
def test_same_arguments_give_same_bytes(request, tmp_path, form):
    first = request.getfixturevalue('videos' if form == 'mp4' else 'frames')
    explicit = ['--size', '52', '--digit-size', '13', '19', '--frames', '16']
    again = tmp_path / 'again'
    make_digits(again, *SMALL, *explicit, '--format', form)
    assert fingerprint(again) == fingerprint(first)
    assert 'nothing to do' in make_digits(again, *SMALL, '--format', form)
    output = make_digits(again, *SMALL, '--format', form, '--frames', 8, status=1)
    assert 'other arguments' in output
    # A smaller set is the beginning of a larger one.
    fewer = tmp_path / 'fewer'
    make_digits(fewer, '--task', 'video', '--train', 9, '--val', 16, '--format', form)
    small, large = fingerprint(fewer), fingerprint(first)
    names = [name for name in small if name.startswith(('videos/', 'frames/'))]
    assert len(names) == (9 + 16) * (1 if form == 'mp4' else 16)
    assert all(small[name] == large[name] for name in names)


def test_length_and_odd_size(tmp_path):
    options = ['--size', 33, '--frames', 5, '--format', 'frames', '--seed', 4]
    make_digits(tmp_path / 'set', '--task', 'video', '--train', 3, '--val', 2, *options)
    lines = read_list(tmp_path / 'set/train.txt')
    assert [line[1:] for line in lines] == [['5', '0'], ['5', '1'], ['5', '2']]
    for name, _, _ in lines:
        assert read_folder(tmp_path / 'set' / name).shape == (5, 33, 33, 3)


def test_sample_sheet(frames):
    """Two strips of six frames per row; a pair of motions side by side."""
    sheet = cv2.imread(str(frames / 'samples.png'))[..., ::-1]
    assert sheet.shape == (8 * 120, 2 * 632, 3)
    for index in range(16):
        row, column = divmod(index, 2)
        strip = sheet[120 * row :, 632 * column :][:120, :632]
        clip = read_folder(frames / f'frames/val/{index:06d}')
        shown = np.concatenate(clip[[0, 3, 6, 9, 12, 15]], axis=1)
        assert (strip[16::2, :624:2] == shown).all()
        # The class is written above.
        assert strip[:16].any()


@pytest.mark.parametrize(
    'options, message',
    [
        (['--frames', '3'], '--frames must be at least 4'),
        (['--size', '51'], 'mp4 files need an even --size, got 51; --format frames'),
        (['--size', '48'], 'fails at a width of 48; take another --size'),
        (['--size', '72'], 'fails at a width of 72; take another --size'),
        (['--format', 'gif'], 'invalid choice'),
        (
            ['--task', 'detection', '--frames', '8'],
            '--frames is for --task video',
        ),
        (['--task', 'detection', '--format', 'mp4'], '--format is for --task video'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    output = make_digits(tmp_path / 'set', '--task', 'video', *options, status=2)
    assert message in ' '.join(output.split())
    assert not list(tmp_path.iterdir())


def test_missing_encoder_names_the_cure(monkeypatch):
    av = pytest.importorskip('av')
    assert clips.check_encoder() == av.__version__
    monkeypatch.setattr(av, 'codecs_available', {'mpeg4'})
    with pytest.raises(SystemExit, match='(?s)libx264.* lacks.*--format frames'):
        clips.check_encoder()
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(SystemExit, match='(?s)-m pip install av.*--format frames'):
        clips.check_encoder()


def test_mmaction2_reads_both_layouts(videos, frames):
    # Without it, mmaction2 cannot be imported everywhere.
    pytest.importorskip('sparseformer_mm.video.compat', exc_type=ImportError)
    from mmaction.datasets import RawframeDataset, VideoDataset

    dataset = VideoDataset(
        str(videos / 'val.txt'), [], data_prefix=dict(video=str(videos))
    )
    assert len(dataset) == 16
    for index in range(16):
        info = dataset.get_data_info(index)
        assert Path(info['filename']).is_file() and info['label'] == index % 8
    dataset = RawframeDataset(
        str(frames / 'val.txt'),
        [],
        data_prefix=dict(img=str(frames)),
        filename_tmpl='img_{:05}.png',
    )
    assert len(dataset) == 16
    for index in range(16):
        info = dataset.get_data_info(index)
        assert (info['total_frames'], info['label']) == (16, index % 8)
        for number in range(1, 17):
            name = info['filename_tmpl'].format(number)
            assert (Path(info['frame_dir']) / name).is_file()
