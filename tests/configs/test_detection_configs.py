"""Every detection config: numbers, size, and one iteration on stand-in data of
the layout it asks for."""

from pathlib import Path
from typing import Dict, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.apis import DetInferencer  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import OptimWrapper, build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from helpers.coco_standin import make_coco  # noqa: E402
from helpers.pretrained_standin import (  # noqa: E402
    CORTEX_DIMS,
    DROP_PATH,
    FOCUSING_DIMS,
    PARAMS,
    TOKENS,
    listen,
    save_classifier,
)

pytestmark = pytest.mark.mmdet
CONFIGS = Path(__file__).parents[2] / 'configs' / 'detection'

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
# Small models: file -> classes and batch.
SMALL = {
    'sparseformer-nano-modern_1xb16_digits': (10, 16),
    'sparseformer-nano_1xb16_digits': (10, 16),
    'sparseformer-nano-modern_1xb8_bccd': (3, 8),
    'retinanet-r18_1xb8_bccd': (3, 8),
}
PAPER = 'sparseformer-small-400tok_8xb8-300e_coco'
MODERN = 'sparseformer-small-400tok-modern_8xb8-50e_coco'


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def test_no_config_is_forgotten():
    files = {path.stem for path in CONFIGS.glob('*.py')}
    assert files == RECIPES.keys() | SMALL.keys()


@pytest.mark.parametrize('name', [*RECIPES, *SMALL])
def test_every_config_is_listed_in_the_readme(name):
    assert f'({name}.py)' in (CONFIGS / 'README.md').read_text('utf-8')


@pytest.mark.parametrize('name', RECIPES)
def test_schedule_is_detrs(name):
    recipe, cfg = RECIPES[name], load(name)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1)
    assert cfg.train_cfg.max_epochs == recipe.epochs
    scheduler = cfg.param_scheduler
    assert (scheduler.type, scheduler.gamma) == ('MultiStepLR', 0.1)
    assert scheduler.milestones == [recipe.drop]
    # The name says GPUs and batch per GPU, and the learning rate is for them.
    assert '_8xb8-' in name
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.auto_scale_lr.base_batch_size == 64


@pytest.mark.parametrize('name', [*RECIPES, *SMALL])
def test_runtime(name):
    cfg = load(name)
    assert cfg.default_scope == 'mmdet'
    assert 'custom_imports' not in cfg
    hooks = [hook.type for hook in cfg.default_hooks.values()]
    assert 'sparseformer_mm.LossScaleHook' in hooks
    assert 'sparseformer_mm.ConvertCheckpointHook' in hooks
    assert 'sparseformer_mm.detection.CheckDatasetHook' in hooks
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    assert cfg.visualizer.type == 'DetLocalVisualizer'


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
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
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
    with DefaultScope.overwrite_default_scope('mmdet'), FakeTensorMode():
        model = MODELS.build(cfg.model).eval()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        scores, boxes = model(torch.zeros(2, 3, 64, 96), mode='tensor')
    assert scores.shape == (levels, 2, 100, classes)
    assert boxes.shape == (levels, 2, 100, 4)

    expected = PARAMS[recipe.arch] - 1000 * (width + 1)  # no classifier
    # An embedding and a box for each token more, then the head.
    expected += (400 - TOKENS[recipe.arch]) * (FOCUSING_DIMS[recipe.arch] + 4)
    expected += (width + 1) * classes + (width + 1) * width + (width + 1) * 4
    names = dict(model.named_parameters())
    assert sum(value.numel() for value in names.values()) == expected

    groups = {
        id(parameter): group
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert len(groups) == len(names)  # each once, none left out
    for key, value in names.items():
        group = groups[id(value)]
        lr = 1e-5 if key.startswith('backbone.') else 1e-4
        assert group['lr'] == pytest.approx(lr, rel=1e-6), key
        bare = value.ndim == 1 or key.endswith(('bias', 'token_rois'))
        assert group['weight_decay'] == (0 if bare else 1e-4), key


def shrink(cfg: Config, root: Path, checkpoint: Path) -> Config:
    """The config on a small model, small images, ``root``'s data, no GPU."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        loader.dataset.data_root = str(root)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / 'annotations' / 'instances_val2017.json')
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    (resize,), (shorten, crop, again) = steps['RandomChoice'].transforms
    resize.scales = again.scales = [(48, 133), (80, 133)]
    shorten.scales = [(60, 420)]
    crop.crop_size = (38, 60)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        test = {step.type: step for step in loader.dataset.pipeline}
        test['Resize'].scale = (133, 80)
    # Tokens and blocks stay; widths, heads and repeats would take long.
    cfg.model.backbone.update(
        focusing_repeats=1, focusing_dims=64, cortex_dims=64, num_heads=4
    )
    cfg.model.bbox_head.embed_dims = 64
    cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
    cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.randomness.seed = 0
    cfg.work_dir = str(root.parent / 'work_dir')
    cfg.experiment_name = f'{cfg.filename}-{root}'.replace('/', '-')
    return cfg


@pytest.mark.parametrize('name', [PAPER, MODERN])
def test_trains_from_a_classifier_and_validates(name, tmp_path):
    cfg = load(name)
    root = make_coco(tmp_path / 'data')
    state = save_classifier(cfg, tmp_path / 'classifier.pth')
    runner = Runner.from_cfg(shrink(cfg, root, tmp_path / 'classifier.pth'))
    lines = listen()
    runner.model.init_weights()

    # Everything of the classifier, but for its tokens.
    loaded = runner.model.state_dict()
    backbone = {key for key in state if key.startswith('backbone.')}
    embeddings = loaded['backbone.latent.token_embeddings']
    rois = loaded['backbone.latent.token_rois']
    for key in backbone - {
        'backbone.latent.token_embeddings',
        'backbone.latent.token_rois',
    }:
        assert torch.equal(loaded[key], state[key]), key
    (report,) = {line for line in lines if line.startswith('SparseFormer: ')}
    assert f'{len(backbone) - 2}/{len(backbone)} tensors loaded' in report
    assert report.endswith(
        '400 tokens here, 64 in the checkpoint; '
        're-initialised: latent.token_embeddings, latent.token_rois'
    )
    # Embeddings from the normal distribution, centers uniform, sizes one half.
    assert embeddings.shape == (400, 64)
    assert abs(embeddings.mean()) < 0.03
    assert 0.86 < embeddings.std() < 0.9  # cut at two deviations
    assert (rois[:, 2:] == 0.5).all()
    for axis in (0, 1):
        counts = torch.histc(rois[:, axis], 4, 0, 1)
        assert counts.sum() == 400 and counts.min() > 70, counts

    runner.train()
    assert runner.iter == 1
    losses = {
        key: runner.message_hub.get_scalar(f'train/{key}').current()
        for key in ('loss', 'loss_cls', 'loss_bbox', 'loss_iou')
    }
    assert all(np.isfinite(value) and value > 0 for value in losses.values()), losses
    levels = [k for k in runner.message_hub.log_scalars if k.endswith('.loss_cls')]
    assert len(levels) == (7 if name == MODERN else 0)
    ap = runner.message_hub.get_scalar('val/coco/bbox_mAP').current()
    assert 0 <= ap <= 1


def test_perfect_detections_have_ap_1(tmp_path, monkeypatch):
    """Validation compares in the original image, with COCO's own class numbers."""
    cfg = load(PAPER)
    root = make_coco(tmp_path / 'data')
    cfg = shrink(cfg, root, tmp_path / 'none.pth')
    cfg.model.backbone.init_cfg = None
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
    cfg = load(MODERN)
    root = make_coco(tmp_path / 'data')
    cfg = shrink(cfg, root, tmp_path / 'none.pth')
    cfg.model.backbone.init_cfg = None
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
    pictures = sorted((root / 'val2017').iterdir())[:2]
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
    cfg = load(PAPER)
    root = make_coco(tmp_path / 'data')
    missing = tmp_path / 'sparseformer-small_in1k.pth'
    runner = Runner.from_cfg(shrink(cfg, root, missing))
    with pytest.raises(FileNotFoundError, match='sparseformer-small_in1k.pth'):
        runner.train()


@pytest.mark.parametrize('name', SMALL)
def test_small_configs(name, quiet):
    """Classes and batch agree across the files, and the model learns from a batch."""
    classes, batch = SMALL[name]
    cfg = load(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert len(loader.dataset.metainfo.classes) == classes
    assert cfg.model.bbox_head.num_classes == classes
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    assert f'_1xb{batch}_' in name
    warmup, decay = cfg.param_scheduler
    assert warmup.end == decay.begin and decay.end == cfg.train_cfg.max_epochs
    register_all_modules()
    model = MODELS.build(cfg.model)
    model.init_weights()
    if 'sparseformer' in name:
        assert cfg.model.bbox_head.num_queries == cfg.model.backbone.num_tokens
    data = demo_mm_inputs(2, [[3, 96, 128], [3, 96, 128]], num_classes=classes)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        losses.append(model.train_step(data, OptimWrapper(optimizer))['loss'].item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
