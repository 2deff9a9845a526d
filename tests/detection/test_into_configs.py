"""The configs that mmdet ships, with SparseFormer for a backbone and nothing else."""

import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.testing import demo_mm_inputs  # noqa: E402

from helpers.into_configs import build, load, load_snippet, shrink, train  # noqa: E402
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402

pytestmark = [pytest.mark.mmdet, pytest.mark.usefixtures('quiet')]

# Widths of the maps that the config's neck takes; the last one has stride 32.
RESNET, SWIN = (256, 512, 1024, 2048), (96, 192, 384, 768)
PREPROCESSOR = dict(
    data_preprocessor=dict(type='sparseformer_mm.detection.DetDataPreprocessor')
)
CASES = {
    'faster-rcnn_r50_fpn_1x_coco': RESNET,
    'mask-rcnn_r50_fpn_1x_coco': RESNET,
    'mask-rcnn_swin-t-p4-w7_fpn_1x_coco': SWIN,
    'cascade-mask-rcnn_r50_fpn_1x_coco': RESNET,
    'retinanet_r50_fpn_1x_coco': RESNET,
    'retinanet_swin-t-p4-w7_fpn_1x_coco': SWIN[1:],
    'fcos_r50-caffe_fpn_gn-head_1x_coco': RESNET,
    'atss_r50_fpn_1x_coco': RESNET,
    'gfl_r50_fpn_1x_coco': RESNET,
    'detr_r50_8xb2-150e_coco': RESNET[3:],
    'conditional-detr_r50_8xb2-50e_coco': RESNET[3:],
    'deformable-detr_r50_16xb2-50e_coco': RESNET[1:],
    'dino-4scale_r50_8xb2-12e_coco': RESNET[1:],
    'sparse-rcnn_r50_fpn_1x_coco': RESNET,
    'mask2former_r50_8xb2-lsj-50e_coco': RESNET,
    'mask2former_r50_8xb2-lsj-50e_coco-panoptic': RESNET,
    'rtmdet_tiny_8xb32-300e_coco': (96, 192, 384),
}


def load_case(name):
    if name == 'mask-rcnn_r50_fpn_1x_coco':
        return load_snippet('mmdet', name)
    widths = CASES[name]
    backbone = dict(
        out_type='maps',
        map_strides=(4, 8, 16, 32)[-len(widths) :],
        map_channels=widths,
    )
    return load(f'mmdet:{name}', backbone, **PREPROCESSOR)


@pytest.mark.parametrize('name', CASES)
def test_trains_and_predicts(name):
    cfg = load_case(name)
    shrink(cfg.model)
    if 'sparse' in name:  # six stages of nine million weights
        head = cfg.model.roi_head
        head.update(num_stages=1, stage_loss_weights=[1], bbox_head=head.bbox_head[:1])
    model = build(cfg)
    panoptic = 'panoptic' in name
    data = demo_mm_inputs(
        2,
        [(3, 64, 64), (3, 50, 62)],
        num_items=[2, 1],
        num_classes=2 if panoptic else 80,
        with_mask='mask' in name,
        with_semantic=panoptic,
    )
    train(cfg, model, data)
    model.eval()
    results = model.test_step(data)
    assert len(results) == 2
    for sample, (height, width) in zip(results, [(64, 64), (50, 62)]):
        found = sample.pred_instances
        assert found.bboxes.isfinite().all() and found.scores.isfinite().all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        if 'mask' in name and len(found):
            assert found.masks.shape[1:] == (height, width)
        if panoptic:
            assert sample.pred_panoptic_seg.sem_seg.shape[1:] == (height, width)


@pytest.mark.parametrize(
    'name, part',
    [
        (
            'retinanet_r50_fpn_1x_coco',
            r'FPN takes maps, .*, \[256, 512, 1024, 2048\] .Asser',
        ),
        ('detr_r50_8xb2-150e_coco', 'ChannelMapper takes maps, .* .RuntimeError'),
    ],
)
def test_without_maps_tools_name_the_cure(name, part):
    model = build(load(f'mmdet:{name}', dict(out_type='pooled')))
    data = demo_mm_inputs(1, [(3, 64, 64)], num_items=[1])
    with pytest.raises(SystemExit, match=part), explain_errors():
        model.test_step(data)


SHAPES = [(32, 64), (50, 62), (96, 70)]


@pytest.mark.usefixtures('float64')
@torch.no_grad()
def test_features_do_not_depend_on_padding():
    """Of Faster R-CNN, backbone and FPN, as far as each image reaches.

    (A neck whose biases have learned sees them in the padding, beside the last row and
    column of the image's own pixels: so it is with every backbone.)
    """
    model = build(load_case('faster-rcnn_r50_fpn_1x_coco')).double().eval()
    for param in model.backbone.parameters():
        param.add_(torch.randn_like(param) * 0.05)
    images = demo_mm_inputs(3, [(3, *shape) for shape in SHAPES])

    def features(indices, told=True):
        data = {key: [value[i] for i in indices] for key, value in images.items()}
        inputs = model.data_preprocessor(data)['inputs']
        return model.extract_feat(inputs if told else inputs.clone())

    for told in (True, False):
        together, differences = features([0, 1, 2], told), []
        for index, shape in enumerate(SHAPES):
            for level, alone in enumerate(features([index])[:4]):
                height, width = (-(-side // (4 * 2**level)) for side in shape)
                alone = alone[0, :, :height, :width]
                beside = together[level][index, :, :height, :width]
                difference = (beside - alone).abs().max() / alone.abs().max()
                differences.append(difference.item())
        if told:
            assert max(differences) < 1e-9
        else:
            assert min(differences[:8]) > 1e-2  # the third image is the largest
