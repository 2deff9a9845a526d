"""Evidence from restored maps: what it reads, and what the head makes of it."""

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmcv.ops import RoIAlign  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

from helpers.small_detector import (  # noqa: E402
    ARCH,
    EVIDENCE,
    MODERN,
    SHAPES,
    broken,
    build,
    make_batch,
    make_config,
)
from sparseformer_mm.detection.map_evidence import MapEvidence  # noqa: E402
from sparseformer_mm.models.elastic import coverage_order  # noqa: E402
from sparseformer_mm.models.rois import adjust_rois, rois_to_corners  # noqa: E402

pytestmark = [pytest.mark.mmdet, pytest.mark.usefixtures('float64')]

NUMBERS = dict(feat_channels=8, channels=6, cells=3)


def build_with(head=EVIDENCE, **numbers):
    head = copy.deepcopy(head)
    head['map_evidence'] = dict(NUMBERS, **numbers)
    return build(**head).eval()


@pytest.mark.parametrize('stride', [4, 8])
def test_cells_are_those_of_roi_align(stride):
    """Inside the image and beyond it, where zeros are, of images of three sizes."""
    model = build_with(stride=stride, enlarge=1.5)
    evidence = model.bbox_head.map_evidence
    outputs = model.backbone(make_batch()[0], valid_shapes=SHAPES)
    generator = torch.Generator().manual_seed(2)
    boxes = torch.rand(3, 7, 4, generator=generator)
    cells = evidence.read_cells(outputs, boxes)
    (restored,) = evidence.map_decoder(outputs)
    margin = 40
    canvas = F.pad(restored, [margin] * 4)
    # A map's pixel of stride 4 is whole; one of stride 8 may leave the image.
    extents = outputs.map_extents * 4 / stride
    wide = torch.cat([boxes[..., :2], boxes[..., 2:] * 1.5], -1)
    corners = rois_to_corners(wide) * extents.repeat(1, 2)[:, None] + margin
    index = torch.arange(3.0).repeat_interleave(7)[:, None]
    align = RoIAlign(3, 1.0, 2)
    expected = align(canvas, torch.cat([index, corners.flatten(0, 1)], 1))
    expected = expected.flatten(2).mT.unflatten(0, (3, 7))
    # Cells are where float32 says.
    torch.testing.assert_close(cells, expected, rtol=0, atol=1e-5)


def test_tokens_take_what_the_cells_show():
    model = build_with()
    evidence = model.bbox_head.map_evidence
    outputs = model.backbone(make_batch()[0])
    boxes = outputs.rois[:, :5]
    tokens = evidence(outputs, boxes)
    first, _, last = evidence.mlp
    cells = evidence.read_cells(outputs, boxes).flatten(2)
    hidden = (cells @ first.weight.T + first.bias).clamp(min=0)
    summed = outputs.tokens[:, :5] + hidden @ last.weight.T + last.bias
    spread = summed.var(-1, unbiased=False, keepdim=True) + 1e-6
    normed = (summed - summed.mean(-1, keepdim=True)) / spread.sqrt()
    expected = normed * evidence.norm.weight + evidence.norm.bias
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize('share', [True, False])
@pytest.mark.parametrize('refine, looks', [(True, 1), (False, 1), (False, 3)])
def test_one_level_more(share, refine, looks):
    """The others are as without it; the last has predictors of its own."""
    options = dict(EVIDENCE, share_predictors=share, refine_boxes=refine)
    options['backbone'] = copy.deepcopy(EVIDENCE['backbone'])
    options['backbone']['arch']['cortex_looks'] = looks
    model = build_with(options)
    options.pop('map_evidence')
    plain = build(**options).eval()
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if name in plain.state_dict()
    }
    assert plain.state_dict().keys() == weights.keys()
    plain.load_state_dict(weights)
    inputs, samples = make_batch()
    outputs = model.backbone(inputs)
    head = model.bbox_head
    scores, boxes = head(outputs)
    for more, fewer in zip((scores, boxes), plain.bbox_head(outputs)):
        assert len(more) == 4 and torch.equal(more[:3], fewer)
    tokens = head.map_evidence(outputs, boxes[2])
    assert len(head.fc_cls) == len(head.box_refine) == (1 if share else 3)
    torch.testing.assert_close(scores[3], head.map_cls(tokens))
    moved = adjust_rois(boxes[2], head.map_refine(tokens))
    torch.testing.assert_close(boxes[3], moved)
    # Detections are the last level's, also where the earlier ones are left out.
    samples[0].set_metainfo(dict(img_shape=(60, 64)))
    found = head.predict(outputs, samples[:1], rescale=False)[0]
    best = scores[3, 0].sigmoid().flatten().sort(descending=True)
    torch.testing.assert_close(found.scores, best.values[: len(found)])
    corners = rois_to_corners(boxes[3, 0, best.indices // 4]) * torch.tensor(
        [64.0, 60, 64, 60]
    )
    torch.testing.assert_close(
        found.bboxes, corners.clamp(min=0).minimum(torch.tensor([64.0, 60, 64, 60]))
    )


def test_starts_at_the_boxes_of_the_last_block_and_the_prior():
    model = MODELS.build(make_config(**copy.deepcopy(EVIDENCE)))
    model.init_weights()
    scores, boxes = model.bbox_head(model.backbone(make_batch()[0]))
    torch.testing.assert_close(boxes[3], boxes[2])
    assert scores[3].sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)
    # The cells weigh: as much as torch's own start of a linear layer gives them.
    first = model.bbox_head.map_evidence.mlp[0]
    assert first.weight.std().item() == pytest.approx(54**-0.5 / 3**0.5, rel=0.1)


def test_its_gradient_goes_into_tokens_and_map_but_not_into_boxes():
    model = build_with()
    head = model.bbox_head
    outputs = model.backbone(make_batch()[0])
    rois = outputs.block_rois[-1].detach().requires_grad_()
    tokens = outputs.tokens.detach().requires_grad_()
    feature = outputs.image_feature.detach().requires_grad_()
    head.map_cls(
        head.map_evidence(
            outputs._replace(tokens=tokens, image_feature=feature), rois[:, :6]
        )
    ).sum().backward()
    assert rois.grad is None
    # All tokens, since the map is restored from all, not from the six that detect.
    assert (tokens.grad.abs().amax(2) > 0).all()
    assert feature.grad.abs().max() > 0


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(feat_channels=96), 'feat_channels=96 of map_evidence.*stem: set it to 8'),
        (dict(in_stride=2), 'in_stride=2 of map_evidence .* set it to 4'),
        (dict(stride=6), 'stride=6 .* multiple of in_stride=4'),
        (dict(enlarge='1.2'), "map_evidence.enlarge='1.2' must be positive"),
        (dict(cells=0), 'map_evidence.cells=0'),
        (dict(stride=0), 'map_evidence.stride=0'),
        (dict(token_dims=24), 'MapEvidence gets token_dims from the backbone or head'),
        (dict(map_decoder='nearest'), "map_decoder='nearest' is unknown"),
    ],
)
def test_numbers_that_do_not_fit(changes, message):
    config = broken(head=copy.deepcopy(EVIDENCE))
    config.bbox_head.map_evidence.update(changes)
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


@pytest.mark.parametrize('given', [True, 'tokens', 8, {}, dict(cells=3)])
def test_the_least_it_needs(given):
    config = broken(head=copy.deepcopy(EVIDENCE))
    config.bbox_head.pop('map_evidence')
    config.bbox_head.map_evidence = given
    with pytest.raises(ValueError, match='feat_channels of the backbone: .*=96'):
        MODELS.build(config)


class Unmoved(torch.nn.Module):
    def __init__(self, token_dims, sign):
        super().__init__()
        self.sign = sign

    def forward(self, outputs, boxes):
        return self.sign * outputs.tokens[:, : boxes.shape[1]]


def test_another_module_takes_its_place():
    options = copy.deepcopy(EVIDENCE)
    options['map_evidence'] = dict(type=Unmoved, sign=-1)
    model = build(**options).eval()
    outputs = model.backbone(make_batch()[0])
    scores, _ = model.bbox_head(outputs)
    expected = model.bbox_head.map_cls(-outputs.tokens[:, :6])
    torch.testing.assert_close(scores[3], expected)


def test_any_number_of_tokens_runs():
    """With fewer, it is the detector of these tokens alone; training takes any."""
    options = copy.deepcopy(EVIDENCE)
    options['backbone'].update(train_tokens=[6, 7, 9], test_tokens=7)
    model = build(**copy.deepcopy(options)).eval()
    options['backbone'].pop('train_tokens')
    options['backbone'].update(test_tokens=None, arch=dict(ARCH, num_tokens=7))
    options['backbone']['arch']['cortex_looks'] = 3
    alone = build(**options).eval()
    weights = model.state_dict()
    running = sorted(coverage_order(9)[:7])
    for name in ('token_embeddings', 'token_rois'):
        name = f'backbone.latent.{name}'
        weights[name] = weights[name][running]
    alone.load_state_dict(weights)
    inputs, samples = make_batch()
    for one, other in zip(model(inputs, mode='tensor'), alone(inputs, mode='tensor')):
        torch.testing.assert_close(one, other)
    for _ in range(4):
        model.train()
        sum(model(inputs, samples, mode='loss').values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_half_model_reads_where_float32_does(dtype):
    if dtype == torch.float16 and torch.__version__ < '2.4':
        pytest.skip('this torch has no float16 on a CPU')
    model = build_with(stride=4).to(dtype)
    evidence = model.bbox_head.map_evidence
    # A long map, on which coordinates in half precision are some pixels off.
    outputs = model.backbone(torch.randn(1, 3, 8, 4096, dtype=dtype))
    boxes = torch.rand(1, 50, 4, dtype=torch.float32) * torch.tensor([1, 1, 0.01, 1])
    cells = evidence.read_cells(outputs, boxes)
    (restored,) = evidence.map_decoder(outputs)
    whole = dict(outputs=outputs, boxes=boxes.double())
    evidence.map_decoder.forward = lambda outputs: (restored.double(),)
    expected = evidence.read_cells(**whole)
    assert cells.dtype == torch.float32
    torch.testing.assert_close(cells.double(), expected, rtol=0, atol=1e-3)
    scores, boxes = model.bbox_head(outputs)
    assert scores.dtype == boxes.dtype == torch.float32
    assert scores.isfinite().all() and boxes.isfinite().all()


def test_alone_it_says_what_it_needs():
    outputs = build(**copy.deepcopy(MODERN)).backbone(make_batch()[0])
    with pytest.raises(ValueError, match='feat_channels=96 .* set it to 8'):
        MapEvidence(24, 96)(outputs, outputs.rois)
