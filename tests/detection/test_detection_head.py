"""The detection head: what it says, what it learns, and what it refuses."""

import copy
import itertools

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.models.dense_heads import DETRHead  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from helpers.small_detector import (  # noqa: E402
    ARCH,
    BOOTSTRAPPED,
    EVIDENCE,
    MODERN,
    SHAPES,
    broken,
    build,
    make_batch,
    make_config,
    make_sample,
)
from sparseformer_mm.models.rois import adjust_rois  # noqa: E402

pytestmark = [pytest.mark.mmdet, pytest.mark.usefixtures('float64')]


# ---------------------------------------------------------------- what it says


def test_paper_form():
    """Linear classifier, two-layer MLP, boxes as RoI adjusting makes them."""
    model = build(queries=4).eval()
    inputs, samples = make_batch()
    outputs = model.backbone(inputs)
    scores, boxes = model.bbox_head(outputs)
    head, tokens = model.bbox_head, outputs.tokens[:, :4]
    assert scores.shape == (1, 3, 4, 5) and boxes.shape == (1, 3, 4, 4)
    linear = head.fc_cls[0]
    torch.testing.assert_close(scores[0], tokens @ linear.weight.T + linear.bias)
    first, _, last = head.box_refine[0]
    hidden = (tokens @ first.weight.T + first.bias).clamp(min=0)
    deltas = hidden @ last.weight.T + last.bias
    x, y, width, height = outputs.rois[:, :4].unbind(-1)
    move_x, move_y, grow_x, grow_y = deltas.unbind(-1)
    expected = torch.stack(
        [
            x + move_x * width,
            y + move_y * height,
            width * grow_x.exp(),
            height * grow_y.exp(),
        ],
        -1,
    )
    torch.testing.assert_close(boxes[0], expected)


@pytest.mark.parametrize('head', [dict(), MODERN], ids=['paper', 'modern'])
def test_boxes_start_as_rois_and_scores_at_the_prior(head):
    model = MODELS.build(make_config(**copy.deepcopy(head)))
    model.init_weights()
    outputs = model.backbone(make_batch()[0])
    scores, boxes = model.bbox_head(outputs)
    for level in boxes:
        torch.testing.assert_close(level, outputs.rois[:, :6])
    if head:
        assert scores.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize('share', [True, False])
@pytest.mark.parametrize('refine, looks', [(True, 1), (False, 1), (False, 2)])
def test_levels(share, refine, looks):
    options = dict(MODERN, share_predictors=share, refine_boxes=refine)
    options['backbone'] = dict(arch=dict(ARCH, cortex_looks=looks))
    model = build(**copy.deepcopy(options)).eval()
    head = model.bbox_head
    assert len(head.fc_cls) == len(head.box_refine) == (1 if share else 3)
    outputs = model.backbone(make_batch()[0])
    scores, boxes = head(outputs)
    assert torch.equal(*outputs.block_rois[:2]) == (looks == 1)
    for level, tokens in enumerate(outputs.block_tokens):
        branch = 0 if share else level
        tokens = tokens[:, :6]
        torch.testing.assert_close(scores[level], head.fc_cls[branch](tokens))
        reference = outputs.block_rois[level][:, :6]
        if refine and level:
            reference = boxes[level - 1]
        box = adjust_rois(reference, head.box_refine[branch](tokens))
        torch.testing.assert_close(boxes[level], box)


@pytest.mark.parametrize('head', [dict(), MODERN], ids=['paper', 'modern'])
def test_predictions_are_pixels_of_the_original_image(head):
    model = build(**copy.deepcopy(head)).eval()
    inputs, samples = make_batch()
    samples[0].set_metainfo(dict(scale_factor=(0.5, 2.0)))
    outputs = model.backbone(inputs, valid_shapes=SHAPES)
    plain_scores, plain_boxes = model.bbox_head(outputs)
    scaled = model.bbox_head.predict(outputs, samples, rescale=False)
    results = model(inputs, samples, mode='predict')
    assert [len(r.pred_instances) for r in results] == [24 if head else 6] * 3
    found, network = results[0].pred_instances, scaled[0]
    if head:
        probs = plain_scores[-1, 0].sigmoid().flatten()
    else:
        probs = plain_scores[-1, 0].softmax(-1)[:, :4].max(-1).values
    order = probs.argsort(descending=True)
    torch.testing.assert_close(network.scores, probs[order])
    query = order // 4 if head else order
    corners = bbox_cxcywh_to_xyxy(plain_boxes[-1, 0])[query]
    corners = corners * corners.new_tensor([64, 48, 64, 48])
    torch.testing.assert_close(
        network.bboxes,
        torch.minimum(corners.clamp(min=0), corners.new_tensor([64, 48, 64, 48])),
    )
    torch.testing.assert_close(
        found.bboxes, network.bboxes / found.bboxes.new_tensor([0.5, 2, 0.5, 2])
    )
    scores, boxes = model(inputs, samples, mode='tensor')
    assert torch.equal(scores, plain_scores) and torch.equal(boxes, plain_boxes)


def test_boxes_stay_inside_the_image():
    model = build().eval()
    head = model.bbox_head
    head.box_refine[0][2].weight.data.zero_()
    head.box_refine[0][2].bias.data[:] = torch.tensor([0.0, 0.0, 5.0, 5.0])
    inputs, samples = make_batch()
    for sample, (height, width) in zip(model(inputs, samples, mode='predict'), SHAPES):
        boxes = sample.pred_instances.bboxes
        expected = boxes.new_tensor([0, 0, width, height]).expand(6, 4)
        assert torch.equal(boxes, expected)


def test_max_per_img():
    config = make_config()
    config.test_cfg = dict(max_per_img=2)
    model = MODELS.build(config).eval()
    full = MODELS.build(make_config()).eval()
    full.load_state_dict(model.state_dict())
    inputs, samples = make_batch()
    few = model(inputs, copy.deepcopy(samples), mode='predict')
    all_ = full(inputs, samples, mode='predict')
    for one, two in zip(few, all_):
        assert len(one.pred_instances) == 2 and len(two.pred_instances) == 6
        assert torch.equal(one.pred_instances.scores, two.pred_instances.scores[:2])


HEADS = pytest.mark.parametrize(
    'head', [dict(), MODERN, EVIDENCE], ids=['paper', 'modern', 'evidence']
)
KINDS = pytest.mark.parametrize(
    'head',
    [dict(), MODERN, dict(MODERN, backbone=BOOTSTRAPPED), EVIDENCE],
    ids=['paper', 'modern', 'bootstrapped', 'evidence'],
)


@KINDS
def test_padding_does_not_exist(head):
    """Alone, beside larger images, with any padding: same detections and losses."""
    model = build(**copy.deepcopy(head)).eval()
    inputs, samples = make_batch()
    batches = [
        model(inputs, copy.deepcopy(samples), mode='predict'),
        model(make_batch((91, 70), 7.0)[0], copy.deepcopy(samples), mode='predict'),
    ]
    for index, (height, width) in enumerate(SHAPES):
        alone = inputs[index : index + 1, :, :height, :width]
        (own,) = model(alone, copy.deepcopy(samples[index : index + 1]), mode='predict')
        for batch in batches:
            other = batch[index].pred_instances
            torch.testing.assert_close(other.bboxes, own.pred_instances.bboxes)
            torch.testing.assert_close(other.scores, own.pred_instances.scores)
            assert torch.equal(other.labels, own.pred_instances.labels)
    for training in (False, True):
        model.train(training)
        losses = [
            model(batch, samples, mode='loss')
            for batch in (inputs, make_batch((91, 70), -2.0)[0])
        ]
        for name, value in losses[0].items():
            torch.testing.assert_close(losses[1][name], value)


# -------------------------------------------------------------- what it learns


def test_loss_is_that_of_detr():
    """Same logits and boxes in mmdet's DETRHead: same losses."""
    model = build()
    inputs, samples = make_batch()
    config = make_config()
    reference = DETRHead(
        4,
        24,
        loss_cls=dict(
            type='CrossEntropyLoss',
            bg_cls_weight=0.1,
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=1.0,
        ),
        train_cfg=config.train_cfg,
    )
    scores, boxes = model(inputs, samples, mode='tensor')
    expected = reference.loss_by_feat(
        scores,
        boxes,
        [sample.gt_instances for sample in samples],
        [sample.metainfo for sample in samples],
    )
    losses = model(inputs, samples, mode='loss')
    assert losses.keys() == expected.keys() == {'loss_cls', 'loss_bbox', 'loss_iou'}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    # Without a weight of its own, no object weighs as much as any class.
    plain = make_config()
    plain.bbox_head.loss_cls = dict(type='CrossEntropyLoss', class_weight=2.0)
    plain = MODELS.build(plain)
    assert plain.bbox_head.loss_cls.class_weight == [2.0] * 5
    assert plain.bbox_head.bg_cls_weight == 2.0
    # The no-object weight counts: most of the 18 tokens have no object.
    model.bbox_head.loss_cls.class_weight[-1] = 1.0
    other = model(inputs, samples, mode='loss')
    assert (other['loss_cls'] - losses['loss_cls']).abs() > 0.05


def test_matching_against_brute_force():
    model = build(queries=5)
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, 5, generator=generator)
    boxes = torch.rand(5, 4, generator=generator) * 0.4 + 0.3
    truth = torch.tensor([[4.0, 4, 30, 20], [20, 10, 60, 44], [0, 0, 12, 12]])
    labels = torch.tensor([2, 0, 3])
    sample = make_sample((48, 64), truth, labels)
    size = torch.tensor([64.0, 48, 64, 48])

    def cost(query, target):
        target_box, corners = truth[target], bbox_cxcywh_to_xyxy(boxes[query]) * size
        width, height = (target_box[2:] - target_box[:2]).unbind()
        center = (target_box[2:] + target_box[:2]) / 2
        normed = torch.tensor([*center, width, height]) / size
        distance = (boxes[query] - normed).abs().sum()
        lower = torch.maximum(corners[:2], target_box[:2])
        upper = torch.minimum(corners[2:], target_box[2:])
        inter = (upper - lower).clamp(min=0).prod()
        areas = [(box[2:] - box[:2]).prod() for box in (corners, target_box)]
        union = sum(areas) - inter
        hull = (
            torch.maximum(corners[2:], target_box[2:])
            - torch.minimum(corners[:2], target_box[:2])
        ).prod()
        giou = inter / union - (hull - union) / hull
        prob = scores[query].softmax(-1)[labels[target]]
        return float(5 * distance - 2 * giou - prob)

    best = min(
        itertools.permutations(range(5), 3),
        key=lambda queries: sum(cost(q, t) for t, q in enumerate(queries)),
    )
    found = model.bbox_head.get_targets(
        [scores], [boxes], [sample.gt_instances], [sample.metainfo]
    )
    expected = np.full(5, 4)
    expected[list(best)] = labels
    assert found[0][0].tolist() == expected.tolist()


@KINDS
def test_gradients_reach_all_tokens(head):
    """The tokens that detect, and those that only talk to them."""
    model = build(queries=4, **copy.deepcopy(head))
    inputs, samples = make_batch()
    sum(model(inputs, samples, mode='loss').values()).backward()
    latent = model.backbone.latent
    for grad in (latent.token_embeddings.grad, latent.token_rois.grad):
        assert (grad.abs().amax(1) > 1e-8).all(), grad.abs().amax(1)
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
        assert param.grad.abs().max() > 0, name


def test_gradient_of_a_refined_box_stays_in_its_level():
    model = build(**copy.deepcopy(dict(MODERN, share_predictors=False)))
    inputs, samples = make_batch()
    losses = model(inputs, samples, mode='loss')
    (losses['loss_bbox'] + losses['loss_iou']).backward()
    first, last = model.bbox_head.box_refine[0], model.bbox_head.box_refine[2]
    assert first[2].weight.grad is None or not first[2].weight.grad.any()
    assert last[2].weight.grad.any()


@HEADS
@pytest.mark.parametrize('counts', [(0, 0, 0), (1, 0, 2), (40, 1, 9)])
def test_any_number_of_objects(head, counts):
    """None at all, one, and more than there are queries (6)."""
    model = build(**copy.deepcopy(head))
    inputs, _ = make_batch()
    rng = np.random.default_rng(0)
    samples = []
    for (height, width), count in zip(SHAPES, counts):
        lower = rng.uniform(0, 0.6, (count, 2)) * [width, height]
        upper = lower + rng.uniform(0.05, 0.4, (count, 2)) * [width, height]
        samples.append(make_sample((height, width), np.hstack([lower, upper])))
    losses = model(inputs, samples, mode='loss')
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
    if not sum(counts):
        assert losses['loss_bbox'] == losses['loss_iou'] == 0
        assert losses['loss_cls'] > 0


def test_crowd_boxes_do_not_count():
    model = build()
    inputs, samples = make_batch()
    expected = model(inputs, samples, mode='loss')
    samples[0].ignored_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 40, 40]]), labels=torch.tensor([1])
    )
    losses = model(inputs, samples, mode='loss')
    for name, value in expected.items():
        assert torch.equal(losses[name], value)


def test_boxes_beyond_the_image_train():
    model = build()
    inputs, samples = make_batch()
    samples[0].gt_instances.bboxes[0] = torch.tensor([-30.0, -9.0, 200.0, 80.0])
    sum(model(inputs, samples, mode='loss').values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@HEADS
def test_bfloat16(head):
    model = build(**copy.deepcopy(head)).float()
    inputs, samples = make_batch()
    inputs = inputs.float()
    expected = model(inputs, samples, mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        scores, boxes = model(inputs, samples, mode='tensor')
        losses = model(inputs, samples, mode='loss')
    assert scores.dtype == boxes.dtype == torch.float32
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0.1, atol=0.05)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_loss_and_predict():
    model = build(**copy.deepcopy(MODERN)).eval()
    inputs, samples = make_batch()
    outputs = model.backbone(inputs)
    losses, predictions = model.bbox_head.loss_and_predict(outputs, samples)
    for name, value in model.bbox_head.loss(outputs, samples).items():
        torch.testing.assert_close(losses[name], value)
    again = model.bbox_head.predict(outputs, samples)
    for one, two in zip(predictions, again):
        assert torch.equal(one.bboxes, two.bboxes)


# ------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    'config, message',
    [
        (
            broken(head=dict(queries=10)),
            'num_queries=10 of bbox_head exceeds num_tokens=9',
        ),
        (broken(bbox_head=dict(embed_dims=32)), 'embed_dims=32 .* 24'),
        (broken(backbone=dict(out_type='pooled')), "needs out_type='tokens'"),
        (broken(bbox_head=dict(num_levels=2)), r'num_levels=2.*out_indices=\[2\]'),
        (broken(backbone=dict(out_indices=(0,))), 'must end with its last block, 2'),
        (
            broken(bbox_head=dict(refine_boxes=True), backbone=dict(cortex_looks=2)),
            'refine_boxes=True .* cortex_looks=2 .* refine_boxes=False',
        ),
        (
            broken(backbone=dict(out_indices=(1, 2))),
            r'num_levels=1.*out_indices=\[1, 2\]',
        ),
        (
            broken(
                bbox_head=dict(
                    loss_cls=dict(
                        type='CrossEntropyLoss', class_weight=[1.0], bg_cls_weight=0.1
                    )
                )
            ),
            'must be numbers',
        ),
        (broken(bbox_head=dict(num_queries=0)), 'num_queries=0 must be at least 1'),
    ],
)
def test_parts_that_do_not_fit(config, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


def test_another_backbone():
    config = make_config()
    config.backbone = ConfigDict(type='ResNet', depth=18)
    with pytest.raises(ValueError, match='sparseformer_mm.SparseFormer.*got ResNet'):
        MODELS.build(config)


def test_head_alone_says_what_it_needs():
    head = MODELS.build(
        dict(make_config().bbox_head, num_queries=6, train_cfg=None, test_cfg=None)
    )
    with pytest.raises(TypeError, match="out_type='tokens'"):
        head((torch.zeros(2, 24),))
    backbone = build().backbone
    outputs = backbone(make_batch()[0])
    with pytest.raises(ValueError, match='exceeds the 5 tokens'):
        head(outputs._replace(tokens=outputs.tokens[:, :5]))
    many = MODELS.build(dict(make_config().bbox_head, num_levels=2))
    with pytest.raises(ValueError, match='got 1: name them in .* out_indices'):
        many(outputs)
    with pytest.raises(ValueError, match='cortex_dims, 20'):
        head(outputs._replace(tokens=outputs.tokens[..., :20]))
