"""The configs that mmseg ships, with SparseFormer for a backbone and nothing else."""

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from helpers.into_configs import (  # noqa: E402
    SMALL,
    build,
    load,
    load_snippet,
    shrink,
    train,
)
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.usefixtures('quiet')]

# Strides and widths of the maps that the config's heads take.
RESNET = (4, 8, 16, 32), (256, 512, 1024, 2048)
DILATED = (4, 8, 8, 8), (256, 512, 1024, 2048)
SWIN = (4, 8, 16, 32), (96, 192, 384, 768)
CASES = {
    'upernet_r50_4xb2-40k_cityscapes-512x1024': RESNET,
    'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512': SWIN,
    'fcn_r50-d8_4xb2-40k_cityscapes-512x1024': DILATED,
    'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024': DILATED,
    'deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024': DILATED,
    'segformer_mit-b0_8xb2-160k_ade20k-512x512': ((4, 8, 16, 32), (32, 64, 160, 256)),
    'mask2former_r50_8xb2-90k_cityscapes-512x1024': RESNET,
    'ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024': DILATED,
    'ocrnet_hr18_4xb2-40k_cityscapes-512x1024': ((4, 8, 16, 32), (18, 36, 72, 144)),
    'fpn_r50_4xb2-80k_cityscapes-512x1024': RESNET,
}
SIZES = [(64, 64), (50, 64)]


def load_case(name):
    if name == 'upernet_r50_4xb2-40k_cityscapes-512x1024':
        return load_snippet('mmseg', name)
    strides, widths = CASES[name]
    backbone = dict(out_type='maps', map_strides=strides, map_channels=widths)
    preprocessor = dict(type='sparseformer_mm.segmentation.SegDataPreProcessor')
    return load(
        f'mmseg:{name}', backbone, pretrained=None, data_preprocessor=preprocessor
    )


def make_data():
    generator = torch.Generator().manual_seed(0)

    def draw(high, *shape):
        return torch.randint(high, shape, generator=generator)

    return dict(
        inputs=[draw(256, 3, *size).byte() for size in SIZES],
        data_samples=[
            SegDataSample(
                gt_sem_seg=PixelData(data=draw(19, 1, *size)),
                metainfo=dict(img_shape=size, ori_shape=size),
            )
            for size in SIZES
        ],
    )


@pytest.mark.parametrize('name', CASES)
def test_trains_and_predicts(name):
    cfg = load_case(name)
    shrink(cfg.model, dict(SMALL, channels=64))
    model, data = build(cfg), make_data()
    train(cfg, model, data)
    model.eval()
    for index, size in enumerate(SIZES):
        one = {key: [value[index]] for key, value in data.items()}
        (result,) = model.test_step(one)
        logits = result.seg_logits.data
        assert logits.shape == (model.num_classes, *size)
        assert logits.isfinite().all() and logits.std() > 0
        assert torch.equal(result.pred_sem_seg.data[0], logits.argmax(0))


@pytest.mark.parametrize('kind', ['pooled', 'tokens'])
def test_without_maps_tools_name_the_cure(kind):
    name, backbone = (
        'mmseg:upernet_r50_4xb2-40k_cityscapes-512x1024',
        dict(out_type=kind),
    )
    cfg = load(name, backbone, pretrained=None)
    shrink(cfg.model, dict(SMALL, channels=64))
    model, data = build(cfg), make_data()
    said = rf"UPerHead takes maps, and out_type='{kind}' .*, \[256, 512, 1024, 2048\]"
    with pytest.raises(SystemExit, match=said), explain_errors():
        model.test_step({key: value[:1] for key, value in data.items()})


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize(
    'name',
    [
        'upernet_r50_4xb2-40k_cityscapes-512x1024',
        'fpn_r50_4xb2-80k_cityscapes-512x1024',  # with its neck
    ],
)
@torch.no_grad()
def test_features_do_not_depend_on_padding(name):
    """What heads get. (UPerNet's own pooling averages over the padding, too.)"""
    cfg = load_case(name)
    shrink(cfg.model, dict(SMALL, channels=64))
    cfg.model.data_preprocessor.update(size=None, size_divisor=32)
    model = build(cfg).double().eval()
    for param in model.backbone.parameters():
        param.add_(torch.randn_like(param) * 0.05)
    shapes = [(32, 64), (64, 96)]
    images = [torch.randint(256, (3, *shape)).byte() for shape in shapes]

    def features(indices, told=True):
        samples = [SegDataSample(metainfo=dict(img_shape=shapes[i])) for i in indices]
        data = dict(inputs=[images[i] for i in indices], data_samples=samples)
        inputs = model.data_preprocessor(data, True)['inputs']
        return model.extract_feat(inputs if told else inputs.clone())

    for told in (True, False):
        differences = []
        for alone, beside in zip(features([0]), features([0, 1], told)):
            height, width = alone.shape[2:]
            beside = beside[:1, :, :height, :width]
            difference = (beside - alone).abs().max() / alone.abs().max()
            differences.append(difference.item())
        if told:
            assert max(differences) < 1e-9
        else:
            assert min(differences) > 1e-2
