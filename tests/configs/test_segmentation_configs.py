"""Every segmentation config: numbers, size, and one iteration on stand-in data of
the layout it asks for."""

import re
from pathlib import Path
from typing import Dict, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.config import Config  # noqa: E402
from mmengine.optim import OptimWrapper, build_optim_wrapper  # noqa: E402
from mmengine.registry import MODELS, PARAM_SCHEDULERS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmseg.apis import (  # noqa: E402
    MMSegInferencer,
    inference_model,
    init_model,
    show_result_pyplot,
)
from PIL import Image  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from helpers.pages import snippet  # noqa: E402
from helpers.pretrained_standin import (  # noqa: E402
    CORTEX_DIMS,
    DROP_PATH,
    assert_starts_from,
    backbone_params,
    save_classifier,
)
from helpers.segmentation_data_standin import (  # noqa: E402
    ADE_SCENES,
    CITY_SCENES,
    draw_image,
    draw_mask,
    make_ade,
    make_cityscapes,
)
from helpers.segmentor_standin import sample  # noqa: E402
from helpers.shipped_configs import (  # noqa: E402
    CONFIGS,
    assert_rates,
    loaders,
    scalar,
)
from helpers.shipped_configs import load as load_config  # noqa: E402
from helpers.shipped_configs import shrink as shrink_config  # noqa: E402

pytestmark = pytest.mark.mmseg
FOLDER = CONFIGS / 'segmentation'


class Recipe(NamedTuple):
    """What a config must say."""

    arch: str
    tokens: int
    classes: int = 150
    batch: int = 2
    crop: tuple = (512, 512)


RECIPES: Dict[str, Recipe] = {
    f'sparseformer-{arch}-{tokens}tok_8xb2-160k_ade20k-512x512': Recipe(arch, tokens)
    for arch, tokens in (
        ('tiny', 49),
        ('tiny', 256),
        ('tiny', 400),
        ('small', 400),
        ('base', 400),
    )
}
CITY = 'sparseformer-tiny-400tok_8xb1-160k_cityscapes-512x1024'
RECIPES[CITY] = Recipe('tiny', 400, 19, 1, (512, 1024))
# Small models and their classes.
SMALL = {
    'sparseformer-nano_1xb8_digits': 11,
    'sparseformer-nano-49tok_1xb8_camvid': 11,
    'sparseformer-nano-256tok_1xb8_camvid': 11,
    'sparseformer-nano-400tok_1xb8_camvid': 11,
    'upernet-r18_1xb8_camvid': 11,
    'sparseformer-nano-49tok_upernet_1xb8_camvid': 11,
}
ADE = 'sparseformer-tiny-256tok_8xb2-160k_ade20k-512x512'
ADE_49 = 'sparseformer-tiny-49tok_8xb2-160k_ade20k-512x512'


def load(name: str) -> Config:
    return load_config(f'segmentation/{name}')


def test_no_config_is_forgotten():
    files = {path.stem for path in FOLDER.glob('*.py')}
    # Those on maps are in test_map_configs.py.
    maps = {name for name in files if re.match('sparse.*_(upernet|fpn)_8xb2', name)}
    assert files - maps == RECIPES.keys() | SMALL.keys()


@pytest.mark.parametrize('name', RECIPES)
def test_optimizer_and_length(name):
    recipe, cfg = RECIPES[name], load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == (
        'AdamW',
        6e-5,
        0.01,
    )
    assert cfg.optim_wrapper.clip_grad is None
    assert cfg.train_cfg == dict(
        type='IterBasedTrainLoop', max_iters=160_000, val_interval=16_000
    )
    assert cfg.train_dataloader.batch_size == recipe.batch


def test_learning_rate_rises_and_falls():
    """6e-5 after 1500 iterations, then linearly to 0 at the end."""
    cfg = load(ADE)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=6e-5)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(step, optimizer=optimizer))
        for step in cfg.param_scheduler
    ]
    assert schedulers[-1].end == cfg.train_cfg.max_iters
    rates = []
    for _ in range(3000):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(6e-11)
    assert rates[750] == pytest.approx(6e-5 * 750 / 1499, rel=1e-3)
    assert rates[1500] == max(rates) == pytest.approx(6e-5, rel=1e-4)
    left = (160_000 - 2999) / (160_000 - 1500)
    assert rates[2999] == pytest.approx(6e-5 * left, rel=1e-4)


@pytest.mark.parametrize('name', [*RECIPES, *SMALL])
def test_saved_as_often_as_validated_and_norms_across_gpus(name):
    cfg = load(name)
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    # Batches per GPU are too small for batch norm.
    assert cfg.sync_bn == 'torch'


@pytest.mark.parametrize('name', RECIPES)
def test_augmentation(name):
    recipe, cfg = RECIPES[name], load(name)
    scale = (2048, recipe.crop[0] if recipe.classes == 150 else 1024)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    resize, crop = steps['RandomResize'], steps['RandomCrop']
    assert (resize.scale, resize.ratio_range) == (scale, (0.5, 2.0))
    assert (crop.crop_size, crop.cat_max_ratio) == (recipe.crop, 0.75)
    assert steps['RandomFlip'].prob == 0.5
    assert 'PhotoMetricDistortion' in steps
    assert cfg.model.data_preprocessor.size == recipe.crop
    for loader in loaders(cfg)[1:]:
        order = [step.type for step in loader.dataset.pipeline]
        # Masks stay in the size of the image.
        assert order.index('Resize') < order.index('LoadAnnotations')
        test = {step.type: step for step in loader.dataset.pipeline}
        assert test['Resize'] == dict(type='Resize', scale=scale, keep_ratio=True)
        # mmseg cannot put images of several sizes into a batch.
        assert loader.batch_size == 1
    for loader in loaders(cfg)[:2]:
        assert loader.dataset.get('reduce_zero_label', False) == (recipe.classes == 150)


@pytest.mark.parametrize('name', RECIPES)
def test_model_settings(name):
    recipe, cfg = RECIPES[name], load(name)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert backbone.arch == recipe.arch
    assert backbone.num_tokens == recipe.tokens
    assert backbone.roi_init == ('half' if recipe.tokens == 49 else 'random')
    assert backbone.drop_path_rate == DROP_PATH[recipe.arch]
    assert backbone.init_cfg.type == 'Pretrained'
    assert backbone.init_cfg.checkpoint == (
        f'checkpoints/sparseformer-{recipe.arch}_in1k.pth'
    )
    assert head.type == 'sparseformer_mm.segmentation.LocationAwareHead'
    assert (head.num_classes, head.channels) == (recipe.classes, 256)
    assert head.in_channels == CORTEX_DIMS[recipe.arch]
    assert 'auxiliary_head' not in cfg.model
    assert cfg.model.test_cfg == dict(mode='whole')


@pytest.mark.parametrize('name', RECIPES)
def test_full_size_model(name, quiet):
    """Parameters, outputs and each parameter's learning rate and decay."""
    recipe, cfg = RECIPES[name], load(name)
    width, classes = CORTEX_DIMS[recipe.arch], recipe.classes
    # Names and shapes are enough: no time and memory for the numbers.
    with FakeTensorMode():
        model = MODELS.build(cfg.model).eval()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        logits = model(torch.zeros(2, 3, 66, 96), mode='tensor')
    assert logits.shape == (2, classes, 17, 24)

    expected = backbone_params(recipe.arch, recipe.tokens)
    # Queries, keys (no bias) and values; convolutions and norms; classifier.
    expected += (96 + 1) * width + width * width + (width + 1) * width
    expected += 9 * 256 * (width + 256) + 4 * 256
    expected += (256 + 1) * classes
    assert sum(value.numel() for value in model.parameters()) == expected
    assert_rates(model, wrapper.optimizer, lambda key: 6e-5, 0.01)


def shrink(cfg: Config, tmp_path: Path, pretrained: bool = False) -> Config:
    """The config on a small model and small images of its data set's layout."""
    city = cfg.dataset_type == 'CityscapesDataset'
    (make_cityscapes if city else make_ade)(tmp_path / 'data')
    shrink_config(cfg, tmp_path, 'decode_head', 'in_channels')
    cfg.model.decode_head.channels = 32
    crop = (32, 64) if city else (32, 32)
    for loader in loaders(cfg):
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step.scale = (96, 48)
            if 'crop_size' in step:
                step.crop_size = crop
    # inference_model reads it from here.
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.train_dataloader.batch_size = 2
    cfg.model.data_preprocessor.size = crop
    if pretrained:
        cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'classifier.pth')
    else:
        cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.parametrize('name', RECIPES)
def test_trains_from_a_classifier_and_validates(name, tmp_path):
    recipe, cfg = RECIPES[name], load(name)
    state = save_classifier(cfg, tmp_path / 'classifier.pth')
    runner = Runner.from_cfg(shrink(cfg, tmp_path, pretrained=True))
    assert_starts_from(state, runner.model)

    runner.train()
    assert runner.iter == 1
    for key in ('loss', 'decode.loss_ce'):
        # That of guessing, on the pixels which are not padding.
        assert 0.2 < scalar(runner, f'train/{key}') / np.log(recipe.classes) < 1.3, key
    for key in ('mIoU', 'mAcc', 'aAcc'):
        assert 0 <= scalar(runner, f'val/{key}') <= 100
    (best,) = Path(cfg.work_dir).glob('best_mIoU_iter_1.pth')
    assert best.is_file()


def perfect_logits(metas, size, mistakes=()):
    """Logits of the masks on disk, an image twice as large as its mask."""
    logits = torch.zeros(len(metas), 150, *size)
    for image, meta in zip(logits, metas):
        mask = np.array(Image.open(meta['seg_map_path'])).astype(int) - 1
        for wrong, instead in mistakes:
            mask[mask == wrong] = instead
        mask = mask.repeat(2, 0).repeat(2, 1)
        assert mask.shape == tuple(size)
        # Whatever is said where nothing is labelled must not count.
        mask[mask < 0] = 77
        image.scatter_(0, torch.as_tensor(mask)[None], 9.0)
    return logits


@pytest.mark.parametrize('mistakes', [(), ((149, 0),)])
def test_miou_of_known_predictions(mistakes, tmp_path, monkeypatch):
    """Measured in the original image, without what has label 0 in the file."""
    cfg = shrink(load(ADE), tmp_path)
    for step in cfg.val_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.update(scale=None, scale_factor=2.0)
    cfg.default_hooks.checkpoint.save_best = None  # known to a training only
    runner = Runner.from_cfg(cfg)
    sizes = []

    def predict(inputs, metas, test_cfg):
        size = tuple(side * 4 for side in inputs.image_feature.shape[-2:])
        sizes.append((metas[0]['ori_shape'], metas[0]['img_shape'], size))
        return perfect_logits(metas, size, mistakes)

    monkeypatch.setattr(runner.model.decode_head, 'predict', predict)
    metrics = runner.val()
    assert [original for original, _, _ in sizes] == [s[:2] for s in ADE_SCENES]
    assert all(resized == size for _, resized, size in sizes), sizes

    masks = [draw_mask(scene).astype(int) - 1 for scene in ADE_SCENES]
    truth = np.concatenate([mask[mask >= 0] for mask in masks])
    said = truth.copy()
    for wrong, instead in mistakes:
        said[truth == wrong] = instead
    ious = [
        ((said == k) & (truth == k)).sum() / ((said == k) | (truth == k)).sum()
        for k in np.unique(np.concatenate([said, truth]))
    ]
    assert metrics['aAcc'] == pytest.approx(100 * (said == truth).mean(), abs=0.01)
    assert metrics['mIoU'] == pytest.approx(100 * np.mean(ious), abs=0.01)
    if not mistakes:
        assert metrics['mIoU'] == 100
    else:
        assert metrics['mIoU'] < 90


def test_windows_like_the_training_crops(tmp_path):
    """The sliding inference that the Cityscapes config names in a comment."""
    text = (FOLDER / f'{CITY}.py').read_text('utf-8')
    options = dict(re.findall(r'model\.(test_cfg\.\w+)=([\w,]+)', text))
    crop, stride = (
        tuple(map(int, options[f'test_cfg.{key}'].split(',')))
        for key in ('crop_size', 'stride')
    )
    assert options['test_cfg.mode'] == 'slide'
    assert crop == RECIPES[CITY].crop
    # Three rows and three columns of windows cover 1024 x 2048.
    for window, step, side in zip(crop, stride, (1024, 2048)):
        assert -(-(side - window) // step) + 1 == 3

    cfg = shrink(load(CITY), tmp_path)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(24, 48), stride=(16, 32))
    cfg.default_hooks.checkpoint.save_best = None
    runner = Runner.from_cfg(cfg)
    seen = []
    runner.model.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:]))
    )
    assert 0 <= runner.val()['mIoU'] <= 100
    assert len(seen) == 9 * len(CITY_SCENES) and set(seen) == {(24, 48)}


@pytest.fixture
def segmentor(tmp_path):
    """Config and checkpoint of a model as a training leaves them, and its data."""
    cfg = shrink(load(ADE), tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    cfg.dump(str(tmp_path / 'segmentor.py'))
    return tmp_path / 'segmentor.py', tmp_path / 'work_dir' / 'iter_1.pth', runner.model


def test_init_model_and_inference_model(segmentor, tmp_path):
    config, checkpoint, trained = segmentor
    model = init_model(str(config), str(checkpoint), device='cpu')
    assert type(model).__name__ == 'SparseFormerSegmentor'
    assert model.dataset_meta['classes'][149] == 'flag'
    for key, value in trained.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key

    pictures = sorted((tmp_path / 'data/images/validation').iterdir())
    results = [inference_model(model, str(path)) for path in pictures]
    for path, result, (height, width, *_) in zip(pictures, results, ADE_SCENES):
        assert result.pred_sem_seg.data.shape == (1, height, width)
        assert result.seg_logits.data.shape == (150, height, width)
        drawn = tmp_path / 'out' / f'{path.stem}.png'
        show_result_pyplot(
            model, str(path), result, show=False, draw_gt=False, out_file=str(drawn)
        )
        image = np.array(Image.open(path))
        overlay = np.array(Image.open(drawn))
        assert overlay.shape == image.shape
        assert (overlay != image).any(-1).mean() > 0.5


def test_inferencer_draws_pictures(segmentor, tmp_path):
    config, checkpoint, _ = segmentor
    model = init_model(str(config), str(checkpoint), device='cpu')
    inferencer = MMSegInferencer(str(config), str(checkpoint), device='cpu')
    pictures = sorted((tmp_path / 'data/images/validation').iterdir())
    results = inferencer([str(path) for path in pictures], out_dir=str(tmp_path / 'o'))
    for path, found, (height, width, *_) in zip(
        pictures, results['predictions'], ADE_SCENES
    ):
        assert found.shape == (height, width)
        expected = inference_model(model, str(path)).pred_sem_seg.data[0]
        np.testing.assert_array_equal(found, expected)
        assert Image.open(tmp_path / 'o' / 'vis' / path.name).size == (width, height)
    labels = sorted((tmp_path / 'o' / 'pred').iterdir())
    assert [path.name for path in labels] == [f'0000000{i}_pred.png' for i in range(4)]
    np.testing.assert_array_equal(np.array(Image.open(labels[-1])), found)


def test_auxiliary_head_of_the_readme(tmp_path):
    text = snippet(FOLDER / 'README.md', "_base_ = './")
    assert "type='FCNHead'" in text
    (tmp_path / 'mine.py').write_text(text.replace("'./", f"'{FOLDER}/"))
    cfg = shrink(Config.fromfile(tmp_path / 'mine.py'), tmp_path)
    runner = Runner.from_cfg(cfg)
    head = runner.model.auxiliary_head
    before = head.conv_seg.weight.clone()
    runner.train()
    total, main, aux = (
        scalar(runner, f'train/{key}')
        for key in ('loss', 'decode.loss_ce', 'aux.loss_ce')
    )
    assert aux > 0
    assert total == pytest.approx(main + aux)
    assert (head.conv_seg.weight != before).any()


def test_a_missing_classifier_stops_training(tmp_path):
    runner = Runner.from_cfg(shrink(load(ADE), tmp_path, pretrained=True))
    with pytest.raises(FileNotFoundError, match='classifier.pth'):
        runner.train()


@pytest.mark.parametrize('name', SMALL)
def test_small_configs(name, quiet):
    """Classes agree across the files, and the model learns from a batch."""
    classes, cfg = SMALL[name], load(name)
    for loader in loaders(cfg):
        metainfo = loader.dataset.metainfo
        assert len(metainfo.classes) == len(metainfo.palette) == classes
    assert cfg.model.decode_head.num_classes == classes
    if 'tok_' in name:
        assert f'-{cfg.model.backbone.num_tokens}tok_' in name
    if cfg.model.backbone.get('out_type') == 'tokens':
        assert cfg.model.auxiliary_head.type.endswith('.TokenLabelHead')
        assert cfg.model.decode_head.residual
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    warmup, decay = cfg.param_scheduler
    assert warmup.begin == 0 and decay.end == length
    # Nothing is cut or padded on the way from the training pictures to the model.
    pipeline = cfg.train_dataloader.dataset.pipeline
    sizes = [step.get('crop_size') or step.get('scale') for step in pipeline]
    assert [size for size in sizes if size][-1] == cfg.model.data_preprocessor.size

    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.init_cfg = None  # where there is a checkpoint, it is not here
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    inputs, samples = [], []
    for seed in range(2):
        blocks = np.random.default_rng(seed).integers(0, classes, (4, 4), np.uint8)
        mask = blocks.repeat(16, 0).repeat(16, 1)
        inputs.append(torch.from_numpy(draw_image(mask, seed)).permute(2, 0, 1))
        samples.append(sample(inputs[-1], torch.from_numpy(mask).long()))
    data = dict(inputs=inputs, data_samples=samples)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        losses.append(model.train_step(data, OptimWrapper(optimizer))['loss'].item())
    assert np.isfinite(losses).all() and losses[-1] < 0.95 * losses[0], losses
