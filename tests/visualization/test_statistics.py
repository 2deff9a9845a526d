import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseformer_mm.visualization.density import density_map, entropy_bits
from sparseformer_mm.visualization.statistics import (
    focus_gain,
    focus_share,
    share_in_area,
    share_in_boxes,
    stage_statistics,
)


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


# ----------------------------------------------------------------- statistics


def test_points_in_several_boxes_count_once():
    points = torch.tensor([[0.2, 0.2], [0.45, 0.45], [0.7, 0.7], [0.9, 0.1]])
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.4, 0.4, 0.7, 0.7]]
    assert share_in_boxes(points, boxes) == 0.75
    assert share_in_boxes(points.view(2, 2, 2), torch.tensor(boxes[1:])) == 0.5
    assert share_in_boxes(points.numpy(), np.array(boxes[:1])) == 0.5
    assert math.isnan(share_in_boxes(points, np.zeros((0, 4))))
    assert math.isnan(share_in_boxes(points, None))


def test_points_on_an_area():
    area = np.zeros((2, 4), dtype=bool)  # of pixels a quarter wide, a half high
    area[1, 3] = area[0, 0] = True
    points = [[0.1, 0.1], [0.1, 0.6], [0.9, 0.4], [0.76, 0.51], [1.01, 0.9], [-0.1, 0]]
    assert share_in_area(points, area) == pytest.approx(2 / 6)
    assert share_in_area(torch.tensor(points[:1]), area) == 1


def a_stage(dims, dtype=torch.float32, batch=2):
    generator = torch.Generator().manual_seed(dims)
    rois = torch.rand(batch, 5, 2 * dims, generator=generator)
    points = torch.rand(batch, 5, 9, dims, generator=generator) * 1.5 - 0.25
    return SimpleNamespace(name='a', rois=rois.to(dtype), points=points.to(dtype))


@pytest.mark.parametrize('dims', [2, 3])
def test_stage_statistics_equal_naive_loops(dims):
    stage = a_stage(dims)
    boxes = [np.array([[0.2, 0.1, 0.6, 0.9], [0.5, 0.5, 0.9, 0.7]]), None]
    (found,) = stage_statistics([stage], boxes, sizes=[(3, 2), (1, 1)])
    assert found.name == 'a'
    rois, points = stage.rois.double().numpy(), stage.points.double().numpy()
    for i, size in enumerate([(3, 2), (1, 1)]):
        assert found.roi_width[i] == pytest.approx(rois[i, :, dims].mean())
        assert found.roi_height[i] == pytest.approx(rois[i, :, dims + 1].mean())
        if dims == 3:
            assert found.roi_length[i] == pytest.approx(rois[i, :, 5].mean())
        middle = rois[i, :, :2].mean(0)
        square = [
            (x - middle[0]) ** 2 + (y - middle[1]) ** 2 for x, y in rois[i, :, :2]
        ]
        assert found.center_spread[i] == pytest.approx(np.mean(square) ** 0.5)
        out = [
            not all(0 <= v <= 1 for v in point) for point in points[i].reshape(-1, dims)
        ]
        assert found.outside[i] == pytest.approx(np.mean(out)) and 0 < np.mean(out) < 1
        bits = entropy_bits(density_map(points[i][..., :2], size))
        assert found.entropy[i] == pytest.approx(bits, abs=1e-4)
    inside = [
        any(b[0] <= p[0] <= b[2] and b[1] <= p[1] <= b[3] for b in boxes[0])
        for p in points[0].reshape(-1, dims)
    ]
    assert found.focus[0] == pytest.approx(np.mean(inside))
    assert found.focus[1].isnan() and found.focus.shape == (2,)
    assert (found.roi_length is None) == (dims == 2)
    means = found.means()
    assert means['focus'] == pytest.approx(np.mean(inside))
    assert means['outside'] == pytest.approx(float(found.outside.mean()))
    assert ('roi_length' in means) == (dims == 3) and 'name' not in means


def test_statistics_without_boxes_and_in_half_precision():
    stage = a_stage(2, torch.bfloat16)
    (found,) = stage_statistics([stage], bandwidth=0.2, grid=(8, 8))
    assert found.focus is None and 'focus' not in found.means()
    fine = SimpleNamespace(
        name='a', rois=stage.rois.float(), points=stage.points.float()
    )
    (expected,) = stage_statistics([fine], bandwidth=0.2, grid=(8, 8))
    for ours, theirs in zip(found[1:], expected[1:]):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)
    assert (found.entropy <= 6).all()
    # Nothing near the picture has no entropy.
    far = SimpleNamespace(name='b', rois=fine.rois, points=fine.points + 9)
    (away,) = stage_statistics([far], [None, None])
    assert away.entropy.isnan().all() and (away.outside == 1).all()
    assert set(away.means()) == {
        'roi_width', 'roi_height', 'center_spread', 'outside'
    }  # fmt: skip


def test_statistics_refuse_what_does_not_fit():
    for given in (dict(boxes=[None]), dict(sizes=[(1, 1)] * 3)):
        with pytest.raises(ValueError, match='one entry for each of the 2 pictures'):
            stage_statistics([a_stage(2)], **given)
    assert stage_statistics([]) == []


def test_draw_stages(tmp_path):
    pytest.importorskip('matplotlib')
    from sparseformer_mm.visualization.draw import draw_stages, token_colors

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
        rtol=1e-6,  # a product in float32 or float64
    )
    figure.savefig(tmp_path / 'focus.png')
    assert (tmp_path / 'focus.png').stat().st_size > 1000
    assert len(np.unique(token_colors(16), axis=0)) == 16
