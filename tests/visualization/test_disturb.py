"""Disturbed pictures: what is changed, what is not, and where things are after it."""

import numpy as np
import pytest

from sparseformer_mm.visualization.disturb import disturb


def erase(image, share=None, **kwargs):
    return disturb(image, 'erase', share, **kwargs)


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 100, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize('height, width', [(40, 60), (200, 10), (7, 300)])
@pytest.mark.parametrize('share', [0.1, 0.25, 0.9])
def test_erasing_changes_one_rectangle(height, width, share):
    image = picture(height, width)
    before = image.copy()
    result = erase(image, share)
    np.testing.assert_array_equal(image, before)
    assert result.image.shape == image.shape and result.offset == (0, 0)
    rows, columns = result.area.any(1), result.area.any(0)
    # A rectangle without holes.
    np.testing.assert_array_equal(result.area, rows[:, None] & columns)
    for line in (rows, columns):
        assert np.abs(np.diff(line.astype(int))).sum() <= 2
    assert result.area.mean() == pytest.approx(share, abs=0.6 / min(height, width))
    assert (result.image[result.area] == 128).all()
    np.testing.assert_array_equal(result.image[~result.area], image[~result.area])


def test_erased_places_follow_the_seed_and_the_picture():
    image = picture(50, 50)
    again = erase(image, seed=3)
    np.testing.assert_array_equal(erase(image, seed=3).area, again.area)
    areas = [erase(image, seed=seed).area for seed in range(200)]
    assert len({area.tobytes() for area in areas}) > 150
    assert (erase(picture(50, 50, 1), seed=3).area != again.area).any()
    # Neither a corner nor the middle is left out.
    often = np.mean(areas, axis=0)[5:-5, 5:-5]
    assert often.min() > 0 and often.max() < 0.8
    shapes = [(area.any(1).sum(), area.any(0).sum()) for area in areas]
    ratios = np.array([high / wide for high, wide in shapes])
    assert ratios.min() < 0.7 and ratios.max() > 1.4
    assert ratios.min() > 0.45 and ratios.max() < 2.2


def test_what_is_there_instead():
    image = picture(40, 30)
    image[..., 1] += 50
    places = erase(image).area
    seen = {}
    for fill in ('grey', 'black', 'mean', 'noise'):
        result = erase(image, fill=fill)
        np.testing.assert_array_equal(result.area, places)
        np.testing.assert_array_equal(result.image[~places], image[~places])
        seen[fill] = result.image[places]
    assert (seen['grey'] == 128).all() and (seen['black'] == 0).all()
    assert (seen['mean'] == image.mean((0, 1)).round()).all()
    assert seen['noise'].min() < 20 and seen['noise'].max() > 235
    assert seen['noise'].std() == pytest.approx(74, abs=5)
    with pytest.raises(ValueError, match="fill='white' is unknown; choose one of"):
        erase(image, fill='white')


def test_padding_with_zeros_and_by_reflection():
    image = picture(8, 6) + 1
    zero, mirror = disturb(image, 'zero-pad'), disturb(image, 'reflect-pad')
    for result in (zero, mirror):
        assert result.image.shape == (16, 12, 3) and result.offset == (3, 4)
        assert result.area.mean() == 0.75 and not result.area[4:12, 3:9].any()
        np.testing.assert_array_equal(result.image[4:12, 3:9], image)
    assert (zero.image[zero.area] == 0).all()
    # Mirrored at the outermost pixel, which is not repeated.
    np.testing.assert_array_equal(mirror.image[3], mirror.image[5])
    np.testing.assert_array_equal(mirror.image[:, 2], mirror.image[:, 4])
    np.testing.assert_array_equal(mirror.image[4:12, 9], image[:, 4])


def test_boxes_and_masks_move_with_the_picture():
    image = picture(8, 6)
    box = np.array([[1 / 6, 0.25, 0.5, 1.0]])  # x 1 ... 3, y 2 ... 8
    padded = disturb(image, 'zero-pad')
    expected = [[4 / 12, 6 / 16, 6 / 12, 12 / 16]]
    np.testing.assert_allclose(padded.boxes(box), expected)
    np.testing.assert_allclose(erase(image).boxes(box), box)
    assert padded.boxes(np.zeros((0, 4))).shape == (0, 4)
    mask = np.arange(48, dtype=np.uint8).reshape(8, 6)
    moved = padded.mask(mask)
    np.testing.assert_array_equal(moved[4:12, 3:9], mask)
    assert (moved[padded.area] == 255).all()
    erased = erase(image, 0.5)
    np.testing.assert_array_equal(erased.mask(mask)[~erased.area], mask[~erased.area])
    assert (erased.mask(mask)[erased.area] == 255).all()


def test_wrong_kinds_and_shares():
    image = picture(20, 30)
    assert erase(image).area.mean() == pytest.approx(0.25, abs=0.03)
    assert disturb(image, 'reflect-pad', 0.1).image.shape == (24, 36, 3)
    with pytest.raises(ValueError, match="kind='blur' is unknown; choose one of"):
        disturb(image, 'blur')
    for kind, share in (('erase', 1.0), ('erase', 0), ('zero-pad', 1.1)):
        with pytest.raises(ValueError, match='share must be above 0 and'):
            disturb(image, kind, share)
