"""The decode head: losses, arguments and errors."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.structures import PixelData  # noqa: E402

from helpers.segmentor_standin import HEAD, build, image, model_cfg, sample, tokens_of  # noqa: E402
from sparseformer_mm.models import ops  # noqa: E402
from sparseformer_mm.segmentation import LocationAwareHead  # noqa: E402
from sparseformer_mm.utils.counting import count_macs  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.usefixtures('float64')]


def weighted(weights):
    return dict(type='CrossEntropyLoss', class_weight=weights)


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('num_convs', [0, 1, 2])
def test_logits_are_attention_then_convolutions_then_classifier(num_convs, residual):
    extra = dict(embed_dims=12, num_heads=2)
    model = build(head=dict(num_convs=num_convs, residual=residual, **extra))
    head, out = model.decode_head, tokens_of(model, image(40, 56))
    x = head.attention(
        out.image_feature.permute(0, 2, 3, 1), out.tokens, out.rois
    ).permute(0, 3, 1, 2)
    if residual:
        weight, bias = head.shortcut.weight, head.shortcut.bias
        x = x + F.conv2d(out.image_feature, weight[..., None, None], bias)
    assert len(head.convs) == num_convs
    for conv in head.convs:
        assert conv.conv.kernel_size == (3, 3) and conv.conv.bias is None
        x = F.conv2d(x, conv.conv.weight, padding=1)
        x = (x - conv.bn.running_mean[:, None, None]) / (
            conv.bn.running_var[:, None, None] + conv.bn.eps
        ).sqrt()
        x = x * conv.bn.weight[:, None, None] + conv.bn.bias[:, None, None]
        x = x.relu()
    expected = F.conv2d(x, head.conv_seg.weight, head.conv_seg.bias)
    actual = head(out)
    assert actual.shape == (1, 5, 10, 14)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('heads', [1, 4])
def test_lean_and_plain_are_the_same_head(heads, monkeypatch):
    results = []
    for lean in (True, False):
        monkeypatch.setattr(ops, 'FAST_OPS', lean)
        model = build(head=dict(num_heads=heads))
        img = image(48, 40)
        losses = model(img[None], [sample(img)], mode='loss')
        losses['decode.loss_ce'].backward()
        grads = [p.grad for p in model.parameters()]
        assert all(grad is not None for grad in grads)
        results.append([losses['decode.loss_ce'].detach(), *grads])
    torch.testing.assert_close(*results)


def test_every_parameter_learns_and_the_loss_is_cross_entropy():
    model = build(head=dict(dropout_ratio=0)).train()
    img = image(40, 56)
    labels = sample(img)
    loss = model(img[None], [labels], mode='loss')['decode.loss_ce']
    loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None]
    assert not dead
    logits = F.interpolate(
        model(img[None]), (40, 56), mode='bilinear', align_corners=False
    )
    expected = F.cross_entropy(logits, labels.gt_sem_seg.data)
    torch.testing.assert_close(loss, expected)


def test_answers_without_the_class_weights_of_the_loss():
    weights = [0.2, 1.0, 2.0, 1.0, 0.5]
    head = dict(loss_decode=weighted(weights), dropout_ratio=0)
    plain, undone = build(head=head), build(head=dict(head, undo_class_weight=True))
    assert undone.state_dict().keys() == plain.state_dict().keys()
    out = tokens_of(plain, image(40, 56))
    shares = plain.decode_head(out).softmax(1)
    # A cross entropy so weighted is least where scores are w times the shares.
    expected = shares / torch.tensor(weights).view(-1, 1, 1)
    actual = undone.decode_head(out).softmax(1)
    torch.testing.assert_close(actual, expected / expected.sum(1, keepdim=True))
    # Losses are of logits as they are, in evaluation too.
    samples = [sample(image(40, 56))]
    for mode in (False, True):
        plain.train(mode), undone.train(mode)
        losses = [model.decode_head.loss(out, samples) for model in (plain, undone)]
        torch.testing.assert_close(*losses)
    torch.testing.assert_close(undone.decode_head(out), plain.decode_head(out))


def test_ignored_pixels_give_no_gradient():
    model = build()
    out = tokens_of(model, image(32, 40))
    feature = out.image_feature.requires_grad_()
    for keep in (0, 1):
        labels = torch.full((32, 40), 255)
        labels[:8, :8] = 3 if keep else 255
        feature.grad = None
        losses = model.decode_head.loss(out, [sample(image(32, 40), labels)], None)
        losses['loss_ce'].backward()
        grad = feature.grad.abs().amax((0, 1))
        assert grad[:2, :2].min() > 0 if keep else (grad == 0).all()
        # Two 3x3 convolutions and the interpolation reach three pixels further.
        assert (grad[5:] == 0).all() and (grad[:, 5:] == 0).all()


def test_settings_of_mmseg_reach_it():
    model = build(
        head=dict(
            dropout_ratio=0.3,
            norm_cfg=dict(type='GN', num_groups=3),
            act_cfg=dict(type='GELU'),
            align_corners=True,
            ignore_index=4,
            sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20),
            loss_decode=[
                dict(type='CrossEntropyLoss', loss_name='loss_ce', loss_weight=0.5),
                dict(type='CrossEntropyLoss', loss_name='loss_more', loss_weight=1.5),
            ],
        )
    )
    head = model.decode_head
    assert head.dropout.p == 0.3 and head.align_corners and model.align_corners
    assert head.convs[1].gn.num_groups == 3
    assert type(head.convs[0].activate).__name__ == 'GELU'
    img = image(32, 32)
    losses = model(img[None], [sample(img)], mode='loss')
    ratio = losses['decode.loss_more'] / losses['decode.loss_ce']
    assert ratio.item() == pytest.approx(3)


def test_an_auxiliary_head_on_the_map_of_the_stem():
    auxiliary = dict(
        type='FCNHead',
        in_channels=8,
        in_index=2,
        channels=6,
        num_convs=1,
        concat_input=False,
        num_classes=5,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    )
    model = build(auxiliary_head=auxiliary)
    img = image(40, 48)
    losses = model(img[None], [sample(img)], mode='loss')
    head, out = model.auxiliary_head, tokens_of(model, img)
    logits = head.cls_seg(head.convs(out.image_feature))
    logits = F.interpolate(logits, (40, 48), mode='bilinear', align_corners=False)
    expected = 0.4 * F.cross_entropy(logits, sample(img).gt_sem_seg.data)
    torch.testing.assert_close(losses['aux.loss_ce'], expected)
    losses['aux.loss_ce'].backward()
    assert model.backbone.stem.conv.weight.grad.abs().max() > 0


def test_bfloat16_trains_near_float32():
    model = build(head=dict(dropout_ratio=0)).float()
    img = image(64, 64).float()
    results = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss = model(img[None], [sample(img)], mode='loss')['decode.loss_ce']
        loss.backward()
        grads = [p.grad.clone() for p in model.decode_head.parameters()]
        assert all(p.grad.isfinite().all() for p in model.parameters())
        results.append((loss.detach(), torch.cat([grad.flatten() for grad in grads])))
    (loss, grad), (low_loss, low_grad) = results
    torch.testing.assert_close(low_loss, loss, rtol=2e-2, atol=0)
    assert F.cosine_similarity(grad, low_grad, dim=0) > 0.99


@pytest.mark.parametrize('labels', [[5], [0, 254], [-1, 7]])
def test_labels_out_of_range(labels):
    model = build()
    img = image(32, 32)
    mask = torch.full((32, 32), 255)
    mask[0, : len(labels)] = torch.tensor(labels)
    wrong = ', '.join(str(x) for x in sorted(labels) if not 0 <= x < 5)
    with pytest.raises(ValueError, match=f'labels {wrong}, but num_classes=5') as error:
        model(img[None], [sample(img, mask)], mode='loss')
    for cure in ('num_classes', 'reduce_zero_label=True', 'ignore_index'):
        assert cure in str(error.value)


def test_labels_are_looked_at_in_every_batch():
    head = build().decode_head
    logits = torch.zeros(1, 5, 4, 4)
    good = sample(image(8, 8))
    for _ in range(50):
        head.loss_by_feat(logits, [good])
    with pytest.raises(ValueError, match='labels 7,'):
        head.loss_by_feat(logits, [sample(image(8, 8), torch.full((8, 8), 7))])


def test_masks_in_colour():
    img = image(32, 32)
    data = sample(img)
    data.gt_sem_seg = PixelData(data=torch.zeros(32, 32, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r'one channel .*\(32, 32, 3\)'):
        build()(img[None], [data], mode='loss')


def test_many_wrong_labels_are_not_all_listed():
    model = build()
    img = image(32, 32)
    mask = torch.arange(32 * 32).view(32, 32) % 255
    with pytest.raises(ValueError, match='5, 6, .*, 14 and 240 more'):
        model(img[None], [sample(img, mask)], mode='loss')


@pytest.mark.parametrize('out_type', ['pooled', 'featmap'])
def test_backbone_without_tokens(out_type):
    cure = "out_type='tokens'"
    with pytest.raises(ValueError, match=f"out_type='{out_type}'.*needs {cure}"):
        build(backbone=dict(out_type=out_type))
    model = build(kind='EncoderDecoder', backbone=dict(out_type=out_type))
    with pytest.raises(TypeError, match=f'got tuple: set {cure} on the backbone'):
        model(image(32, 32)[None])


@pytest.mark.parametrize(
    'name, value, words',
    [
        ('in_channels', 48, 'in_channels=48 of .*cortex_dims.* 32'),
        ('feat_channels', 96, 'feat_channels=96 of .*feat_channels.* 8'),
    ],
)
def test_wrong_widths(name, value, words):
    with pytest.raises(ValueError, match=words):
        build(head={name: value})
    model = build(kind='EncoderDecoder', head={name: value})
    with pytest.raises(ValueError, match=words):
        model(image(32, 32)[None])


def test_other_backbones_are_refused():
    resnet = dict(type='ResNetV1c', depth=18)
    with pytest.raises(ValueError, match='SparseFormer backbone, got ResNetV1c'):
        from mmengine.registry import MODELS, DefaultScope

        with DefaultScope.overwrite_default_scope('mmseg'):
            MODELS.build(dict(model_cfg(), backbone=resnet))


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(num_convs=-1), 'num_convs=-1 must be'),
        (dict(num_convs=0), 'num_convs=0 .* channels=12 equal to .* 32'),
        (dict(num_heads=5), 'num_heads=5 does not divide'),
        (
            dict(input_transform='multiple_select', in_channels=[32], in_index=[0]),
            "input_transform='multiple_select' selects among maps",
        ),
        (dict(undo_class_weight=True), 'CrossEntropyLoss with class_weight=None'),
        (
            dict(
                undo_class_weight=True,
                loss_decode=dict(type='FocalLoss', class_weight=[1.0] * 5),
            ),
            'loss_decode is FocalLoss',
        ),
        (
            dict(undo_class_weight=True, loss_decode=weighted([1.0] * 4)),
            'weight above 0 for each of the 5 classes',
        ),
        (
            dict(undo_class_weight=True, loss_decode=weighted([0.0] + [1.0] * 4)),
            'weight above 0 for each of the 5 classes',
        ),
    ],
)
def test_wrong_arguments(kwargs, words):
    args = dict(HEAD, **kwargs)
    args.pop('type')
    with pytest.raises(ValueError, match=words):
        LocationAwareHead(**args)


@pytest.mark.parametrize('num_tokens, total', [(49, 33.06), (400, 52.52)])
def test_multiply_adds_of_the_tiny_model(num_tokens, total):
    """The paper: 33 G with 49 tokens at 512 x 512."""
    model = build(
        backbone=dict(arch='tiny', num_tokens=num_tokens),
        head=dict(in_channels=512, feat_channels=96, channels=256, num_classes=150),
    )
    report = count_macs(model, torch.rand(1, 3, 512, 512))
    assert report.total / 1e9 == pytest.approx(total, abs=0.01)
