"""What HealthHook says of segmentors."""

import copy

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from helpers.segmentor_standin import build, image, sample  # noqa: E402
from sparseformer_mm.engine.health import _Tap  # noqa: E402
from sparseformer_mm.engine.symptoms import Limits  # noqa: E402
from sparseformer_mm.host import host_of  # noqa: E402

pytestmark = pytest.mark.mmseg


def told(model, labels):
    """What is said of a step of training on two pictures of 32 x 32."""
    watch = host_of('mmseg').watch(model)
    images = [image(32, 32, i) for i in range(2)]
    samples = [sample(x, labels) for x in images]
    tap = _Tap(watch.module, watch.figures)
    model.train()
    model(torch.stack(images), copy.deepcopy(samples), mode='loss')
    figures = tap.close()
    return figures, [
        (x.name, x.seen)
        for x in watch.symptoms(figures, dict(data_samples=samples), {}, Limits())
    ]


def masks(share, value=3, other=2):
    """A mask (32, 32) of one class, and so much of another."""
    labels = torch.full((32, 32), value)
    labels.view(-1)[: round(share * 1024)] = other
    return labels


def test_a_segmentor_of_one_class():
    model = build()
    (_, others), said = told(model, masks(0.1))
    assert others > 0.1 and said == []
    with torch.no_grad():
        model.decode_head.conv_seg.bias[3] += 1e3
    figures, said = told(model, masks(0.1))
    assert figures == [3, 0]
    text = 'gives 100.0% of the pixels to class 3, of the labels 10.'
    assert len(said) == 1 and said[0][0] == 'one_class' and text in said[0][1]
    # So are the masks, or what is counted of them.
    assert told(model, masks(0))[1] == told(model, masks(0.1, other=255))[1] == []


def test_a_few_pixels_of_another_class_are_one_class_still():
    watch = host_of('mmseg').watch(build())
    logits = torch.zeros(1, 5, 10, 10)
    logits[:, 4] = 1
    logits[0, 2, 0, 0] = 2
    figures = watch.figures(logits).tolist()
    assert figures == [4, pytest.approx(0.01)]
    for share, count in ((0.6, 1), (0.4, 0)):
        batch = dict(data_samples=[sample(image(32, 32), masks(share, 4))])
        assert len(list(watch.symptoms(figures, batch, {}, Limits()))) == count


def test_one_output_under_a_sigmoid():
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(num_classes=2, out_channels=1, threshold=0.3, loss_decode=loss)
    watch = host_of('mmseg').watch(build(head=head))
    logits = torch.full((1, 1, 4, 4), -0.5)  # 0.38
    logits[0, 0, 0] = -1.0  # 0.27
    assert watch.figures(logits).tolist() == [1, 0.25]


def test_what_is_no_batch_of_masks_is_let_be():
    watch = host_of('mmseg').watch(build())
    for batch in (None, [], dict(data_samples=dict(sup=[], unsup=[])), dict(inputs=0)):
        assert list(watch.symptoms([0, 0], batch, {}, Limits())) == []
    assert host_of('mmseg').watch(torch.nn.Module()).module is None
