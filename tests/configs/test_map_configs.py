"""The libraries' dense models on maps from tokens: theirs but for the backbone."""

from typing import Dict, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.coco_standin import make_coco
from helpers.pretrained_standin import DROP_PATH, assert_starts_from, save_classifier
from helpers.segmentation_data_standin import make_ade
from helpers.shipped_configs import (
    CONFIGS,
    assert_rates,
    load,
    loaders,
    scalar,
    shrink,
)
from sparseformer_mm.utils.configs import find_config


class Recipe(NamedTuple):
    """What a config must say.

    Attributes:
        task: its folder.
        end: of its name.
        theirs: config of the library with the same model on another backbone.
        also: settings of the model that differ from there, besides the backbone.
        scores: what a validation gives.
    """

    task: str
    end: str
    theirs: str
    also: tuple
    scores: tuple


BOX, MASK = 'coco/bbox_mAP', 'coco/segm_mAP'
RECIPES: Dict[str, Recipe] = {
    'mask-rcnn_sparseformer-{}-256tok_fpn': Recipe(
        'detection',
        '8xb2-1x_coco',
        'mmdet:mask-rcnn_swin-t-p4-w7_fpn_1x_coco',
        (),
        (BOX, MASK),
    ),
    'retinanet_sparseformer-{}-256tok_fpn': Recipe(
        'detection',
        '8xb2-1x_coco',
        'mmdet:retinanet_r50_fpn_1x_coco',
        # Its first map is not made in vain.
        ('neck.in_channels', 'neck.start_level'),
        (BOX,),
    ),
    'sparseformer-{}-256tok_upernet': Recipe(
        'segmentation',
        '8xb2-160k_ade20k-512x512',
        'mmseg:swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
        (),
        ('mIoU',),
    ),
    'sparseformer-{}-256tok_fpn': Recipe(
        'segmentation',
        '8xb2-160k_ade20k-512x512',
        'mmseg:fpn_r50_4xb4-160k_ade20k-512x512',
        ('neck.in_channels',),
        ('mIoU',),
    ),
}
LIBRARY = dict(detection='mmdet', segmentation='mmseg')
SHARED_BN = dict(SyncBN='BN')  # by the runtime's sync_bn
every_family = pytest.mark.parametrize('family', RECIPES)
every_size = pytest.mark.parametrize('arch', ['tiny', 'small'])


def load_full(family: str, arch: str) -> Config:
    """A full-size config; its library's scope is entered by the fixture below."""
    recipe = RECIPES[family]
    pytest.importorskip(LIBRARY[recipe.task])
    return load(f'{recipe.task}/{family.format(arch)}_{recipe.end}')


@pytest.fixture(autouse=True)
def scope(request):
    family = getattr(request.node, 'callspec', None)
    task = RECIPES[family.params['family']].task if family else 'detection'
    with DefaultScope.overwrite_default_scope(LIBRARY[task]):
        yield


def flatten(settings: dict, prefix: str = '') -> dict:
    """'a.b' -> value, of nested settings; lists and tuples are the same."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f'{prefix}{key}.'))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


@every_family
def test_all_but_the_backbone_is_the_librarys(family):
    recipe, cfg = RECIPES[family], load_full(family, 'tiny')
    theirs = Config.fromfile(find_config(recipe.theirs)).model
    ours, theirs = flatten(cfg.model), flatten(theirs)
    differing = set()
    for key in ours.keys() | theirs.keys():
        if key.startswith(('backbone.', 'pretrained')):
            continue
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(other, str):
            other = SHARED_BN.get(other, other)
        if mine != other:
            differing.add(key)
    assert differing == {'data_preprocessor.type', *recipe.also}
    prefix, _, name = cfg.model.data_preprocessor.type.rpartition('.')
    assert prefix == f'sparseformer_mm.{recipe.task}'
    assert name == theirs['data_preprocessor.type']


@every_family
@every_size
def test_backbone(family, arch):
    backbone = load_full(family, arch).model.backbone
    assert (backbone.type, backbone.arch) == ('sparseformer_mm.SparseFormer', arch)
    assert (backbone.num_tokens, backbone.roi_init) == (256, 'random')
    assert backbone.drop_path_rate == DROP_PATH[arch]
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'checkpoints/sparseformer-{arch}_in1k.pth'
    )
    # Swin-T's widths.
    strides, widths = zip((4, 96), (8, 192), (16, 384), (32, 768))
    skipped = 1 if 'retinanet' in family else 0
    assert backbone.out_type == 'maps'
    assert tuple(backbone.map_strides) == strides[skipped:]
    assert tuple(backbone.map_channels) == widths[skipped:]


@every_family
def test_learning_rates(family, quiet):
    """1e-4 of Swin in mmdet, 6e-5 in mmseg; no decay of norms, biases and RoIs."""
    recipe, cfg = RECIPES[family], load_full(family, 'tiny')
    assert cfg.optim_wrapper.clip_grad is None
    with FakeTensorMode():
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rate, decay = (1e-4, 0.05) if recipe.task == 'detection' else (6e-5, 0.01)
    assert_rates(model, wrapper.optimizer, lambda key: rate, decay)
    if recipe.task == 'detection':
        warmup, steps = cfg.param_scheduler
        assert (warmup.end, warmup.by_epoch) == (1000, False)
        assert steps.milestones == [8, 11] and cfg.train_cfg.max_epochs == 12


def narrow(settings: dict) -> None:
    """Heads and necks of a sixteenth of their widths, in place."""
    for key, value in settings.items():
        if isinstance(value, dict):
            narrow(value)
        elif key.endswith('channels') and value not in (1, 2, 3):
            small = [x // 16 for x in value] if isinstance(value, list) else value // 16
            settings[key] = small


# The other two have the same data, and their models are trained from the configs of
# their libraries in test_into_configs.py.
@pytest.mark.parametrize('family', [list(RECIPES)[0], list(RECIPES)[-1]])
def test_trains_from_a_classifier_and_validates(family, tmp_path):
    recipe, cfg = RECIPES[family], load_full(family, 'tiny')
    state = save_classifier(cfg, tmp_path / 'classifier.pth')
    folder = tmp_path / 'data'
    widths = [width // 16 for width in cfg.model.backbone.map_channels]
    shrink(cfg, tmp_path, map_channels=widths)
    for part, settings in cfg.model.items():
        if isinstance(settings, dict) and part != 'backbone':
            narrow(settings)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'classifier.pth')
    if recipe.task == 'detection':
        make_coco(folder)
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = str(folder / 'annotations/instances_val2017.json')
        scale = (133, 80)
        test_cfg = cfg.model.test_cfg
        if 'rpn' in test_cfg:
            test_cfg.rpn.max_per_img = 20
        test_cfg.get('rcnn', test_cfg).score_thr = 0  # or nothing is found
    else:
        make_ade(folder)
        cfg.model.data_preprocessor.size = (64, 64)
        cfg.train_dataloader.dataset.pipeline[3].crop_size = (64, 64)
        scale = (96, 64)
    for loader in loaders(cfg):
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step.scale = scale
    runner = Runner.from_cfg(cfg)
    maps = {k for k in runner.model.backbone.state_dict() if k.startswith('map_')}
    assert maps
    assert_starts_from(state, runner.model)
    runner.train()
    losses = [k for k in runner.message_hub.log_scalars if 'loss' in k]
    assert len(losses) >= 2
    for key in losses:
        assert np.isfinite(scalar(runner, key)), key
    for score in recipe.scores:
        assert 0 <= scalar(runner, f'val/{score}') <= 100


def test_no_config_on_maps_is_forgotten():
    found = {
        path.stem
        for task in LIBRARY
        for path in (CONFIGS / task).glob('*.py')
        if path.stem.endswith(tuple(recipe.end for recipe in RECIPES.values()))
        if load(path).model.backbone.get('out_type') == 'maps'
    }
    assert found == {
        f'{family.format(arch)}_{recipe.end}'
        for family, recipe in RECIPES.items()
        for arch in ('tiny', 'small')
    }


@pytest.mark.mmdet
def test_digits_with_masks(quiet):
    """The model learns boxes and masks of a batch."""
    pytest.importorskip('mmdet')
    from mmdet.testing import demo_mm_inputs

    cfg = load('detection/mask-rcnn_sparseformer-nano_1xb16_digits')
    heads = cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head
    assert [head.num_classes for head in heads] == [10, 10]
    for loader in loaders(cfg):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps['LoadAnnotations'].with_mask
        assert steps['Resize'].scale == (192, 192)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    shapes = [[3, 96, 96], [3, 96, 64]]
    data = demo_mm_inputs(2, shapes, num_classes=10, with_mask=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        losses.append(model.train_step(data, OptimWrapper(optimizer)))
    for key in ('loss', 'loss_mask'):
        assert losses[-1][key] < 0.9 * losses[0][key], key
