"""Clips of moving digits: the motion alone tells the class."""

import sys

import numpy as np
import pytest

pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from sparseformer_mm.digits import clips, scenes  # noqa: E402

MOTIONS = ('right', 'left', 'up', 'down', 'growing', 'shrinking')
MOTIONS += ('still', 'turning_back')
SIZE = 52


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


def test_missing_encoder_names_the_cure(monkeypatch):
    av = pytest.importorskip('av')
    assert clips.check_encoder() == av.__version__
    monkeypatch.setattr(av, 'codecs_available', {'mpeg4'})
    with pytest.raises(SystemExit, match='(?s)libx264.* lacks.*--format frames'):
        clips.check_encoder()
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(SystemExit, match='(?s)-m pip install av.*--format frames'):
        clips.check_encoder()
