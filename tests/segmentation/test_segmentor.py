"""The segmentor inside mmseg: padding, windows, flips, registry."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmseg.models import SegTTAModel  # noqa: E402

from helpers.fresh import succeed_fresh  # noqa: E402
from helpers.segmentor_standin import NANO, build, image, model_cfg, sample  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.usefixtures('float64')]
NORMALISE = dict(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False)


def pad(images, height, width, value=9.0):
    """A batch, and samples which tell the images' sizes."""
    batch = [
        F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1]), value=value)
        for x in images
    ]
    samples = [
        sample(
            x,
            pad_shape=(height, width),
            img_padding_size=(0, width - x.shape[2], 0, height - x.shape[1]),
        )
        for x in images
    ]
    return torch.stack(batch), samples


@torch.no_grad()
def logits_of(model, img):
    """Of an image by itself, in its own size."""
    return model(img[None], [sample(img)], mode='predict')[0].seg_logits.data


# Settings of the second paper's models, whose class token is in no mask.
BOOTSTRAPPED = dict(arch='bootstrapped-base', head_dims=8, **NANO)
BOOTSTRAPPED.pop('num_heads')


@pytest.mark.parametrize(
    'parts',
    [dict(), dict(head=dict(residual=True, num_heads=2)), dict(backbone=BOOTSTRAPPED)],
)
@torch.no_grad()
def test_images_do_not_see_their_padding(parts):
    """Sizes that are multiples of the stride: exact at full resolution."""
    model = build(**parts)
    images = [image(48, 64, 0), image(64, 40, 1), image(20, 100, 2)]
    alone = [logits_of(model, img) for img in images]
    batch, samples = pad(images, 72, 104)
    for img, expected, result in zip(
        images, alone, model(batch, samples, mode='predict')
    ):
        actual = result.seg_logits.data
        assert actual.shape == (5, *img.shape[1:])
        torch.testing.assert_close(actual, expected)
        same = result.pred_sem_seg.data[0] == expected.argmax(0)
        assert same.float().mean() > 0.999


@torch.no_grad()
def test_odd_sizes_do_not_see_their_padding():
    model = build()
    images = [image(45, 66, 0), image(63, 39, 1), image(7, 5, 2)]
    batch, samples = pad(images, 71, 101)
    logits = model(batch, samples)
    assert logits.shape == (3, 5, 18, 26)
    for img, actual in zip(images, logits):
        expected = model(img[None])[0]
        height, width = expected.shape[1:]
        assert (height, width) == tuple(-(-side // 4) for side in img.shape[1:])
        inside = actual[:, :height, :width]
        torch.testing.assert_close(inside, expected)
        # The edge is repeated beyond, for the interpolation that follows.
        edge = expected[:, -1:, -1:].expand(-1, 18 - height, 26 - width)
        torch.testing.assert_close(actual[:, height:, width:], edge)


def test_gradients_do_not_see_the_padding():
    model = build()
    img = image(48, 64)
    grads = []
    for height, width in ((48, 64), (72, 80)):
        model.zero_grad()
        batch, samples = pad([img], height, width)
        labels = F.pad(
            samples[0].gt_sem_seg.data, (0, width - 64, 0, height - 48), value=255
        )
        del samples[0].gt_sem_seg
        samples[0].set_data({'gt_sem_seg': sample(batch[0], labels[0]).gt_sem_seg})
        # The mean is over all pixels, ignored ones included.
        loss = model(batch, samples, mode='loss')['decode.loss_ce']
        (loss * height * width).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])


def test_padding_of_the_preprocessor_at_test_time():
    preprocessor = dict(
        type='SegDataPreProcessor', test_cfg=dict(size_divisor=32), **NORMALISE
    )
    model = build(data_preprocessor=preprocessor)
    images = [image(52, 44, seed) for seed in (0, 1)]
    data = dict(inputs=images, data_samples=[sample(img) for img in images])
    results = model.test_step(data)
    for img, result in zip(images, results):
        assert result.seg_logits.data.shape == (5, 52, 44)
        torch.testing.assert_close(result.seg_logits.data, logits_of(model, img))


def test_the_plain_encoder_decoder_takes_the_canvas_for_the_image():
    aware, plain = build(), build(kind='EncoderDecoder')
    assert aware.state_dict().keys() == plain.state_dict().keys()
    img = image(48, 64)
    torch.testing.assert_close(logits_of(plain, img), logits_of(aware, img))
    batch, samples = pad([img], 64, 80)
    with torch.no_grad():
        padded = plain(batch, samples, mode='predict')[0].seg_logits.data
    assert (padded - logits_of(plain, img)).abs().max() > 0.05


@pytest.mark.parametrize('size', [(1, 1), (3, 9), (31, 33), (65, 50)])
@torch.no_grad()
def test_any_size(size):
    model = build()
    result = model(image(*size)[None], [sample(image(*size))], mode='predict')[0]
    assert result.seg_logits.data.shape == (5, *size)
    assert result.seg_logits.data.isfinite().all()
    assert result.pred_sem_seg.data.shape == (1, *size)


@torch.no_grad()
def test_windows_are_images_of_their_own():
    img = image(48, 80)
    model = build(test_cfg=dict(mode='slide', crop_size=(48, 48), stride=(32, 32)))
    total, count = torch.zeros(5, 48, 80), torch.zeros(48, 80)
    whole = build()
    for left in (0, 32):
        window = img[:, :, left : left + 48]
        total[..., left : left + 48] += logits_of(whole, window)
        count[:, left : left + 48] += 1
    slid = logits_of(model, img)
    torch.testing.assert_close(slid, total / count)
    assert (slid - logits_of(whole, img)).abs().max() > 0.05
    # One window that holds the image is the image.
    model.test_cfg.crop_size = (96, 96)
    torch.testing.assert_close(logits_of(model, img), logits_of(whole, img))


def test_windows_of_a_padded_batch():
    preprocessor = dict(
        type='SegDataPreProcessor', test_cfg=dict(size_divisor=32), **NORMALISE
    )
    slide = dict(mode='slide', crop_size=(32, 32), stride=(32, 32))
    model = build(data_preprocessor=preprocessor, test_cfg=slide)
    img = image(60, 50)
    result = model.test_step(dict(inputs=[img], data_samples=[sample(img)]))[0]
    assert result.seg_logits.data.shape == (5, 60, 50)
    window = logits_of(build(), img[:, :32, :32])
    torch.testing.assert_close(result.seg_logits.data[:, :32, :32], window)


def test_time_augmentation_with_flips():
    module = build(data_preprocessor=dict(type='SegDataPreProcessor', **NORMALISE))
    model = SegTTAModel(module)
    img = image(48, 64)
    flips = dict(flip=True, flip_direction='horizontal')
    data = dict(
        inputs=[[img], [img.flip(2)]],
        data_samples=[
            [sample(img, flip=False, img_path='a')],
            [sample(img, img_path='a', **flips)],
        ],
    )
    merged = model.test_step(data)[0].pred_sem_seg.data
    one = logits_of(module, img).softmax(0)
    other = logits_of(module, img.flip(2)).flip(2).softmax(0)
    expected = (one + other).argmax(0)
    assert (merged.squeeze() == expected).float().mean() > 0.999
    assert (merged.squeeze() == one.argmax(0)).float().mean() < 0.999


def test_a_step_of_training_on_a_batch_of_different_images():
    preprocessor = dict(type='SegDataPreProcessor', size=(64, 80), **NORMALISE)
    model = build(data_preprocessor=preprocessor).train()
    images = [image(64, 72, 0), image(40, 80, 1)]
    samples = [sample(x, torch.full(x.shape[1:], 3)) for x in images]
    data = dict(inputs=images, data_samples=samples)
    data = model.data_preprocessor(data, training=True)
    assert data['inputs'].shape == (2, 3, 64, 80)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    torch.manual_seed(0)  # of dropout
    losses = []
    for _ in range(16):
        loss = model(**data, mode='loss')['decode.loss_ce']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_types_resolve_without_an_import_line():
    """In a new process, where nothing of this package was imported."""
    plain = model_cfg(kind='EncoderDecoder')
    code = f"""
        import sys
        import torch
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope
        cfg = Config(dict(default_scope='mmseg', model={plain!r}))
        init_default_scope(cfg.default_scope)
        assert not any(name.startswith('sparseformer_mm') for name in sys.modules)
        model = MODELS.build(cfg.model)
        assert type(model).__module__.startswith('mmseg'), type(model)
        assert model(torch.rand(1, 3, 32, 48)).shape == (1, 5, 8, 12)
        cfg.model.type = 'sparseformer_mm.segmentation.SparseFormerSegmentor'
        model = MODELS.build(cfg.model)
        assert isinstance(model, MODELS.get('mmseg.EncoderDecoder'))
    """
    succeed_fresh(code)


def test_config_is_not_changed():
    cfg = model_cfg()
    with DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(cfg)
        MODELS.build(cfg)
    assert cfg == model_cfg()
