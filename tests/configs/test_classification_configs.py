"""Every classification config: numbers, size, and one iteration on stand-in
data of the layout it asks for."""

from pathlib import Path
from typing import Dict, NamedTuple, Optional

import numpy as np
import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from PIL import Image  # noqa: E402

from helpers.pretrained_standin import CORTEX_DIMS, backbone_params  # noqa: E402
from helpers.shipped_configs import CONFIGS, loaders, scalar, shrink  # noqa: E402
from helpers.shipped_configs import load as load_config  # noqa: E402

pytestmark = pytest.mark.mmpretrain


class Recipe(NamedTuple):
    """What a config must say. ``tokens`` is None for the arch's own."""

    arch: str
    drop_path: float
    epochs: int = 300
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 20
    size: int = 224
    classes: int = 1000
    tokens: Optional[int] = None
    pretrained: bool = False
    repeats: bool = True


def _in21k(arch: str) -> Recipe:
    return Recipe(arch, 0.1, epochs=60, lr=2e-3, warmup=5, classes=10450, repeats=False)


def _finetune(size: int, tokens: Optional[int] = None) -> Recipe:
    return Recipe(
        'base',
        0.2,
        epochs=30,
        lr=2e-4,
        weight_decay=1e-8,
        warmup=5,
        size=size,
        tokens=tokens,
        pretrained=True,
    )


RECIPES: Dict[str, Recipe] = {
    'sparseformer-tiny_8xb128_in1k': Recipe('tiny', 0.2),
    'sparseformer-small_8xb128_in1k': Recipe('small', 0.3),
    'sparseformer-base_8xb128_in1k': Recipe('base', 0.4),
    'sparseformer-tiny_8xb128-60e_in21k': _in21k('tiny'),
    'sparseformer-small_8xb128-60e_in21k': _in21k('small'),
    'sparseformer-base_8xb128-60e_in21k': _in21k('base'),
    'sparseformer-base_in21k-pre_8xb128-30e_in1k': _finetune(224),
    'sparseformer-base_in21k-pre_8xb128-30e_in1k-384px': _finetune(384),
    'sparseformer-base_in21k-pre_8xb128-30e_in1k-512px': _finetune(512),
    'sparseformer-base-144tok_in21k-pre_8xb128-30e_in1k-384px': _finetune(384, 144),
    'sparseformer-base-196tok_in21k-pre_8xb128-30e_in1k-384px': _finetune(384, 196),
}
PRETRAINED = [name for name, recipe in RECIPES.items() if recipe.pretrained]

# Small models: file -> classes and side of the image.
SMALL = {
    'sparseformer-nano_1xb32_digits': (10, 64),
    'sparseformer-nano-elastic_1xb32_digits': (10, 64),
    'resnet18_1xb32_digits': (10, 64),
    'sparseformer-nano_1xb64_flowers5': (5, 160),
    'resnet18_1xb64_flowers5': (5, 160),
}


def load(name: str) -> Config:
    return load_config(f'classification/{name}')


def step(pipeline: list, kind: str) -> dict:
    """The one transform of a type in a pipeline."""
    (found,) = (item for item in pipeline if item.type == kind)
    return found


def test_no_config_is_forgotten():
    files = {path.stem for path in (CONFIGS / 'classification').glob('*.py')}
    assert files == RECIPES.keys() | SMALL.keys()


@pytest.mark.parametrize('name', [*RECIPES, *SMALL])
def test_optimizer_and_classes(name):
    cfg = load(name)
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_is_the_papers(name):
    recipe, cfg = RECIPES[name], load(name)
    assert cfg.train_cfg.max_epochs == recipe.epochs
    assert cfg.optim_wrapper.optimizer.lr == recipe.lr
    assert cfg.optim_wrapper.optimizer.weight_decay == recipe.weight_decay
    assert cfg.auto_scale_lr.base_batch_size == 1024
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.end) == ('LinearLR', recipe.warmup)
    assert cosine.type == 'CosineAnnealingLR'
    assert (cosine.begin, cosine.end) == (recipe.warmup, recipe.epochs)

    backbone, head = cfg.model.backbone, cfg.model.head
    assert backbone.arch == recipe.arch
    assert backbone.drop_path_rate == recipe.drop_path
    assert backbone.get('num_tokens') == recipe.tokens
    assert head.in_channels == CORTEX_DIMS[recipe.arch]
    assert head.num_classes == recipe.classes
    assert 'neck' not in cfg.model

    assert head.loss == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]
    train = cfg.train_dataloader.dataset.pipeline
    assert step(train, 'RandomResizedCrop').scale == recipe.size
    assert step(train, 'RandAugment').magnitude_level == 9
    assert step(train, 'RandomErasing').erase_prob == 0.25
    sampler = cfg.train_dataloader.sampler
    if recipe.repeats:
        assert sampler.type == 'RepeatAugSampler'
        assert sampler.num_repeats == 3
    else:
        assert sampler.type == 'DefaultSampler'
    for loader in loaders(cfg)[1:]:
        test = loader.dataset.pipeline
        assert step(test, 'CenterCrop').crop_size == recipe.size
        assert step(test, 'ResizeEdge').scale == recipe.size * 256 // 224

    (ema,) = (hook for hook in cfg.custom_hooks if hook.type == 'EMAHook')
    # mmengine: average = (1 - momentum) * average + momentum * weight
    assert 1 - ema.momentum == pytest.approx(0.9999)


@pytest.mark.parametrize('name', RECIPES)
def test_full_size_model_has_the_papers_parameters(name):
    recipe, cfg = RECIPES[name], load(name)
    # Shapes are enough: no time and memory for the weights.
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    expected = backbone_params(recipe.arch, recipe.tokens)
    expected += recipe.classes * (CORTEX_DIMS[recipe.arch] + 1)
    assert sum(p.numel() for p in model.parameters()) == expected


def write_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(
        0, 256, (height, width, 3), np.uint8
    )
    Image.fromarray(pixels).save(path)


def make_imagenet(root: Path, in21k: bool) -> None:
    """Two photos per split in class folders and the lists under meta/."""
    for split in ('train', 'val'):
        lines = []
        for label, folder in ((0, 'n01440764'), (3, 'n01491361')):
            name = f'{folder}/{folder}_17.JPEG'
            write_image(root / split / name, 61 + label, 83)
            lines.append(f'{name} {label}')
        if split == 'train' or not in21k:
            (root / 'meta').mkdir(exist_ok=True)
            (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
            continue
        # ImageNet-21K's validation images have no list: one folder for each class.
        for label in range(10450 - 2):
            (root / split / f'n{label + 2_000_000:08}').mkdir()


def make_class_folders(root: Path, classes: int, suffix: str) -> None:
    for split in ('train', 'val'):
        for label in range(classes):
            shape = (64, 64) if suffix == 'png' else (118 + 9 * label, 256)
            write_image(root / split / f'c{label}' / f'0.{suffix}', *shape)


def make_runner(cfg: Config, folder: Path) -> Runner:
    """A run of one iteration on what is in ``folder / 'data'``."""
    shrink(cfg, folder, 'head', 'in_channels', cortex_depth=1)
    # As many as there are images at least.
    imagenet = 'ImageNet' in str(cfg.train_dataloader.dataset.type)
    cfg.train_dataloader.batch_size = 2 if imagenet else 10
    cfg.param_scheduler = None
    return Runner.from_cfg(cfg)


def train(runner: Runner) -> None:
    """Trains and validates, and checks that both gave numbers."""
    runner.train()
    assert runner.iter == 1
    assert np.isfinite(scalar(runner, 'train/loss'))
    assert 0 <= scalar(runner, 'val/accuracy/top1') <= 100


@pytest.mark.parametrize('name', sorted(RECIPES.keys() - set(PRETRAINED)))
def test_trains_and_validates(name, tmp_path):
    cfg = load(name)
    make_imagenet(tmp_path / 'data', in21k='in21k' in name)
    runner = make_runner(cfg, tmp_path)
    train(runner)
    ema = next(hook for hook in runner.hooks if 'EMA' in type(hook).__name__)
    assert ema.ema_model.steps == runner.iter


@pytest.mark.parametrize('name', PRETRAINED)
def test_fine_tunes(name, tmp_path):
    recipe, cfg = RECIPES[name], load(name)
    make_imagenet(tmp_path / 'data', in21k=False)
    # Pre-train: a classifier of 21K classes with 81 tokens, saved as by a run.
    pre = make_runner(load('sparseformer-base_8xb128-60e_in21k'), tmp_path)
    checkpoint = tmp_path / 'in21k.pth'
    source = pre.model.state_dict()
    torch.save(dict(state_dict=source, meta={}), checkpoint)

    cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
    runner = make_runner(cfg, tmp_path)
    runner.model.init_weights()
    loaded = runner.model.state_dict()
    reinitialised = {
        key
        for key in source
        if key.startswith('backbone.')
        and not (
            source[key].shape == loaded[key].shape
            and torch.equal(source[key], loaded[key])
        )
    }
    if recipe.tokens:
        rois = 'backbone.latent.token_rois'
        assert reinitialised == {rois, 'backbone.latent.token_embeddings'}
        assert len(loaded[rois]) == recipe.tokens
    else:
        assert not reinitialised
    train(runner)


def test_a_missing_pretrained_checkpoint_stops_training(tmp_path):
    name = PRETRAINED[0]
    cfg = load(name)
    make_imagenet(tmp_path / 'data', in21k=False)
    runner = make_runner(cfg, tmp_path)
    with pytest.raises(FileNotFoundError, match='8xb128-60e_in21k/epoch_60.pth'):
        runner.train()


@pytest.mark.parametrize('name', SMALL)
def test_small_models_train_and_validate(name, tmp_path):
    classes, size = SMALL[name]
    cfg = load(name)
    assert cfg.model.head.num_classes == classes
    make_class_folders(tmp_path / 'data', classes, 'png' if size == 64 else 'jpg')
    runner = make_runner(cfg, tmp_path)
    train(runner)
    batch = next(iter(runner.train_dataloader))
    assert all(image.shape == (3, size, size) for image in batch['inputs'])


@pytest.mark.parametrize('data', ['1xb32_digits', '1xb64_flowers5'])
def test_the_baseline_differs_in_the_model_only(data):
    ours = load(f'sparseformer-nano_{data}').to_dict()
    theirs = load(f'resnet18_{data}').to_dict()
    loss = ours.pop('model')['head']['loss']
    assert theirs.pop('model')['head']['loss'] == loss
    assert ours == theirs


def test_the_elastic_one_differs_in_its_training_only():
    plain = load('sparseformer-nano_1xb32_digits').to_dict()
    elastic = load('sparseformer-nano-elastic_1xb32_digits').to_dict()
    backbone = elastic['model']['backbone']
    assert backbone.pop('train_tokens') == list(range(4, 17))
    assert backbone.pop('test_tokens') is None
    assert elastic == plain
