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
    figures, _ = told(model, masks(0.1))
    assert sum(figures) == pytest.approx(1) and min(figures[2:4]) > 0.01
    with torch.no_grad():
        model.decode_head.conv_seg.bias[3] += 1e3
    figures, said = told(model, masks(0.1))
    assert figures == [0, 0, 0, 1, 0]
    ((name, text),) = said
    assert name == 'few_classes' and 'besides class 3 100% is not predicted' in text
    assert '100.0% of the pixels to class 3 (masks: 90.0%) and' in text
    # So are the masks, or what is counted of them.
    assert told(model, masks(0))[1] == told(model, masks(0.1, other=255))[1] == []


def test_few_of_many_classes():
    watch = host_of('mmseg').watch(build())
    labels = masks(0.5, 0)  # of class 0 one half, of each other an eighth
    labels[:16] = torch.arange(1, 5).repeat_interleave(4)[:, None]
    batch = dict(data_samples=[sample(image(32, 32), labels)])

    def seen(*figures, **limits):
        return [x.seen for x in watch.symptoms(figures, batch, {}, Limits(**limits))]

    # Things as one class alone: three of four are missing.
    assert seen(0.52, 0.48, 0.0, 0.0, 0.0, missing=0.8) == []
    (text,) = seen(0.52, 0.48, 0.0, 0.0, 0.0)
    assert 'besides class 0 75% is not predicted' in text
    assert '52.0% of the pixels to class 0 (masks: 50.0%) and 48.0% to class 1' in text
    # Too much is no symptom, too little of the commonest is.
    assert seen(0.2, 0.2, 0.2, 0.2, 0.2) == []
    (text,) = seen(0.05, 0.25, 0.25, 0.25, 0.2)
    assert 'of class 0 90% is not predicted' in text


def test_one_output_under_a_sigmoid():
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(num_classes=2, out_channels=1, threshold=0.3, loss_decode=loss)
    watch = host_of('mmseg').watch(build(head=head))
    logits = torch.full((1, 1, 4, 4), -0.5)  # 0.38
    logits[0, 0, 0] = -1.0  # 0.27
    assert watch.figures(logits).tolist() == [0.25, 0.75]


def test_what_is_no_batch_of_masks_is_let_be():
    watch = host_of('mmseg').watch(build())
    for batch in (None, [], dict(data_samples=dict(sup=[], unsup=[])), dict(inputs=0)):
        assert list(watch.symptoms([0.0] * 5, batch, {}, Limits())) == []
    assert host_of('mmseg').watch(torch.nn.Module()).module is None
