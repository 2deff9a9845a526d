"""Every detection config: numbers, size, and one iteration on stand-in data of
the layout it asks for."""

import re
from pathlib import Path
from typing import Dict, NamedTuple, Optional

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.apis import DetInferencer  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import OptimWrapper, build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from helpers.coco_standin import make_coco  # noqa: E402
from helpers.pretrained_standin import (  # noqa: E402
    CORTEX_DIMS,
    DROP_PATH,
    PARAMS,
    assert_starts_from,
    backbone_params,
    save_classifier,
)
from helpers.shipped_configs import CONFIGS, assert_rates, loaders, scalar  # noqa: E402
from helpers.shipped_configs import load as load_config  # noqa: E402
from helpers.shipped_configs import shrink as shrink_config  # noqa: E402

pytestmark = pytest.mark.mmdet

CORTEX_DEPTH = {'tiny': 8, 'small': 8, 'base': 10}


class Recipe(NamedTuple):
    """What a config must say."""

    arch: str
    modern: bool
    epochs: int
    drop: int


RECIPES: Dict[str, Recipe] = {}
for _arch in PARAMS:
    _name = f'sparseformer-{_arch}-400tok'
    RECIPES[f'{_name}_8xb8-300e_coco'] = Recipe(_arch, False, 300, 200)
    RECIPES[f'{_name}-modern_8xb8-50e_coco'] = Recipe(_arch, True, 50, 40)
# Small models and their classes.
SMALL = {
    'sparseformer-nano-modern_1xb16_digits': 10,
    'sparseformer-nano_1xb16_digits': 10,
    'sparseformer-nano-modern_1xb8_bccd': 3,
    'retinanet-r18_1xb8_bccd': 3,
    'retinanet_sparseformer-nano_1xb8_bccd': 3,
}
PAPER = 'sparseformer-small-400tok_8xb8-300e_coco'
MODERN = 'sparseformer-small-400tok-modern_8xb8-50e_coco'


def load(name: str) -> Config:
    return load_config(f'detection/{name}')


def test_no_config_is_forgotten():
    files = {path.stem for path in (CONFIGS / 'detection').glob('*.py')}
    # Those on maps are in test_map_configs.py.
    maps = {name for name in files - SMALL.keys() if re.match('.*_sparse', name)}
    assert files - maps == RECIPES.keys() | SMALL.keys()


@pytest.mark.parametrize('name', RECIPES)
def test_schedule_is_detrs(name):
    recipe, cfg = RECIPES[name], load(name)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1)
    assert cfg.train_cfg.max_epochs == recipe.epochs
    scheduler = cfg.param_scheduler
    assert (scheduler.type, scheduler.gamma) == ('MultiStepLR', 0.1)
    assert scheduler.milestones == [recipe.drop]
    assert cfg.auto_scale_lr.base_batch_size == 64


@pytest.mark.parametrize('name', RECIPES)
def test_augmentation_is_detrs(name):
    cfg = load(name)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomFlip'].prob == 0.5
    choice = steps['RandomChoice']
    assert 'prob' not in choice  # even odds
    (resize,), (shrink, crop, again) = choice.transforms
    short, long = zip(*resize.scales)
    assert short == tuple(range(480, 801, 32))
    assert set(long) == {1333}
    assert again == resize
    assert [scale[0] for scale in shrink.scales] == [400, 500, 600]
    assert (crop.crop_type, crop.crop_size) == ('absolute_range', (384, 600))
    for loader in loaders(cfg)[1:]:
        test = {step.type: step for step in loader.dataset.pipeline}
        assert test['Resize'] == dict(type='Resize', scale=(1333, 800), keep_ratio=True)


@pytest.mark.parametrize('name', RECIPES)
def test_model_settings(name):
    recipe, cfg = RECIPES[name], load(name)
    width, depth = CORTEX_DIMS[recipe.arch], CORTEX_DEPTH[recipe.arch]
    backbone, head = cfg.model.backbone, cfg.model.bbox_head
    assert backbone.arch == recipe.arch
    assert (backbone.num_tokens, backbone.roi_init) == (400, 'random')
    assert backbone.drop_path_rate == DROP_PATH[recipe.arch]
    assert backbone.init_cfg.type == 'Pretrained'
    assert backbone.init_cfg.checkpoint == (
        f'checkpoints/sparseformer-{recipe.arch}_in1k.pth'
    )
    assert (head.num_classes, head.num_queries) == (80, 100)
    assert head.embed_dims == width
    assert head.loss_bbox == dict(type='L1Loss', loss_weight=5.0)
    assert head.loss_iou == dict(type='GIoULoss', loss_weight=2.0)
    costs = {cost.type: cost for cost in cfg.model.train_cfg.assigner.match_costs}
    assert costs.pop('BBoxL1Cost').weight == 5.0
    assert costs.pop('IoUCost') == dict(type='IoUCost', iou_mode='giou', weight=2.0)
    assert cfg.model.data_preprocessor.pad_size_divisor == 1
    if recipe.modern:
        assert head.loss_cls == dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0
        )
        assert costs == dict(FocalLossCost=dict(type='FocalLossCost', weight=2.0))
        assert head.refine_boxes
        assert head.num_levels == depth
        assert list(backbone.out_indices) == list(range(depth))
    else:
        assert head.loss_cls.type == 'CrossEntropyLoss'
        assert (head.loss_cls.use_sigmoid, head.loss_cls.bg_cls_weight) == (False, 0.1)
        assert costs == dict(
            ClassificationCost=dict(type='ClassificationCost', weight=1.0)
        )
        assert 'num_levels' not in head and 'refine_boxes' not in head
        assert 'out_indices' not in backbone


@pytest.mark.parametrize('name', RECIPES)
def test_full_size_model(name, quiet):
    """Parameters, outputs and each parameter's share of lr and decay."""
    recipe, cfg = RECIPES[name], load(name)
    width, depth = CORTEX_DIMS[recipe.arch], CORTEX_DEPTH[recipe.arch]
    levels = depth if recipe.modern else 1
    classes = 80 if recipe.modern else 81
    # Names and shapes are enough: no time and memory for the numbers.
    with FakeTensorMode():
        model = MODELS.build(cfg.model).eval()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        scores, boxes = model(torch.zeros(2, 3, 64, 96), mode='tensor')
    assert scores.shape == (levels, 2, 100, classes)
    assert boxes.shape == (levels, 2, 100, 4)

    expected = backbone_params(recipe.arch, 400)
    expected += (width + 1) * classes + (width + 1) * width + (width + 1) * 4
    assert sum(value.numel() for value in model.parameters()) == expected
    assert_rates(
        model,
        wrapper.optimizer,
        lambda key: 1e-5 if key.startswith('backbone.') else 1e-4,
        1e-4,
    )


def shrink(cfg: Config, folder: Path, checkpoint: Optional[Path] = None) -> Config:
    """The config on a small model and small images, made here; no GPU."""
    root = make_coco(folder / 'data')
    shrink_config(cfg, folder, 'bbox_head', 'embed_dims')
    for loader in loaders(cfg):
        loader.batch_size = 4
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / 'annotations' / 'instances_val2017.json')
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    (resize,), (shorten, crop, again) = steps['RandomChoice'].transforms
    resize.scales = again.scales = [(48, 133), (80, 133)]
    shorten.scales = [(60, 420)]
    crop.crop_size = (38, 60)
    for loader in loaders(cfg)[1:]:
        test = {step.type: step for step in loader.dataset.pipeline}
        test['Resize'].scale = (133, 80)
    if checkpoint:
        cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
    else:
        cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.parametrize('name', [PAPER, MODERN])
def test_trains_from_a_classifier_and_validates(name, tmp_path):
    cfg = load(name)
    state = save_classifier(cfg, tmp_path / 'classifier.pth')
    runner = Runner.from_cfg(shrink(cfg, tmp_path, tmp_path / 'classifier.pth'))
    assert_starts_from(state, runner.model)

    runner.train()
    assert runner.iter == 1
    for key in ('loss', 'loss_cls', 'loss_bbox', 'loss_iou'):
        loss = scalar(runner, f'train/{key}')
        assert np.isfinite(loss) and loss > 0, key
    levels = [k for k in runner.message_hub.log_scalars if k.endswith('.loss_cls')]
    assert len(levels) == (7 if name == MODERN else 0)
    assert 0 <= scalar(runner, 'val/coco/bbox_mAP') <= 1


def test_perfect_detections_have_ap_1(tmp_path, monkeypatch):
    """Validation compares in the original image, with COCO's own class numbers."""
    cfg = shrink(load(PAPER), tmp_path)
    # mmengine's best checkpoint is known to a training only.
    cfg.default_hooks.checkpoint.save_best = None
    runner = Runner.from_cfg(cfg)
    head = runner.model.bbox_head
    sizes = []

    def perfect(outputs, samples, rescale=True):
        scores = torch.full((1, len(samples), 100, 81), -9.0)
        scores[..., -1] = 0
        boxes = torch.full((1, len(samples), 100, 4), 0.5)
        for i, sample in enumerate(samples):
            height, width = sample.ori_shape
            truth = sample.gt_instances
            x1, y1, x2, y2 = truth.bboxes.unbind(1)
            centerd = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
            extents = [(x2 - x1) / width, (y2 - y1) / height]
            boxes[0, i, : len(truth)] = torch.stack(centerd + extents, 1)
            scores[0, i, range(len(truth)), truth.labels] = 9.0
            sizes.append((sample.ori_shape, sample.img_shape))
        metas = [sample.metainfo for sample in samples]
        return head.predict_by_feat(scores, boxes, metas, rescale)

    monkeypatch.setattr(head, 'predict', perfect)
    metrics = runner.val()
    assert all(original != resized for original, resized in sizes[:2]), sizes
    assert metrics['coco/bbox_mAP'] == 1.0
    assert metrics['coco/bbox_mAP_50'] == 1.0


def test_inferencer_draws_a_picture(tmp_path):
    cfg = shrink(load(MODERN), tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    runner.save_checkpoint(
        str(tmp_path),
        'detector.pth',
        save_optimizer=False,
        save_param_scheduler=False,
    )
    cfg.dump(str(tmp_path / 'detector.py'))

    inferencer = DetInferencer(
        str(tmp_path / 'detector.py'),
        str(tmp_path / 'detector.pth'),
        device='cpu',
        show_progress=False,
    )
    pictures = sorted((tmp_path / 'data' / 'val2017').iterdir())[:2]
    results = inferencer(
        [str(path) for path in pictures],
        batch_size=2,
        pred_score_thr=0.0,
        out_dir=str(tmp_path / 'out'),
        no_save_pred=False,
    )
    for path, found, (height, width) in zip(
        pictures, results['predictions'], ((72, 120), (110, 64))
    ):
        assert len(found['scores']) == 100
        assert found['scores'] == sorted(found['scores'], reverse=True)
        boxes = np.array(found['bboxes'])
        assert (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width + 1e-3).all()
        assert (boxes[:, 1::2] <= height + 1e-3).all()
        # As the boxes start: token RoIs of half the image, cut at its edges.
        assert np.quantile(boxes[:, 2] - boxes[:, 0], 0.9) == pytest.approx(
            width / 2, rel=0.05
        )
        drawn = tmp_path / 'out' / 'vis' / path.name
        assert drawn.read_bytes() != path.read_bytes()
        assert (tmp_path / 'out' / 'preds' / f'{path.stem}.json').is_file()
    assert inferencer.model.dataset_meta['classes'][0] == 'person'
    assert (
        inferencer.model.backbone.latent.token_rois
        == runner.model.backbone.latent.token_rois
    ).all()
    # Missing weights leave a missing file, never an untrained model.
    with pytest.raises(FileNotFoundError):
        DetInferencer(
            str(tmp_path / 'detector.py'), str(tmp_path / 'none.pth'), device='cpu'
        )


def test_a_missing_classifier_stops_training(tmp_path):
    missing = tmp_path / 'sparseformer-small_in1k.pth'
    runner = Runner.from_cfg(shrink(load(PAPER), tmp_path, missing))
    with pytest.raises(FileNotFoundError, match='sparseformer-small_in1k.pth'):
        runner.train()


@pytest.mark.parametrize('name', SMALL)
def test_small_configs(name, quiet):
    """Classes agree across the files, and the model learns from a batch."""
    classes, cfg = SMALL[name], load(name)
    for loader in loaders(cfg):
        assert len(loader.dataset.metainfo.classes) == classes
    assert cfg.model.bbox_head.num_classes == classes
    warmup, decay = cfg.param_scheduler
    assert warmup.end == decay.begin and decay.end == cfg.train_cfg.max_epochs
    assert cfg.sync_bn == 'torch'  # maps may have batch norms
    model = MODELS.build(cfg.model)
    model.init_weights()
    if cfg.model.backbone.get('out_type') == 'tokens':
        assert cfg.model.bbox_head.num_queries == cfg.model.backbone.num_tokens
        if 'modern' in name:  # every block looks, and boxes start from where
            assert cfg.model.backbone.cortex_looks == cfg.model.bbox_head.num_levels
            assert not cfg.model.bbox_head.refine_boxes
    data = demo_mm_inputs(2, [[3, 96, 128], [3, 96, 128]], num_classes=classes)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        losses.append(model.train_step(data, OptimWrapper(optimizer))['loss'].item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
