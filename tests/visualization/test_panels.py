"""The painter, pixel by pixel."""

import warnings

import numpy as np
import pytest

pytest.importorskip('matplotlib')

from sparseformer_mm.visualization.panels import (  # noqa: E402
    Panel,
    Rectangles,
    draw_panels,
    figure_pixels,
    fit_image,
    heat_colors,
    heat_image,
    token_colors,
)

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
# Of a figure without row titles: the first image's upper left corner.
X0, Y0 = 8, 18 + 8


def noise(height, width, seed=0, most=255):
    rng = np.random.default_rng(seed)
    return rng.integers(0, most, (height, width, 3)).astype(np.uint8)


def test_fit_image():
    small = noise(40, 64)
    large = fit_image(small)
    assert large.shape == (160, 256, 3)
    np.testing.assert_array_equal(large[3::4, 2::4], small)
    # 100 pixels need a factor of 2.56; whole pixels need 3.
    assert fit_image(np.zeros((100, 10, 3), np.uint8)).shape == (300, 30, 3)
    same = np.zeros((300, 200, 3), np.uint8)
    assert fit_image(same) is same
    assert fit_image(np.zeros((600, 896, 3), np.uint8)).shape == (300, 448, 3)


def test_colours():
    assert len(np.unique(token_colors(16), axis=0)) == 16
    assert token_colors(50).min() >= 0.2 - 1e-9  # seen on black
    density = np.array([[0.0, 1.0], [2.0, 4.0]])
    heat = heat_colors(density, 4.0)
    assert len(np.unique(heat.reshape(-1, 3), axis=0)) == 4
    image = np.full((2, 2, 3), 100, np.uint8)
    expected = 0.35 * 100 + 0.65 * heat
    np.testing.assert_allclose(heat_image(image, density, 4.0), expected, atol=0.51)
    assert (heat_colors(np.zeros((2, 2)), 0.0) == heat_colors(density, 9.0)[0, 0]).all()


def test_image_and_rectangles_are_at_their_pixels():
    image = noise(64, 128, most=90)
    box = np.array([[0.25, 0.5, 0.75, 0.875]])
    rectangles = Rectangles(box, np.array([RED]), width=2, halo=False)
    seen = figure_pixels(draw_panels([[Panel('x', image, [rectangles])]]))
    assert seen.shape == (18 + 128 + 16, 256 + 16, 3)
    inside = seen[Y0 : Y0 + 128, X0 : X0 + 256]
    red = (inside == [255, 0, 0]).all(-1)
    # Lines of two pixels centered on x = 64 ... 192 and y = 64 ... 112.
    expected = np.zeros((128, 256), bool)
    expected[63:113, 63:193] = True
    expected[65:111, 65:191] = False
    np.testing.assert_array_equal(red, expected)
    whole = image.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(inside[~expected], whole[~expected])


def test_halo_dashes_labels_and_points():
    image = np.full((256, 256, 3), 200, np.uint8)
    corners = np.array([[0.125, 0.25, 0.375, 0.75], [0.5, 0.5, 0.75, 0.75]])
    rectangles = [
        Rectangles(corners[:1], np.array([RED]), labels=['cat 0.90']),
        Rectangles(corners[1:], GREEN, dashed=True, halo=False),
    ]
    points = np.array([[[0.9, 0.125], [0.3, 0.9]]])
    figure = draw_panels([[Panel('x', image, rectangles, points, np.array([GREEN]))]])
    seen = figure_pixels(figure)[Y0:].astype(int)
    left = seen[128, X0 + 32 - 5 : X0 + 32 + 5]
    # Both sides of the red line are darker than the image.
    middle = (left == [255, 0, 0]).all(-1).nonzero()[0]
    assert len(middle) == 2
    assert left[middle[0] - 1].max() < 150 and left[middle[-1] + 1].max() < 150
    row = seen[128, X0 + 130 : X0 + 190]
    assert 0.3 < (row != 200).any(-1).mean() < 0.9  # dashes
    for x, y in points[0]:
        pixel = seen[round(y * 256), X0 + round(x * 256)]
        assert np.abs(pixel - np.array([0, 255, 0])).max() <= 2
    (text,) = (artist for artist in figure.artists if hasattr(artist, 'get_text'))
    assert text.get_text() == 'cat 0.90'
    assert text.get_position() == (X0 + 32, 8 + 256 - 64 + 3)
    assert text.get_bbox_patch().get_facecolor()[:3] == RED


@pytest.mark.parametrize('height, width', [(258, 270), (297, 301), (445, 13), (40, 53)])
def test_nothing_is_drawn_outside_of_a_panel(height, width):
    """Images stay as they are, and what lies beyond them is cut off."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-1, 2, (15, 2, 2)), axis=1).reshape(-1, 4)
    colors = rng.random((15, 3))
    rectangles = Rectangles(corners, colors, labels=['a long name 0.50'] * 15)
    points = rng.uniform(-0.5, 1.5, (15, 9, 2))
    images = [noise(height, width, seed) for seed in range(3)]
    plain = [Panel('x', image) for image in images]
    busy = [Panel('x', image, [rectangles], points, colors) for image in images]
    plain, busy = (
        figure_pixels(draw_panels([row, row], ['a', 'b'])) for row in (plain, busy)
    )
    images = [fit_image(image) for image in images]
    high, wide = (side + 16 for side in images[0].shape[:2])
    assert plain.shape == busy.shape == (18 + 2 * high, 20 + 3 * wide, 3)
    beyond = np.ones(plain.shape[:2], bool)
    for top in (Y0, Y0 + high):
        for i, image in enumerate(images):
            left = 20 + X0 + i * wide
            bottom, right = top + high - 16, left + wide - 16
            np.testing.assert_array_equal(plain[top:bottom, left:right], image)
            assert (busy[top:bottom, left:right] != image).mean() > 0.1
            # The line along an edge is whole.
            beyond[top - 2 : bottom + 2, left - 2 : right + 2] = False
    np.testing.assert_array_equal(busy[beyond], plain[beyond])


def test_rows_of_different_sizes_and_titles():
    wide, tall = np.zeros((50, 300, 3), np.uint8), np.zeros((300, 50, 3), np.uint8)
    row = [Panel('a', wide), Panel('b', tall)]
    legends = [[('sky', RED), ('road', GREEN)], [], []]
    figure = draw_panels([row, row, [Panel('c', tall)]], ['1', '2', '3'], legends)
    # Three rows as high as their tallest image, one legend, titles where they change.
    size = (figure.get_size_inches() * figure.dpi).tolist()
    assert size == [20 + 316 + 66, 3 * 316 + 3 * 18]
    texts = [text.get_text() for text in figure.texts]
    squares = [text for text in figure.texts if text.get_text() == '\u25a0']
    assert [text.get_color() for text in squares] == [RED, GREEN]
    assert [text for text in texts if text != '\u25a0'] == [
        '1', 'a', 'b', 'sky', 'road', '2', '3', 'c'
    ]  # fmt: skip
    second, third = 316 + 18, 316 + 18 + 316 + 18
    expected = [
        [20 + 8, third + 250 + 8, 300, 50],
        [336 + 8, third + 8, 50, 300],
        [20 + 8, second + 250 + 8, 300, 50],
        [336 + 8, second + 8, 50, 300],
        [20 + 8, 8, 50, 300],
    ]
    assert places_of(figure) == expected


def places_of(figure):
    """Left, bottom, width and height of the images."""
    return [[x.ox, x.oy, *x.get_array().shape[1::-1]] for x in figure.images]


def test_names_are_no_formulas():
    """A lone dollar would end matplotlib's mathtext in an exception."""
    panel = Panel('$a', np.zeros((256, 256, 3), np.uint8))
    panel = panel._replace(
        rectangles=[Rectangles([[0, 0, 1, 1]], [RED], labels=['$x_'])]
    )
    figure = draw_panels([[panel]], ['\\frac$'], [[('$', RED)]], '$\\alpha')
    assert (figure_pixels(figure)[:20, 30:200] < 128).any()


def test_title_is_above_the_panels():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = np.zeros((256, 256, 3), np.uint8)
    plain = draw_panels([[Panel('x', image)]])
    titled = draw_panels([[Panel('x', image)]], title='long ' * 20)
    top = plain.get_figheight() * plain.dpi
    assert titled.get_figheight() * titled.dpi == top + 20
    assert places_of(plain) == places_of(titled) == [[8, 8, 256, 256]]
    text = titled.texts[0]
    assert text.get_text().endswith('...')
    assert top < text.get_window_extent(FigureCanvasAgg(titled).get_renderer()).y0


def test_characters_that_no_font_has_are_named_once():
    image = np.zeros((32, 32, 3), np.uint8)
    letter = '\U00012000'  # cuneiform
    with pytest.warns(
        UserWarning, match=rf"the characters '{letter}' of 'sign {letter}'"
    ):
        draw_panels([[Panel('caf\u00e9', image)]], [f'sign {letter}'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_panels([[Panel('caf\u00e9', image)]], [f'sign {letter}'])
