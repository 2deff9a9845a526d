import pytest
import torch

from sparseformer_mm.utils.focus import focus_gain, focus_share


def naive_share(points, boxes):
    shares = []
    for image, box in zip(points.tolist(), boxes.tolist()):
        inside = total = 0
        for token in image:
            for x, y in token:
                total += 1
                inside += box[0] <= x <= box[2] and box[1] <= y <= box[3]
        shares.append(inside / total)
    return torch.tensor(shares)


def test_share_equals_naive_loop():
    generator = torch.Generator().manual_seed(0)
    # Some points lie outside the image.
    points = torch.rand(5, 3, 7, 2, generator=generator) * 1.4 - 0.2
    corners = torch.rand(5, 2, 2, generator=generator).sort(dim=1).values
    boxes = corners.flatten(1)
    share = focus_share(points, boxes)
    assert share.shape == (5,)
    assert 0 < share.mean() < 1
    torch.testing.assert_close(share, naive_share(points, boxes))


def test_axes_are_not_mixed_up():
    # Inside in x and y only if x comes first in points and boxes.
    points = torch.tensor([[[[0.9, 0.1]]]])
    assert focus_share(points, torch.tensor([[0.8, 0.0, 1.0, 0.2]])) == 1
    assert focus_share(points, torch.tensor([[0.0, 0.8, 0.2, 1.0]])) == 0


def test_points_on_the_border_are_inside():
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    border = torch.tensor([[0.25, 0.5], [0.75, 1.0], [0.25, 0.75], [0.5, 1.0]])
    outside = torch.tensor(
        [[0.2499, 0.75], [0.5, 1.0001], [0.5, 0.4999], [0.7501, 0.75]]
    )
    assert focus_share(border.view(1, 2, 2, 2), box) == 1
    assert focus_share(outside.view(1, 2, 2, 2), box) == 0


def test_empty_batch_and_half_precision():
    share = focus_share(torch.zeros(0, 4, 9, 2), torch.zeros(0, 4))
    assert share.shape == (0,)
    points = torch.full((1, 1, 1, 2), 0.5, dtype=torch.bfloat16)
    share = focus_share(points, torch.tensor([[0.5, 0.5, 0.6, 0.6]]))
    assert share.dtype == torch.float32 and share == 1


@pytest.mark.parametrize(
    'points, boxes, message',
    [
        ((2, 3, 4, 3), (2, 4), 'first two numbers'),
        ((2, 3, 4), (2, 4), r'\(B, N, P, 2\)'),
        ((2, 3, 4, 2), (3, 4), r'boxes must have shape \(2, 4\)'),
        ((2, 3, 0, 2), (2, 4), 'no points'),
    ],
)
def test_share_refuses_wrong_shapes(points, boxes, message):
    with pytest.raises(ValueError, match=message):
        focus_share(torch.zeros(points), torch.zeros(boxes))


def test_gain():
    gain = focus_gain(
        [torch.tensor([0.1, 0.3]), torch.tensor([0.9, 0.5]), torch.tensor([0.4, 0.6])]
    )
    torch.testing.assert_close(gain.shares, torch.tensor([0.2, 0.7, 0.5]))
    assert gain.first == pytest.approx(0.2)
    assert gain.last == pytest.approx(0.5)
    assert gain.gain == pytest.approx(0.3)
    assert gain.ratio == pytest.approx(2.5)
    stacked = focus_gain(torch.tensor([[0.1, 0.3], [0.4, 0.6]]))
    assert stacked.gain == pytest.approx(0.3)


def test_gain_from_nothing():
    zero, some = torch.zeros(2), torch.ones(2)
    assert focus_gain([zero, some]).ratio == float('inf')
    assert focus_gain([zero, zero]).ratio == 1
    with pytest.raises(ValueError, match='at least one stage and one image'):
        focus_gain([])
    with pytest.raises(ValueError, match='at least one stage and one image'):
        focus_gain([torch.zeros(0)])


def test_draw_stages(tmp_path):
    pytest.importorskip('matplotlib')
    from types import SimpleNamespace

    import numpy as np

    from sparseformer_mm.utils.draw import draw_stages, token_colors

    images = [np.zeros((32, 48, 3), np.uint8)] * 2
    stages = [
        SimpleNamespace(
            name=name, rois=torch.rand(3, 5, 4), points=torch.rand(3, 5, 9, 2)
        )
        for name in ('a', 'b', 'c')
    ]
    figure = draw_stages(
        images, stages, boxes=[[0.0, 0.0, 0.5, 0.5], None], row_titles=['1', '2']
    )
    assert len(figure.axes) == 2 * (3 + 1)
    assert [axes.get_title() for axes in figure.axes[:4]] == ['image', 'a', 'b', 'c']
    # The points of a stage, in pixels, x first.
    scatter = figure.axes[1].collections[-1]
    np.testing.assert_allclose(
        scatter.get_offsets(),
        (stages[0].points[0] * torch.tensor([48, 32])).flatten(0, 1),
    )
    figure.savefig(tmp_path / 'focus.png')
    assert (tmp_path / 'focus.png').stat().st_size > 1000
    assert len(np.unique(token_colors(16), axis=0)) == 16
