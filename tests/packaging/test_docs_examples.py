"""The examples of the pages run, and do what the pages say."""

import importlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sparseformer_mm
from helpers.pages import DOCS, ROOT, blocks, snippet, text_of
from sparseformer_mm import SparseFormer

TASKS = dict(
    classification='mmpretrain',
    detection='mmdet',
    segmentation='mmseg',
    video='mmaction',
)


def need(library: str):
    """Skip where a library is missing; mmaction2 does not import by itself."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'needs {library}')
    if library == 'mmaction':
        importlib.import_module('sparseformer_mm.video.compat')
    importlib.import_module(f'{library}.models')


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Snippets write and read files where they run, and import from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def load_config(code: str, scope: str):
    """Write a snippet to my_config.py, with its base in this repository."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    code, count = re.subn(r"_base_ = 'configs/", f"_base_ = '{ROOT}/configs/", code)
    assert count == 1
    path = Path('my_config.py')
    path.write_text(code)
    cfg = Config.fromfile(path)
    assert cfg.default_scope == scope
    init_default_scope(scope)  # whatever an earlier test of this process was in
    return cfg


def build_model(cfg):
    from mmengine.registry import MODELS

    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize(
    'name', ['architecture.md', 'checkpoints.md', 'elastic.md', 'looking.md']
)
def test_python_runs_and_prints_what_is_promised(name):
    """Blocks of a page one after the other; lines after '# ' are what they print."""
    torch.manual_seed(0)
    printed, promised = [], []

    def note(*values):
        printed.append(' '.join(map(str, values)))

    scope = dict(print=note)
    for code in blocks(text_of(name)):
        if 'CONFIG.py' in code:
            continue  # of the reader's own files
        exec(code, scope)
        promised += re.findall(r'^# (.*)$', code, re.MULTILINE)
    assert printed == promised
    assert promised


def test_checkpoint_example_loads_what_it_can():
    """Of the model with another decoding, all but the decoding is the first one's."""
    example = next(c for c in blocks(text_of('checkpoints.md')) if 'adaptive.pth' in c)
    scope = {}
    exec(example, scope)
    saved = torch.load('adaptive.pth')
    for key, value in scope['model'].state_dict().items():
        if 'decoder' not in key:
            assert torch.equal(value, saved[key]), key
    assert 'backbone.focusing.decoder.squeeze.weight' in saved


def test_checkpoint_config_builds():
    from mmengine.registry import MODELS

    (cfg,) = (c for c in blocks(text_of('checkpoints.md')) if c.startswith('model ='))
    scope = {}
    exec(cfg, scope)
    backbone = MODELS.build(scope['model']['backbone'])
    assert type(backbone) is SparseFormer
    torch.save(dict(model=backbone.state_dict()), 'sparseformer_t_imagenet1k.pth')
    backbone.latent.token_rois.data.zero_()
    backbone.init_weights()
    assert backbone.latent.token_rois.detach().min() > 0


# ----------------------------------------------------------------------- extending
@pytest.fixture
def my_parts():
    """The file that the page on extending tells to write."""
    from sparseformer_mm.registry import MODELS

    parts = re.findall(
        r'<!-- file: my_parts.py -->\n```python\n(.*?)^```',
        text_of('extending.md'),
        re.DOTALL | re.MULTILINE,
    )
    assert len(parts) == 4
    yield parts
    sys.modules.pop('my_parts', None)
    for name in ('GatedMean', 'TwoConvStem', 'OneMap'):
        MODELS._module_dict.pop(name, None)
    if 'mmpretrain.registry' in sys.modules:
        models = sys.modules['mmpretrain.registry'].MODELS
        models._module_dict.pop('StrongestTokenHead', None)


def test_parts_of_your_own_without_a_library(my_parts):
    Path('my_parts.py').write_text('\n\n'.join(my_parts[:3]))
    importlib.import_module('my_parts')
    example = next(c for c in blocks(text_of('extending.md')) if 'print(' in c)
    printed = []
    exec(
        example, dict(print=lambda *values: printed.append(' '.join(map(str, values))))
    )
    assert printed == re.findall(r'^# (.*)$', example, re.MULTILINE)


@pytest.mark.usefixtures('float64')
def test_the_stem_keeps_images_of_a_batch_apart(my_parts):
    Path('my_parts.py').write_text('\n\n'.join(my_parts[:3]))
    importlib.import_module('my_parts')
    torch.manual_seed(0)
    model = SparseFormer('tiny', cortex_depth=1, stem=dict(type='TwoConvStem')).eval()
    images = torch.rand(2, 3, 34, 41)
    with torch.no_grad():
        alone = model(images[:1, :, :30, :21])[0]
        beside = model(images, valid_shapes=[(30, 21), (34, 41)])[0]
    torch.testing.assert_close(beside[0], alone[0])


@pytest.mark.usefixtures('float64')
def test_the_map_decoder_restores_maps(my_parts):
    Path('my_parts.py').write_text('\n\n'.join(my_parts[:3]))
    importlib.import_module('my_parts')
    torch.manual_seed(0)
    model = SparseFormer(
        'tiny',
        cortex_depth=1,
        num_tokens=9,
        out_type='maps',
        map_channels=8,
        map_decoder=dict(type='OneMap'),
    ).eval()
    images = torch.rand(2, 3, 34, 41)
    maps = model(images, valid_shapes=[(30, 21), (34, 41)])
    assert [tuple(level.shape) for level in maps] == [
        (2, 8, 9, 11),
        (2, 8, 5, 6),
        (2, 8, 3, 3),
        (2, 8, 2, 2),
    ]
    # What belongs to the first image is the same without the second.
    alone = model(images[:1, :, :30, :21])
    inside = maps[0][:1, :, :8, :6]
    torch.testing.assert_close(inside, alone[0])


@pytest.mark.mmpretrain
def test_config_with_parts_of_your_own(my_parts):
    need('mmpretrain')
    Path('my_parts.py').write_text('\n\n'.join(my_parts))
    (code,) = (c for c in blocks(text_of('extending.md')) if '_base_' in c)
    model = build_model(load_config(code, 'mmpretrain'))
    model.init_weights()
    names = dict(
        stem=type(model.backbone.stem),
        decoding=type(model.backbone.focusing.decoder),
        head=type(model.head),
    )
    assert {part: kind.__name__ for part, kind in names.items()} == dict(
        stem='TwoConvStem', decoding='GatedMean', head='StrongestTokenHead'
    )
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (1, 7)]
    torch.manual_seed(0)
    for _ in range(2):  # some layers start at zero
        losses = model(torch.rand(2, 3, 64, 64), samples, mode='loss')
        model.zero_grad()
        losses['loss'].backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------ own data
def own_configs(task: str) -> list:
    return re.findall(
        rf'<!-- own data: {task} -->\n```python\n(.*?)^```',
        text_of('own_data.md'),
        re.DOTALL | re.MULTILINE,
    )


def picture(path: str, height: int = 60, width: int = 80):
    import cv2

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, np.arange(height * width * 3).reshape(height, width, 3) % 251)


def layout(task: str):
    """A data set of the layout that the page shows."""
    root = Path('data/mine')
    root.mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val'):
        if task == 'classification':
            for label in ('cat', 'dog'):
                picture(f'{root}/{split}/{label}/1.jpg')
        elif task == 'detection':
            picture(f'{root}/images/{split}.jpg')
            content = dict(
                images=[dict(id=1, file_name=f'{split}.jpg', width=80, height=60)],
                annotations=[
                    dict(
                        id=1,
                        image_id=1,
                        category_id=5,
                        bbox=[10, 20, 30, 15],
                        area=450,
                        iscrowd=0,
                    )
                ],
                categories=[dict(id=3, name='box'), dict(id=5, name='ball')],
            )
            (root / f'{split}.json').write_text(json.dumps(content))
        elif task == 'segmentation':
            import cv2

            picture(f'{root}/img/{split}/1.png', 240, 320)
            mask = np.zeros((240, 320), np.uint8)
            mask[:, :160] = 1
            os.makedirs(root / 'ann' / split)
            cv2.imwrite(f'{root}/ann/{split}/1.png', mask)
        elif task == 'video':
            import cv2

            (root / 'clips').mkdir(exist_ok=True)
            name = f'clips/{split}.mp4'
            fourcc = cv2.VideoWriter_fourcc(*'mp4v')
            writer = cv2.VideoWriter(f'{root}/{name}', fourcc, 25, (96, 64))
            for level in range(20):
                writer.write(np.full((64, 96, 3), 10 * level, np.uint8))
            writer.release()
            (root / f'{split}.txt').write_text(f'{name} 2\n')
        else:
            for number in range(1, 21):
                picture(f'{root}/clips/{split}/img_{number:05}.jpg')
            (root / f'{split}.txt').write_text(f'clips/{split} 20 2\n')


def labels_of(task: str, sample) -> list:
    if task in ('classification', 'video'):
        return sample.gt_label.tolist()
    if task == 'detection':
        return sample.gt_instances.labels.tolist()
    return sample.gt_sem_seg.data.unique().tolist()


@pytest.mark.parametrize('task', [*TASKS, 'video frames'])
def test_own_data(task):
    kind, task = task, task.split()[0]
    need(TASKS[task])
    from mmengine.registry import DATASETS

    layout(kind)
    codes = own_configs(task)
    if kind == 'video frames':
        frames = snippet(DOCS / 'own_data.md', 'RawframeDataset')
        codes = [re.sub(r'^mine = .*$', frames, c, flags=re.M) for c in codes]
        assert 'RawframeDataset' in codes[0]
    assert len(codes) == (2 if task == 'classification' else 1)
    truth = dict(classification=[0], detection=[1], segmentation=[0, 1], video=[2])
    for code in codes:
        cfg = load_config(code, TASKS[task])
        if 'init_cfg' in code:
            classifier = sparseformer_mm.build('tiny')
            path = Path(cfg.model.backbone.init_cfg.checkpoint)
            assert str(path) == 'checkpoints/sparseformer-tiny_in1k.pth'
            path.parent.mkdir()
            torch.save(classifier.state_dict(), path)
        model = build_model(cfg)
        model.init_weights()
        for split in ('train', 'val', 'test'):
            dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
            # Validation and testing see the same files, training others.
            info = dataset.get_data_info(0)
            path = info.get('img_path') or info.get('filename') or info['frame_dir']
            assert ('train' in str(path)) == (split == 'train')
            sample = dataset[0]
            assert labels_of(task, sample['data_samples']) == truth[task]
        head = next(h for h in model.children() if hasattr(h, 'num_classes'))
        assert head.num_classes == (3 if task == 'video' else 2)
        if 'init_cfg' in code:
            mine, theirs = model.backbone.state_dict(), classifier.backbone.state_dict()
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
