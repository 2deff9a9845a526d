"""Every bootstrapping config: teacher and student fit each other, no label is read."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.registry import MODELS  # noqa: E402

from helpers.shipped_configs import CONFIGS, load  # noqa: E402

pytestmark = pytest.mark.mmpretrain
FOLDER = CONFIGS / 'classification' / 'bootstrap'
PAPER = sorted(path.stem for path in FOLDER.glob('*_in1k*.py'))


def cfg_of(name: str):
    return load(FOLDER / f'{name}.py')


def test_all_are_on_their_page():
    text = (FOLDER / 'README.md').read_text('utf-8')
    for path in FOLDER.glob('*.py'):
        assert f']({path.name})' in text, path.name


@pytest.mark.parametrize('name', PAPER)
def test_teacher_and_student_fit(name):
    cfg = cfg_of(name)
    arch, width, size = re.match(
        r'sparseformer-(bootstrapped-(?:clip-)?(base|large))_(?:clip-)?vit-\2-p\d+_'
        r'8xb128-20e_in1k(-384px)?$',
        name,
    ).groups()
    assert cfg.model.backbone.arch == arch
    with torch.device('meta'):
        model = MODELS.build(cfg.model)  # complains if they do not
    vit = model.teacher.backbone
    assert vit.num_layers == dict(base=12, large=24)[width]
    clip = 'clip' in name
    side = 224 if clip else 384
    assert vit.img_size == (side, side)
    assert model.student_size == (None if clip or size else 224)
    row = next(
        line
        for line in (FOLDER / 'README.md').read_text('utf-8').splitlines()
        if f']({name}.py)' in line
    )
    counts = [
        sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
        for trained in (False, True)
    ]
    assert ', '.join(f'{count / 1e6:.1f} M' for count in counts) in row
    tokens = len(model.backbone.latent.token_rois) + 1
    assert f'| {tokens} |' in row


@pytest.mark.parametrize('name', PAPER)
def test_pictures_without_labels_in_the_teachers_size(name):
    cfg = cfg_of(name)
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'CustomDataset' and dataset.with_label is False
    assert 'num_classes' not in cfg.data_preprocessor
    side = cfg.model.teacher.backbone.img_size
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        if loader is not None:
            sizes = [
                step.get('crop_size', step.get('scale'))
                for step in loader.dataset.pipeline
                if step.type in ('RandomResizedCrop', 'CenterCrop')
            ]
            assert sizes == [side]
    mean = cfg.data_preprocessor.mean
    assert (mean == [127.5] * 3) == ('clip' not in name)
    assert (cfg.val_dataloader is None) == ('clip' in name)
    assert cfg.train_cfg.max_epochs == 20
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
    assert Path(cfg.model.teacher.init_cfg.checkpoint).parent == Path('checkpoints')


def test_digits_teacher_student_and_classifier_belong_together():
    vit, unlabelled, classifier = (
        cfg_of(f'{name}_1xb32_digits')
        for name in (
            'vit-nano',
            'sparseformer-bootstrapped-nano_vit-nano',
            'sparseformer-bootstrapped-nano',
        )
    )
    teacher = unlabelled.model.teacher
    assert teacher.backbone == vit.model.backbone
    for key in ('type', 'num_classes', 'in_channels'):
        assert teacher.head[key] == vit.model.head[key]
    epochs = vit.train_cfg.max_epochs
    assert Path(teacher.init_cfg.checkpoint) == Path(
        'work_dirs/quickstart_bootstrap/teacher', f'epoch_{epochs}.pth'
    )
    for key in ('backbone', 'head'):
        assert unlabelled.model[key] == classifier.model[key]
    # The same pictures, epochs and rates; with labels, or without.
    ours, theirs = unlabelled.train_dataloader, classifier.train_dataloader
    assert ours.dataset.pop('with_label') is False
    assert ours == theirs
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_dataloader'):
        assert unlabelled[key] == classifier[key]
    # A preprocessor of another kind makes the same numbers of them.
    for key in ('mean', 'std', 'to_rgb'):
        assert unlabelled.data_preprocessor[key] == classifier.data_preprocessor[key]
    model = MODELS.build(unlabelled.model)
    patches = model.teacher.backbone.patch_resolution
    assert patches == (6, 6)
    assert len(model.backbone.latent.token_rois) == 9
