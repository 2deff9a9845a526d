"""What is drawn of segmentors and of videos."""

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib')

from helpers.toy_looks import (  # noqa: E402
    MOTIONS,
    PALETTE,
    SECOND_CLIP,
    assert_rois,
    box_of,
    by_hand,
    corners,
    read,
)
from sparseformer_mm.visualization.disturb import disturb  # noqa: E402
from sparseformer_mm.visualization.figures import (  # noqa: E402
    _clip_panel,
    _there,
    focus_rows,
)
from sparseformer_mm.visualization.looks import Choice  # noqa: E402
from sparseformer_mm.visualization.panels import token_colors  # noqa: E402
from sparseformer_mm.visualization.recording import Frame, Look, Stage  # noqa: E402
from sparseformer_mm.visualization.report import look_numbers  # noqa: E402

# ------------------------------------------------------------------- segmentation


@pytest.mark.mmseg
def test_segmentation(toys):
    toy = toys('segmentation')
    look, model = toy.see(toy.root / 'img/a.png')
    (row,) = focus_rows(look)
    image, truth, prediction, tokens = row.panels
    names = ['image', 'truth', 'prediction', 'token RoIs (cortex.0)']
    assert [panel.title for panel in row.panels] == names
    bare, painted = image.image.astype(float), truth.image.astype(float)
    np.testing.assert_array_equal(painted[:16, 20:], bare[:16, 20:])  # unlabelled
    for area, color in (
        ((slice(0, 16), slice(0, 20)), PALETTE[1]),
        ((slice(16, 32), slice(20, 60)), PALETTE[2]),
    ):
        mixed = 0.35 * bare[area] + 0.65 * np.array(color)
        np.testing.assert_allclose(painted[area], mixed, atol=0.51)

    from mmseg.apis import inference_model

    sample = inference_model(model, str(toy.root / 'img/a.png'))
    classes = sample.pred_sem_seg.data[0].numpy()
    mixed = 0.35 * bare + 0.65 * np.array(PALETTE)[classes]
    np.testing.assert_allclose(prediction.image, mixed, atol=0.51)
    shown = sorted({1, 2, *np.unique(classes).tolist()})
    assert [name for name, _ in row.legend] == [
        ('sky', 'road', 'car')[i] for i in shown
    ]
    colors = [(np.array(color) * 255).round().tolist() for _, color in row.legend]
    assert colors == [PALETTE[i] for i in shown]

    stages = by_hand(model, image.image).stages
    assert_rois(tokens.rectangles[0], stages[-1].rois[0])
    np.testing.assert_allclose(tokens.rectangles[0].colors, token_colors(9))
    other, _ = toy.see(toy.root / 'other/a.png')
    assert [panel.title for panel in focus_rows(other)[0].panels] == names[:1] + names[
        2:
    ]


@pytest.mark.mmseg
def test_sliding_windows(toys, tmp_path):
    """Each window's tokens are where the window is."""
    toy = toys('segmentation')
    slide = "dict(mode='slide', crop_size=(32, 40), stride=(32, 20))"
    config = toy.derive(tmp_path, ("dict(mode='whole')", slide))
    look, model = toy.see(toy.root / 'img/a.png', config=config)
    grey = np.array((100, 110, 120), np.uint8)  # padding is zero after normalising
    canvas = np.concatenate([look.image, np.tile(grey, (32, 4, 1))], 1)  # to 64 x 32
    expected = [
        corners(by_hand(model, canvas[:, left : left + 40]).stages[-1].rois[0])
        * [40 / 60, 1, 40 / 60, 1]
        + [left / 60, 0, left / 60, 0]
        for left in (0, 20, 24)
    ]
    assert look.stages[-1].corners.shape == (27, 4)
    np.testing.assert_allclose(
        look.stages[-1].corners, np.concatenate(expected), atol=1e-5
    )


@pytest.mark.mmseg
def test_erased_parts_have_no_truth(toys):
    toy = toys('segmentation')
    path, choice = toy.root / 'img/a.png', Choice(tokens=[2, 5])
    look, model = toy.see(path, choice, how=dict(kind='erase', fill='black'))
    image, truth, prediction, tokens = focus_rows(look)[0].panels
    erased = disturb(read(path), 'erase', fill='black')
    np.testing.assert_array_equal(image.image, erased.image)
    # Classes are not painted there.
    assert (truth.image[erased.area] == 0).all()
    assert (truth.image[:16, :20][~erased.area[:16, :20]] > 0).any()
    assert (prediction.image[erased.area] > 0).any()
    stage = by_hand(model, erased.image).stages[-1]
    assert_rois(tokens.rectangles[0], stage.rois[0, [2, 5]])
    numbers = look_numbers(look)
    assert numbers['area_share'] == pytest.approx(erased.area.mean())
    points = stage.points[0].reshape(-1, 2).double().numpy()
    inside = ((points >= 0) & (points < 1)).all(1)
    x, y = (points[inside] * [60, 32]).astype(int).T
    expected = erased.area[y, x].sum() / len(points)
    assert numbers['stages'][-1]['on_area'] == pytest.approx(expected)
    assert numbers['stages'][-1]['on_area_undisturbed'] is not None
    with pytest.raises(
        SystemExit, match='no classes to single tokens; choose tokens by'
    ):
        toy.see(path, Choice(top_k_class=5))


# -------------------------------------------------------------------------- video


def test_tubes_are_there_from_start_to_end():
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
        frame = Frame('x', None, time=time)
        assert _there(Stage('a', rois, None), frame).tolist() == there


def test_points_near_a_frame_in_time():
    times = np.array([[0.1, 0.37], [0.38, 0.5], [0.62, 0.63]])
    points = np.stack([np.arange(6).reshape(3, 2), np.ones((3, 2)), times], -1)
    stage = Stage('a', np.zeros((3, 6)), points)
    frames = [Frame('x', None, time=time) for time in (0.25, 0.5, 0.75, 1.0)]
    look = Look('v', frames, [stage], tokens=np.arange(3))
    panels = [_clip_panel(look, stage, frame, np.eye(3)) for frame in frames[1:3]]
    assert panels[0].points[:, 0, 0].tolist() == [2, 3, 4]
    np.testing.assert_array_equal(panels[0].point_colors, np.eye(3)[[1, 1, 2]])
    assert panels[1].points[:, 0, 0].tolist() == [5]  # no other frame's


@pytest.mark.mmaction
def test_video(toys):
    toy = toys('video')
    look, model = toy.see(toy.root / 'known.mp4', Choice(top_k_class=2), view=1)
    rows = focus_rows(look)
    pictures = frames_of(toy, SECOND_CLIP)
    seen = by_hand(model, pictures)
    scores = model.cls_head.fc_cls(seen.pooled)[0].softmax(0)
    label = int(scores.argmax())
    # The two best of each copy in time, by their answer to that class.
    logits = model.cls_head.fc_cls(seen.tokens)[0]
    ranks = logits[:, label].view(2, 4).argsort(1, descending=True)
    tokens = (ranks[:, :2] + torch.tensor([[0], [4]])).flatten().numpy()
    others, colors = np.setdiff1d(np.arange(8), tokens), token_colors(4)
    names = ['focusing.0', 'cortex.0']
    assert [row.name for row in rows] == names == [stage.name for stage in seen.stages]
    assert (
        look.title
        == f'{MOTIONS[label]} {scores[label]:.2f}, true resting (view 1 of 2)'
    )
    assert [name for name, _ in rows[-1].legend] == [
        f'token {token}' for token in tokens
    ]
    np.testing.assert_array_equal([color for _, color in rows[-1].legend], colors)
    assert not rows[0].legend
    boxes = [np.array(box_of(i)) / [48, 40, 48, 40] for i in SECOND_CLIP]
    shown, shares = 0, []
    for row, stage in zip(rows, seen.stages):
        rois, points = (x[0].double().numpy() for x in (stage.rois, stage.points))
        assert [panel.title for panel in row.panels] == [
            f'frame {i}' for i in SECOND_CLIP
        ]
        for i, panel in enumerate(row.panels):
            np.testing.assert_array_equal(panel.image, pictures[i])
            time = (i + 0.5) / 4
            start, end = rois[:, 2] - rois[:, 5] / 2, rois[:, 2] + rois[:, 5] / 2
            there = (start <= time) & (time <= end)
            grey, mine, true = panel.rectangles
            assert_rois(grey, rois[others[there[others]]])
            assert_rois(mine, rois[tokens[there[tokens]]])
            assert np.ptp(grey.colors) == 0 and grey.width < mine.width
            np.testing.assert_array_equal(mine.colors, colors[there[tokens]])
            np.testing.assert_allclose(true.corners, boxes[i][None])
            assert true.dashed and not mine.dashed
            near = np.abs(points[tokens][..., 2] - time) < 1 / 8
            expected = points[tokens][near][:, :2]
            np.testing.assert_allclose(panel.points[:, 0], expected, atol=1e-5)
            np.testing.assert_array_equal(panel.point_colors, colors[near.nonzero()[0]])
            shown += len(mine.corners) + near.sum()
        x1, y1, x2, y2 = np.array(boxes)[(points[..., 2] * 4).astype(int).clip(0, 3)].T
        x, y, t = points.T
        inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2) & (t >= 0) & (t <= 1)
        shares.append(inside.mean())
    assert shown > 20
    # Copies stay in their half of the clip enough to tell them apart.
    assert 0 < len(rows[0].panels[0].rectangles[1].corners) < 4
    said = ', '.join(f'{name} {share:.0%}' for name, share in zip(names, shares))
    assert look.summary == f'{look.title}; points in the true box: {said}'
    for numbers, stage, share in zip(look_numbers(look)['stages'], seen.stages, shares):
        assert numbers['in_boxes'] == pytest.approx(share)
        sizes = stage.rois[0, :, 3:].mean(0).tolist()
        keys = ('roi_width', 'roi_height', 'roi_length')
        assert [numbers[key] for key in keys] == pytest.approx(sizes, abs=1e-5)
        outside = ((stage.points < 0) | (stage.points > 1)).any(-1).double().mean()
        assert numbers['outside'] == pytest.approx(float(outside))


def frames_of(toy, numbers):
    """What the toy's pipeline makes of frames, (T, 24, 32, 3) RGB uint8."""
    import cv2

    paths = [toy.root / f'frames/known/img_{number + 1:05}.png' for number in numbers]
    return np.stack([cv2.resize(read(path), (32, 24)) for path in paths])


@pytest.mark.mmaction
def test_tokens_of_a_video_without_truth(toys):
    toy = toys('video')
    choice = Choice(['cortex.0'], tokens=[6, 1, 6], num_frames=2)
    look, _ = toy.see(toy.root / 'other.mp4', choice, truth='none')
    (row,) = focus_rows(look)
    assert [name for name, _ in row.legend] == ['token 6', 'token 1']
    assert 'true' not in look.title and look.title.endswith('(view 0 of 2)')
    assert 'mean tube at cortex.0 ' in look.summary
    assert [panel.title for panel in row.panels] == ['frame 2', 'frame 6']
    assert all(len(panel.rectangles) == 2 for panel in row.panels)
    drawn = np.concatenate([panel.point_colors for panel in row.panels])
    assert {tuple(color) for color in drawn} == set(map(tuple, token_colors(2)))
    # Of another class, the default number of each copy.
    look, model = toy.see(toy.root / 'other.mp4', Choice(class_name='falling'))
    seen = by_hand(model, np.stack([frame.image for frame in look.frames]))
    logits = model.cls_head.fc_cls(seen.tokens)[0, :, 1].view(2, 4)
    expected = logits.argsort(1, descending=True) + torch.tensor([[0], [4]])
    assert look.tokens.tolist() == expected.flatten().tolist()
    assert look.answer == 'falling (chosen)'
