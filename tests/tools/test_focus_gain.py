"""tools/analysis_tools/focus_gain.py, from a config to numbers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmpretrain')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

ROOT = Path(__file__).parents[2]
CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='sparseformer_mm.SparseFormer',
        arch=dict(num_tokens=1, num_points=16, focusing_dims=16,
                  focusing_repeats=2, cortex_dims=16, cortex_depth=1,
                  num_heads=2, feat_channels=8),
        roi_init='whole'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
data_preprocessor = dict(mean=[100., 110., 120.], std=[50., 60., 70.],
                         to_rgb=True, num_classes=10)
val_dataloader = dict(
    batch_size=8, num_workers=0,
    dataset=dict(type='CustomDataset', data_root='{root}', data_prefix='val',
                 pipeline=[dict(type='LoadImageFromFile'), {transform}
                           dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False))
"""


def run(*args, code=0):
    env = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
    )
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        text=True,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def measure(*args, code=0):
    return run(ROOT / 'tools/analysis_tools/focus_gain.py', *args, code=code)


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    """A data set, configs on it and the checkpoint of an untrained model."""
    root = tmp_path_factory.mktemp('focus')
    run(
        ROOT / 'tools/dataset_converters/make_digits.py',
        root / 'digits',
        '--train',
        10,
        '--val',
        20,
    )
    transforms = dict(plain='', resized="dict(type='Resize', scale=(96, 48)),")
    for name, transform in transforms.items():
        text = CONFIG.replace('{root}', (root / 'digits').as_posix())
        (root / f'{name}.py').write_text(text.replace('{transform}', transform))
    cfg = Config.fromfile(root / 'plain.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict()), root / 'model.pth')
    return root


def expected_share(boxes_file):
    """An untrained model with one token that sees the whole image samples a
    4x4 grid, standardised to three times its deviation."""
    grid = (np.arange(4) + 0.5) / 4 - 0.5
    std = np.std(np.repeat(grid, 4), ddof=1)
    line = 0.5 + grid / (3 * std)
    shares = []
    for ((x1, y1, x2, y2, _),) in json.loads(boxes_file.read_text()).values():
        inside = [
            x1 / 64 <= x <= x2 / 64 and y1 / 64 <= y <= y2 / 64
            for x in line
            for y in line
        ]
        shares.append(np.mean(inside))
    return np.mean(shares)


@pytest.mark.parametrize('name', ['plain', 'resized'])
def test_untrained_model_samples_the_grid(setup, name, tmp_path):
    output = measure(
        setup / f'{name}.py',
        setup / 'model.pth',
        '--out',
        tmp_path / 'pictures',
        '--json',
        tmp_path / 'n.json',
    )
    numbers = json.loads((tmp_path / 'n.json').read_text())
    assert numbers['num_images'] == 20
    assert list(numbers['stages']) == ['focusing.0', 'focusing.1', 'cortex.0']
    share = expected_share(setup / 'digits/val_boxes.json')
    assert 0 < share < 1
    np.testing.assert_allclose(list(numbers['stages'].values()), share, atol=1e-6)
    assert numbers['gain'] == pytest.approx(0, abs=1e-6)
    assert f'{share:.1%}' in output and 'mean over 20 images' in output
    assert (tmp_path / 'pictures/focus_gain.png').stat().st_size > 10000


def test_num_limits_the_images(setup, tmp_path):
    measure(
        setup / 'plain.py',
        setup / 'model.pth',
        '--num',
        11,
        '--json',
        tmp_path / 'n.json',
    )
    assert json.loads((tmp_path / 'n.json').read_text())['num_images'] == 11


def test_boxes_of_another_set(setup):
    output = measure(
        setup / 'plain.py',
        setup / 'model.pth',
        '--boxes',
        setup / 'digits/train_boxes.json',
        code=1,
    )
    assert 'does it belong to this data set' in output


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location(
        'focus_gain_tool', ROOT / 'tools/analysis_tools/focus_gain.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_and_broken_files(tool, tmp_path):
    with pytest.raises(SystemExit, match='no checkpoint .*none.pth'):
        tool.load_model(Config(), str(tmp_path / 'none.pth'), 'cpu')
    with pytest.raises(SystemExit, match='no boxes file .*--boxes'):
        tool.read_boxes(tmp_path / 'none.json')
    for broken in ('[[1, 2', '[1, 2]', '{"a.png": 3}'):
        (tmp_path / 'boxes.json').write_text(broken)
        with pytest.raises(SystemExit, match='is not a boxes file'):
            tool.read_boxes(tmp_path / 'boxes.json')


def test_boxes_follow_a_resize_and_nothing_else(tool):
    from mmengine.structures import BaseDataElement

    box = [8, 16, 24, 48, 3]
    sample = BaseDataElement(
        metainfo=dict(img_path='a.png', ori_shape=(64, 32), img_shape=(64, 32))
    )
    assert tool.relative_box(sample, box) == [0.25, 0.25, 0.75, 0.75]
    sample.set_metainfo(dict(img_shape=(32, 64), scale_factor=(2.0, 0.5)))
    assert tool.relative_box(sample, box) == [0.25, 0.25, 0.75, 0.75]
    sample.set_metainfo(dict(flip=True))
    with pytest.raises(SystemExit, match='crops, pads or flips a.png'):
        tool.relative_box(sample, box)
    sample.set_metainfo(dict(flip=False, img_shape=(32, 48)))
    with pytest.raises(SystemExit, match='crops, pads or flips a.png'):
        tool.relative_box(sample, box)
