"""The auxiliary head on tokens: what its RoIs hold, its loss, and its errors."""

import math

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.registry import DefaultScope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

from helpers.segmentor_standin import build, image, sample, tokens_of  # noqa: E402
from sparseformer_mm.segmentation import TokenLabelHead  # noqa: E402
from sparseformer_mm.segmentation.health import Watch  # noqa: E402
from sparseformer_mm.segmentation.token_head import count_labels  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.usefixtures('float64')]

AUX = dict(
    type='sparseformer_mm.segmentation.TokenLabelHead', in_channels=32, num_classes=5
)


def halves(height, width):
    """Class 1 to the left, class 3 to the right."""
    labels = torch.ones(1, height, width, dtype=torch.long)
    labels[..., width // 2 :] = 3
    return labels


def test_counts_are_those_of_the_pixels_in_the_roi():
    rois = torch.tensor(
        [[[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.2]]]
    )
    counts = count_labels(halves(8, 12), rois, 5, grid=4)
    assert counts.tolist() == [[[0, 8, 0, 8, 0], [0, 16, 0, 0, 0], [0, 8, 0, 8, 0]]]


def test_x_is_the_width_and_y_the_height():
    labels = torch.arange(6).view(1, 2, 3)  # rows of three
    rois = torch.tensor([[[(i % 3 + 0.5) / 3, (i // 3 + 0.5) / 2, 0.3, 0.4]
                          for i in range(6)]])  # fmt: skip
    torch.testing.assert_close(
        count_labels(labels, rois, 6, grid=3), 9 * torch.eye(6).long()[None]
    )


def test_points_outside_the_image_and_labels_of_no_class_count_nowhere():
    labels = halves(8, 8)
    labels[:, :4] = -1
    rois = torch.tensor([[[0.0, 0.5, 1.0, 1.0], [9.0, 9.0, 1.0, 1.0],
                          [float('nan'), 0.5, 1.0, 1.0]]])  # fmt: skip
    assert count_labels(labels, rois, 5, grid=4).tolist() == [
        [[0, 4, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    ]


def test_rois_are_relative_to_the_image_in_a_padded_label():
    padded = torch.full((1, 16, 24), -1)
    padded[:, :8, :12] = halves(8, 12)
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(1, 7, 4, generator=generator)
    shares = torch.tensor([[0.5, 0.5]])
    counts = count_labels(padded, rois, 5, shares=shares)
    assert counts.sum() > 0
    assert torch.equal(counts, count_labels(halves(8, 12), rois, 5))


def test_the_loss_is_cross_entropy_with_the_weighted_shares():
    weights = [1.0, 0.25, 1.0, 1.0, 0.0]
    model = build(auxiliary_head=dict(AUX, class_weight=weights, loss_weight=0.5))
    img = image(32, 48)
    labels = sample(img)
    labels.gt_sem_seg.data[..., :16] = 255
    out, head = tokens_of(model, img), model.auxiliary_head
    losses = head.loss(out, [labels])
    expected, right, known = 0.0, 0, 0
    counts = count_labels(labels.gt_sem_seg.data, out.rois, 5)[0]
    for token, count in zip(out.tokens[0], counts):
        shares = count * torch.tensor(weights)
        if shares.sum() == 0:
            continue
        logits = head.fc.weight @ token + head.fc.bias
        target = shares / shares.sum()
        expected -= (target * logits.log_softmax(0)).sum()
        right += int(logits.argmax() == target.argmax())
        known += 1
    assert known
    torch.testing.assert_close(losses['loss_tokens'], 0.5 * expected / known)
    torch.testing.assert_close(
        losses['acc_tokens'], torch.tensor(100.0 * right / known)
    )


def test_rois_are_held_at_the_picture():
    model = build(auxiliary_head=dict(AUX, outside_weight=2.0))
    img = image(32, 48)
    labels, head, out = sample(img), model.auxiliary_head, tokens_of(model, img)
    assert head.loss(out, [labels])['loss_outside'] == 0  # on a grid in it
    # One to the left by half a picture, one below by a quarter: of nine.
    rois = out.rois.clone()
    rois[0, 0, 0], rois[0, 1, 1] = -0.5, 1.25
    rois.requires_grad_()
    loss = head.loss(out._replace(rois=rois), [labels])['loss_outside']
    torch.testing.assert_close(loss, torch.tensor(2.0 * 0.75 / 9))
    loss.backward()
    expected = torch.zeros_like(rois)
    expected[0, 0, 0], expected[0, 1, 1] = -2 / 9, 2 / 9
    torch.testing.assert_close(rois.grad, expected)


@pytest.mark.parametrize(
    'preprocessed, reduced',
    # Masks of half the picture's size only mmseg pads, and says by how much.
    [(True, 1), (True, 2), (False, 1)],
)
def test_a_padded_image_has_its_own_loss(preprocessed, reduced):
    """Sides that are no multiple of the stride, masks in a size of their own."""
    model = build(auxiliary_head=AUX)
    img, labels = image(34, 42), halves(34 // reduced, 42 // reduced)[0]
    labels[:5] = 2
    alone = model(img[None], [sample(img, labels)], mode='loss')
    assert {'aux.loss_tokens', 'aux.acc_tokens'} < set(alone)
    padded = image(48, 64, seed=3)
    padded[:, :34, :42] = img
    wide = torch.full((34 // reduced + 14, 42 // reduced + 22), 255)
    wide[: 34 // reduced, : 42 // reduced] = labels
    padded_sample = sample(padded, wide)
    padded_sample.set_metainfo(dict(img_shape=(34, 42)))
    if preprocessed:
        padded_sample.set_metainfo(dict(padding_size=(0, 22, 0, 14)))
    beside = model(padded[None], [padded_sample], mode='loss')
    torch.testing.assert_close(beside['aux.loss_tokens'], alone['aux.loss_tokens'])
    torch.testing.assert_close(beside['aux.acc_tokens'], alone['aux.acc_tokens'])


def test_it_learns_as_one_of_several_heads():
    fcn = dict(
        type='FCNHead', in_index=2, in_channels=8, channels=4, num_convs=1,
        concat_input=False, num_classes=5, align_corners=False,
    )  # fmt: skip
    model = build(auxiliary_head=[fcn, AUX]).train()
    img = image(32, 40)
    losses = model(img[None], [sample(img)], mode='loss')
    sum(x for name, x in losses.items() if 'loss' in name).backward()
    assert losses['aux_1.loss_tokens'] > 0
    assert model.auxiliary_head[1].fc.weight.grad.abs().sum() > 0


def test_bfloat16_autocast_gives_a_loss_in_float32():
    torch.set_default_dtype(torch.float32)
    model, img = build(auxiliary_head=AUX), image(32, 40)
    labels = sample(img)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.auxiliary_head.loss(model.backbone(img[None]), [labels])
    exact = model.auxiliary_head.loss(model.backbone(img[None]), [labels])
    assert losses['loss_tokens'].dtype == torch.float32
    torch.testing.assert_close(
        losses['loss_tokens'], exact['loss_tokens'], atol=0.05, rtol=0.05
    )


def test_nothing_known_is_no_loss_and_no_nan():
    model = build(auxiliary_head=AUX)
    img = image(32, 32)
    empty = sample(img, torch.full((32, 32), 255))
    losses = model.auxiliary_head.loss(model.backbone(img[None]), [empty])
    assert losses['loss_tokens'] == 0 and losses['acc_tokens'] == 0
    losses['loss_tokens'].backward()
    assert all(p.grad.isfinite().all() for p in model.auxiliary_head.parameters())


@pytest.mark.parametrize(
    'weights',
    [[1.0], [1, 1, 1, 1, -1], [0] * 5, [1] * 6, 0.5, [1, 1, 1, 1, math.nan], 'abcde'],
    ids=str,
)
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match='class_weight'):
        TokenLabelHead(32, 5, class_weight=weights)


def test_other_backbones_and_widths_are_named():
    head = TokenLabelHead(16, 5)
    with pytest.raises(TypeError, match="out_type='tokens'"):
        head([torch.rand(1, 16, 4, 4)])
    with pytest.raises(ValueError, match='cortex_dims, 32'):
        head(tokens_of(build(), image(32, 32)))


def test_a_number_of_classes_that_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match='num_classes=1 must be an integer of at leas'):
        TokenLabelHead(32, 1)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(in_channels=16), 'in_channels=16 of auxiliary_head must be 32'),
        (dict(num_classes=4), 'num_classes=4 of auxiliary_head must be 5'),
        (dict(ignore_index=0), 'ignore_index=0 of auxiliary_head must be 255'),
    ],
)
def test_a_segmentor_whose_parts_do_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(auxiliary_head=dict(AUX, **wrong))


def test_no_label_need_be_ignored():
    model = build(
        head=dict(ignore_index=None), auxiliary_head=dict(AUX, ignore_index=None)
    )
    img = image(32, 32)
    losses = model.auxiliary_head.loss(model.backbone(img[None]), [sample(img)])
    assert losses['loss_tokens'] > 0


def test_health_advises_it_only_where_it_can_be_had():
    assert Watch(build()).mute
    assert not Watch(build(auxiliary_head=AUX)).mute
    assert Watch(on_maps()).mute
    assert not Watch(on_maps(AUX_OF_MAPS)).mute
    fpn = dict(type='FPN', in_channels=[8] * 4, out_channels=8, num_outs=4)
    assert not Watch(on_maps(neck=fpn)).mute


AUX_OF_MAPS = dict(AUX, in_channels=192)


def on_maps(*auxiliary, **parts):
    """mmseg's own segmentor with a head on restored maps, and auxiliary heads."""
    maps = dict(out_type='maps', map_channels=8)
    fcn = dict(type='FCNHead', in_channels=8, channels=4, num_classes=5, in_index=0)
    if auxiliary:
        parts['auxiliary_head'] = list(auxiliary)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = dict(
            type='EncoderDecoder', decode_head=fcn, test_cfg=dict(mode='whole'),
            backbone=dict(type='sparseformer_mm.SparseFormer', arch='nano', **maps),
            **parts,
        )  # fmt: skip
        return MODELS.build(model)


@pytest.mark.parametrize('with_cp', [False, True])
def test_tokens_behind_maps_are_asked_too(with_cp):
    model = on_maps(AUX_OF_MAPS).train()
    model.backbone.with_cp = with_cp
    img = image(32, 40)
    (head,) = model.auxiliary_head
    losses = model(img[None], [sample(img)], mode='loss')
    seen = model.backbone.forward_intermediates(img[None])
    expected = head.loss(seen, [sample(img)])
    torch.testing.assert_close(losses['aux_0.loss_tokens'], expected['loss_tokens'])
    losses['aux_0.loss_tokens'].backward()
    assert model.backbone.latent.token_embeddings.grad.abs().max() > 0
    # As with tokens, the loss can be had in evaluation mode too.
    later = model.eval()(img[None], [sample(img)], mode='loss')
    seen = model.backbone.forward_intermediates(img[None])
    expected = head.loss(seen, [sample(img)])
    torch.testing.assert_close(later['aux_0.loss_tokens'], expected['loss_tokens'])


def test_tokens_behind_a_neck_cannot_be_asked():
    fpn = dict(type='FPN', in_channels=[8] * 4, out_channels=8, num_outs=4)
    model = on_maps(AUX_OF_MAPS, neck=fpn).train()
    img = image(32, 40)
    with pytest.raises(TypeError, match='leave out the neck'):
        model(img[None], [sample(img)], mode='loss')
