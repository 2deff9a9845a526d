"""From a picture to what is drawn and measured; classifiers and detectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib')

from helpers.toy_looks import (  # noqa: E402
    BOXES,
    CLASSES,
    MEAN,
    STD,
    assert_rois,
    by_hand,
    read,
)
from sparseformer_mm.host import Host  # noqa: E402
from sparseformer_mm.visualization.disturb import disturb  # noqa: E402
from sparseformer_mm.visualization.figures import (  # noqa: E402
    focus_rows,
    headline,
    kind_panels,
)
from sparseformer_mm.visualization.looks import (  # noqa: E402
    Choice,
    _with_detections,
    _with_instances,
    best_tokens,
    chosen_stages,
)
from sparseformer_mm.visualization.panels import (  # noqa: E402
    fit_image,
    heat_image,
    token_colors,
)
from sparseformer_mm.visualization.recording import Frame, Look, Stage  # noqa: E402
from sparseformer_mm.visualization.report import look_numbers  # noqa: E402
from sparseformer_mm.visualization.statistics import density_map  # noqa: E402

# ------------------------------------------------------------------- the choices


def test_best_tokens_of_each_copy():
    scores = torch.tensor([1.0, 9, 5, 5, 0, -1, -3, -2])
    assert best_tokens(scores, 3).tolist() == [1, 2, 3]
    assert best_tokens(scores.numpy(), 2, copies=2).tolist() == [1, 2, 4, 5]
    assert best_tokens(scores, 9, copies=2).tolist() == [1, 2, 3, 0, 4, 5, 7, 6]


def test_stages_by_name_and_number():
    stages = [Stage(f'focusing.{i}', None, None) for i in range(3)]
    for wanted, kept in (
        (None, [0, 1, 2]),
        (['-1', 'focusing.1'], [1, 2]),
        (['0', '-3'], [0]),
    ):
        assert chosen_stages(stages, Choice(wanted)) == [stages[i] for i in kept]
    with pytest.raises(SystemExit, match='--stages 3: the model has 3 .*focusing.2'):
        chosen_stages(stages, Choice(['3']))


def test_each_token_is_asked_for_its_class():
    host, tokens = Host(), torch.randn(2, 5, 6)
    linear = torch.nn.Linear(6, 3)
    model = SimpleNamespace(cls_head=SimpleNamespace(fc_cls=linear))
    with pytest.raises(ValueError, match='gives no classes to single tokens'):
        host.token_logits(model, tokens)
    host.token_classifier = 'cls_head.fc_cls'
    expected = tokens @ linear.weight.T + linear.bias
    torch.testing.assert_close(host.token_logits(model, tokens), expected)
    for other in (SimpleNamespace(), SimpleNamespace(fc_cls=torch.nn.Linear(7, 3))):
        model.cls_head = other
        with pytest.raises(
            ValueError, match='has no linear layer fc_cls .* 6 channels'
        ):
            host.token_logits(model, tokens)


# ------------------------------------------------------------------ classification


@pytest.mark.mmpretrain
def test_classification(toys):
    toy = toys('classification')
    look, model = toy.see(toy.root / 'val/cat/0.png')
    image = read(toy.root / 'val/cat/0.png')
    seen = by_hand(model, image)
    scores = model.head.fc(seen.pooled)[0].softmax(0)
    label = int(scores.argmax())
    assert look.title == f'{CLASSES[label]} {scores[label]:.2f}, true cat'
    assert headline(look) == f'0.png: {look.title}' and look.summary == look.title
    colors, box = token_colors(6), np.array(BOXES['cat/0.png'][:4]) / [48, 32, 48, 32]
    (row,) = focus_rows(look)
    points, rois, density = (
        kind_panels(look, kind, 0.05) for kind in ('points', 'rois', 'density')
    )
    names = ['image', 'focusing.0', 'focusing.1', 'cortex.0']
    for panels in (row.panels, points, rois, density):
        assert [panel.title for panel in panels] == names
        np.testing.assert_array_equal(panels[0].image, image)
        for panel in panels:
            np.testing.assert_allclose(panel.rectangles[-1].corners, [box])
            assert panel.rectangles[-1].dashed
    maps = [density_map(s.points[0], (288, 192), 0.05, (192, 288)) for s in seen.stages]
    for i, stage in enumerate(seen.stages, 1):
        for panel in (row.panels[i], rois[i]):
            assert_rois(panel.rectangles[0], stage.rois[0])
            np.testing.assert_array_equal(panel.rectangles[0].colors, colors)
        for panel in (row.panels[i], points[i]):
            np.testing.assert_allclose(panel.points, stage.points[0], atol=1e-5)
            np.testing.assert_array_equal(panel.point_colors, colors)
        assert rois[i].points is None and len(points[i].rectangles) == 1
        # Whole pixels six times as large; one scale for all stages.
        expected = heat_image(fit_image(image), maps[i - 1], max(map(np.max, maps)))
        assert density[i].image.shape == (192, 288, 3)
        assert (density[i].image == expected).mean() > 0.999
    assert (
        np.abs(np.subtract(*(rois[i].rectangles[0].corners for i in (1, 3)))).max()
        > 0.01
    )


@pytest.mark.mmpretrain
@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('settings', [dict(mean=MEAN, std=STD), {}])
def test_pictures_come_back_from_the_preprocessor(toys, to_rgb, settings):
    host = toys('classification').host
    from mmpretrain.models import ClsDataPreprocessor

    pixels = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)  # BGR
    preprocessor = ClsDataPreprocessor(to_rgb=to_rgb, **settings)
    inputs = preprocessor(dict(inputs=[pixels]), False)['inputs']
    seen = host.read_normalisation(preprocessor).undo(inputs)[0]
    np.testing.assert_array_equal(seen, pixels.flip(0).permute(1, 2, 0))


@pytest.mark.mmpretrain
def test_tokens_that_answer_to_a_class(toys):
    """Figure 6."""
    toy = toys('classification')
    path, orders = toy.root / 'val/owl/0.png', set()
    for choice, truth, label, kind in (
        (Choice(top_k_class=2), 'auto', 2, 'true'),
        (Choice(top_k_class=2), 'none', None, 'predicted'),
        (Choice(top_k_class=2, class_name='dog'), 'auto', 1, 'chosen'),
        (Choice(top_k_class=2, class_name='0'), 'auto', 0, 'chosen'),
    ):
        look, model = toy.see(path, choice, truth)
        seen = by_hand(model, read(path))
        label = int(model.head.fc(seen.pooled).argmax()) if label is None else label
        order = model.head.fc(seen.tokens)[0, :, label].argsort(descending=True)[:2]
        # Without the data set the checkpoint knows the names.
        assert look.answer == f'{CLASSES[label]} ({kind})'
        assert look.tokens.tolist() == order.tolist()
        for panel, stage in zip(kind_panels(look, 'rois', 0.05)[1:], seen.stages):
            assert_rois(panel.rectangles[0], stage.rois[0, order])
            # The colour of a token does not depend on what else is drawn.
            expected = token_colors(6)[order]
            np.testing.assert_array_equal(panel.rectangles[0].colors, expected)
        orders.add(tuple(order.tolist()))
    assert len(orders) > 1
    look, _ = toy.see(path, Choice(tokens=[4, 0, 4]))
    assert look.tokens.tolist() == [4, 0] and look.answer == ''


@pytest.mark.mmpretrain
def test_boxes_and_areas_follow_the_pipeline(toys, tmp_path):
    """Resized to 96 x 64, of which the middle 60 x 60 are kept."""
    toy = toys('classification')
    steps = (
        "dict(type='LoadImageFromFile'), "
        "dict(type='ResizeEdge', scale=64, edge='short', backend='pillow', "
        "interpolation='bicubic'), dict(type='CenterCrop', crop_size=60)"
    )
    config = toy.derive(tmp_path, ("dict(type='LoadImageFromFile')", steps))
    boxes = np.array(
        [
            [10 / 48, 8 / 32, 30 / 48, 20 / 32],  # 20 ... 60, 16 ... 40 when resized
            [12 / 48, 4 / 32, 48 / 48, 16 / 32],  # cut at the right
            [0, 0, 8 / 48, 32 / 32],  # gone: it ends at 16 of 18
        ]
    )
    path = toy.root / 'val/cat/0.png'
    look, model = toy.see(path, how=dict(kind='erase'), config=config)
    seen = toy.host.boxes_in_input(model.cfg, boxes, (32, 48))
    expected = np.array([[2, 14, 42, 38], [6, 6, 60, 30]]) / 60
    np.testing.assert_allclose(seen, expected, atol=0.3 / 60)
    assert look.image.shape == (60, 60, 3)
    area = disturb(read(path), 'erase').area.repeat(2, 0).repeat(2, 1)[2:62, 18:78]
    assert (look.area == area).mean() > 0.98
    # What is drawn is what the network sees.
    grey = np.abs(look.image.astype(int) - 128).max(-1) <= 1
    assert grey[area].mean() > 0.7 and grey[~area].mean() < 0.05
    box = np.array([[-10, 14, 22, 54]]) / 60
    np.testing.assert_allclose(look.boxes, box.clip(0), atol=0.3 / 60)


# ---------------------------------------------------------------------- detection


def image_of(toy, index):
    return toy.root / f'data/val2017/{index:012d}.jpg'


class Head(torch.nn.Module):
    """Gives two levels, of which the last counts."""

    def __init__(self, sigmoid, *levels):
        super().__init__()
        self.loss_cls, self.levels = SimpleNamespace(use_sigmoid=sigmoid), levels

    def forward(self):
        return [torch.stack([torch.zeros_like(x), x])[:, None] for x in self.levels]


@pytest.mark.parametrize('sigmoid', [True, False])
@pytest.mark.mmdet
def test_best_class_of_each_token(toys, monkeypatch, sigmoid):
    toy = toys('detection')
    from sparseformer_mm.detection import host

    def inference(model, source):
        model.bbox_head()
        return SimpleNamespace(img_shape=(8, 8))

    # A token with two good classes counts once; softmax ends with no object.
    logits = torch.tensor([[2.0, 1.5, -9], [-9, -9, 3], [-9, 3, -9], [0, -1, 1]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]]).repeat(4, 1)
    boxes[2] = torch.tensor([0.1, 0.9, 0.4, 0.4])
    monkeypatch.setattr(host, 'inference_detector', inference)
    monkeypatch.setattr(host, 'SparseFormerHead', Head)
    model = SimpleNamespace(bbox_head=Head(sigmoid, logits, boxes))
    prediction = toy.host.predict(model, 'a.jpg')
    look = Look('a', [Frame('image', None)], [])
    tokens, boxes, texts = _with_detections(look, prediction, None, 0.6).detections
    if sigmoid:
        assert tokens.tolist() == [1, 2, 0, 3]
        assert texts == ['2 0.95', '1 0.95', '0 0.88', '2 0.73']
    else:
        assert tokens.tolist() == [2, 0] and texts == ['1 1.00', '0 0.62']
        assert prediction.token_logits.shape == (4, 2)
    # Cut at the image's edge.
    first, other = tokens.tolist().index(2), tokens.tolist().index(0)
    np.testing.assert_allclose(boxes[first], [0, 0.7, 0.3, 1], atol=1e-6)
    np.testing.assert_allclose(boxes[other], [0.4, 0.3, 0.6, 0.7], atol=1e-6)


@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.mmdet
def test_what_belongs_to_no_token_is_painted(toys, monkeypatch, masks):
    """Masks, or else outlines of boxes; the best is on top."""
    toys('detection')
    from mmengine.structures import InstanceData

    from sparseformer_mm.detection import host

    found = InstanceData(
        bboxes=torch.tensor([[2.0, 0, 8, 4], [-1, 1, 4, 5], [0, 0, 8, 6]]),
        scores=torch.tensor([0.6, 0.9, 0.1]),
        labels=torch.tensor([1, 0, 2]),
    )
    if masks:
        found.masks = np.zeros((3, 6, 8), bool)
        found.masks[0, 0:4, 2:8] = found.masks[1, 1:5, 0:4] = found.masks[2] = True
    sample = SimpleNamespace(img_shape=(12, 16), ori_shape=(6, 8), pred_instances=found)
    monkeypatch.setattr(host, 'inference_detector', lambda model, source: sample)
    prediction = host.HOST.predict(SimpleNamespace(roi_head=None), 'a.jpg')
    assert prediction.shape == (12, 16)
    image = np.full((6, 8, 3), 100, np.uint8)
    look = Look('a', [Frame('image', image)], [])
    look = _with_instances(look, prediction.instances, ('cat', 'dog', 'owl'), 0.5)
    assert look.title == 'cat 0.90, dog 0.60'
    assert [text for text, _ in look.legend] == ['cat 0.90', 'dog 0.60']
    below, above = np.zeros((2, 6, 8), bool)
    below[0:4, 2:8] = above[1:5, 0:4] = True
    if not masks:
        below[1:3, 3:7] = above[2:4, 1:3] = False
    expected = np.where(above, 0, np.where(below, 1, -1))
    painted = look.painted['prediction']
    for i, (_, color) in enumerate(look.legend):
        mixed = 35 + 0.65 * 255 * color
        there = painted[expected == i]
        assert len(there) > 8
        np.testing.assert_allclose(there, np.tile(mixed, (len(there), 1)), atol=1)
    assert (painted[expected == -1] == 100).all()


def spied(toy, model, source):
    """mmdet's own detections, and what the backbone and the head say to its input."""
    from mmdet.apis import inference_detector

    inputs = []
    hook = model.backbone.register_forward_hook(
        lambda m, args, out: inputs.append(args[0])
    )
    best = inference_detector(model, source).pred_instances
    hook.remove()
    with torch.no_grad():
        seen = model.backbone.forward_intermediates(inputs[0])
        logits, _ = model.bbox_head(seen)
    return best, inputs[0], seen, logits[-1, 0]


@pytest.mark.mmdet
def test_detection(toys):
    """Tokens, boxes and RoIs are those that mmdet's own results come from."""
    toy = toys('detection')
    path = image_of(toy, 1)
    best, _, seen, logits = spied(toy, toy.model(), str(path))
    threshold = best.scores.sort().values[len(best) // 2].item() - 1e-4
    look, _ = toy.see(path, Choice(score_thr=threshold))
    (row,) = focus_rows(look)
    names = ['detections', 'focusing.0', 'focusing.1', 'cortex.0']
    assert [panel.title for panel in row.panels] == names and headline(look) == ''
    ours, truth = row.panels[0].rectangles
    size = np.array([64, 48, 64, 48])  # the file; the network sees 96 x 72
    # mmdet lists (token, class) pairs, best first; of a token's only the best is shown.
    expected = {}
    for box, label, score in zip(best.bboxes, best.labels, best.scores):
        if score >= threshold:
            text = f'{("red", "green")[label]} {score:.2f}'
            expected.setdefault(tuple(box.tolist()), text)
    assert 2 <= len(expected) < 8
    assert ours.labels == list(expected.values())
    np.testing.assert_allclose(ours.corners * size, list(expected), atol=1e-4)
    assert (ours.corners[:, 2:] - ours.corners[:, :2]).min() > 0.01
    np.testing.assert_allclose(truth.corners * size, [[4, 10, 44, 40]])
    assert truth.dashed and not ours.dashed
    order = logits.max(-1).values.argsort(descending=True)[: len(expected)]
    others = [token for token in range(16) if token not in order.tolist()]
    assert len(np.unique(ours.colors.round(3), axis=0)) == len(expected)
    for panel, stage in zip(row.panels[1:], seen.stages):
        rest, mine = panel.rectangles
        assert_rois(mine, stage.rois[0, order])
        assert_rois(rest, stage.rois[0, others])
        np.testing.assert_allclose(panel.points, stage.points[0, order], atol=1e-5)
        # A token has one colour in all stages, that of its box.
        np.testing.assert_array_equal(mine.colors, ours.colors)
        np.testing.assert_array_equal(panel.point_colors, ours.colors)
        assert np.ptp(rest.colors) == 0
    moved = np.subtract(*(row.panels[i].rectangles[1].corners for i in (1, 3)))
    assert np.abs(moved).max() > 0.01
    assert look.summary.startswith(f'{ours.labels[0]} (token {order[0]}), ')
    assert look.title == ', '.join(ours.labels)
    look, _ = toy.see(path, Choice(score_thr=1))
    assert look.summary == 'nothing with a score of 1'
    rest, mine = focus_rows(look)[0].panels[1].rectangles
    assert len(rest.corners) == 16 and not len(mine.corners)


@pytest.mark.mmdet
def test_padding_is_no_part_of_the_picture(toys, tmp_path):
    """RoIs of padded inputs: in units of the image, or of the padded image."""
    toy = toys('detection')
    padded = ('bgr_to_rgb', 'pad_size_divisor=128, bgr_to_rgb')
    plain = ('sparseformer_mm.detection.SparseFormerDetector', 'SingleStageDetector')
    path, looks = image_of(toy, 1), {}
    for name, replacements in (('padded', [padded]), ('plain', [padded, plain])):
        config = toy.derive(tmp_path, *replacements)
        looks[name], model = toy.see(path, config=config)
    whole, _ = toy.see(path)
    for ours, theirs in zip(looks['padded'].stages, whole.stages):
        np.testing.assert_allclose(ours.rois, theirs.rois, atol=1e-5)
        np.testing.assert_allclose(ours.points, theirs.points, atol=1e-5)
    # This one takes the padding for image, of which 96 x 72 are it.
    _, inputs, seen, _ = spied(toy, model, str(path))
    assert inputs.shape[-2:] == (128, 128)
    scale = [128 / 96, 128 / 72]
    for ours, stage in zip(looks['plain'].stages, seen.stages):
        expected = stage.rois[0].numpy() * np.tile(scale, 2)
        np.testing.assert_allclose(ours.rois, expected, atol=1e-5)
        expected = stage.points[0].numpy() * scale
        np.testing.assert_allclose(ours.points, expected, atol=1e-5)


@pytest.mark.mmdet
def test_a_padded_scene(toys):
    """Pictures in memory go the way of files; boxes and points move with them."""
    toy = toys('detection')
    choice = Choice(top_k_class=3)
    look, model = toy.see(
        image_of(toy, 1), choice, how=dict(kind='zero-pad', share=0.25)
    )
    image = np.pad(read(image_of(toy, 1)), ((12, 12), (16, 16), (0, 0)))
    assert np.abs(look.image.astype(int) - image).max() <= 1  # decoders of JPEG
    true = look.frame.boxes * [96, 72, 96, 72]
    np.testing.assert_allclose(true, [[4 + 16, 10 + 12, 44 + 16, 40 + 12]])
    best, _, seen, logits = spied(toy, model, look.image[..., ::-1].copy())
    label = int(best.labels[0])
    order = logits[:, label].argsort(descending=True)[:3]
    assert look.tokens.tolist() == order.tolist()
    assert look.answer == f'{("red", "green")[label]} (best detection)'
    numbers = look_numbers(look)
    assert numbers['area_share'] == pytest.approx(1 - 1 / 2.25)
    for ours, stage in zip(numbers['stages'], seen.stages):
        x, y = stage.points[0].reshape(-1, 2).double().numpy().T
        there = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        kept = (x >= 1 / 6) & (x < 5 / 6) & (y >= 1 / 6) & (y < 5 / 6)
        assert ours['on_area'] == pytest.approx(np.mean(there & ~kept), abs=1e-6)
        inside = (x >= 20 / 96) & (x <= 60 / 96) & (y >= 22 / 72) & (y <= 52 / 72)
        assert ours['in_boxes'] == pytest.approx(np.mean(inside), abs=1e-6)
