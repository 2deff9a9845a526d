"""Small segmentors and samples."""

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import sparseformer_mm.segmentation  # noqa: F401

NANO = dict(
    num_tokens=9,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=32,
    cortex_depth=2,
    num_heads=4,
    feat_channels=8,
)
HEAD = dict(
    type='sparseformer_mm.segmentation.LocationAwareHead',
    in_channels=32,
    feat_channels=8,
    channels=12,
    num_classes=5,
)


def model_cfg(
    kind='sparseformer_mm.segmentation.SparseFormerSegmentor', **kwargs
) -> dict:
    backbone = dict(type='sparseformer_mm.SparseFormer', arch=NANO, out_type='tokens')
    backbone.update(kwargs.pop('backbone', {}))
    head = dict(HEAD, **kwargs.pop('head', {}))
    cfg = dict(type=kind, backbone=backbone, decode_head=head)
    return dict(cfg, test_cfg=kwargs.pop('test_cfg', dict(mode='whole')), **kwargs)


def build(**kwargs):
    """A segmentor with random weights and statistics, in evaluation mode."""
    with DefaultScope.overwrite_default_scope('mmseg'), torch.random.fork_rng():
        torch.manual_seed(4)  # each class somewhere
        model = MODELS.build(ConfigDict(model_cfg(**kwargs)))
        with torch.no_grad():
            for name, x in model.named_parameters():
                if not name.endswith('token_rois'):
                    x += 0.1 * torch.randn(x.shape)
            for name, x in model.named_buffers():
                if 'running' in name:
                    x += torch.rand(x.shape)
    return model.eval()


def image(height, width, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def sample(img, labels=None, **meta) -> SegDataSample:
    """The data sample of an image (3, H, W), with a mask (H, W) or a random one."""
    shape = tuple(img.shape[-2:])
    if labels is None:
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(5, shape, generator=generator)
    result = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, **meta))
    result.gt_sem_seg = PixelData(data=labels[None])
    return result


def tokens_of(model, img):
    with torch.no_grad():
        return model.backbone(img[None])
