"""Pure-Python configs, whose types are classes, and wrapped data sets, in all tools."""

import json

import pytest

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from helpers.scripts import load_tool, run_tool  # noqa: E402
from helpers.toy_classifier import CONFIG, make_data  # noqa: E402
from sparseformer_mm.host import packing_datasets, scope_of, type_name  # noqa: E402

LAZY = """
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import ConstantLR, OptimWrapper
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import CrossEntropyLoss, ImageClassifier, LinearClsHead
from torch.optim import AdamW

from sparseformer_mm import SparseFormer

default_scope = None
"""
NAMES = (
    'ImageClassifier',
    'LinearClsHead',
    'CrossEntropyLoss',
    'LoadImageFromFile',
    'PackInputs',
    'CustomDataset',
    'DefaultSampler',
    'Accuracy',
    'AdamW',
    'LoggerHook',
    'CheckpointHook',
    'ConstantLR',
)


def lazy_text(data) -> str:
    """The toy training's config with classes for names."""
    text = CONFIG.format(data=data, shuffle=True, limit=True)
    text = text.replace("default_scope = 'mmpretrain'\n", '')
    text = text.replace("'sparseformer_mm.SparseFormer'", 'SparseFormer')
    text = text.replace(
        'optim_wrapper = dict(', 'optim_wrapper = dict(type=OptimWrapper, '
    )
    for name in NAMES:
        text = text.replace(f"type='{name}'", f'type={name}')
    assert "type='" not in text
    return LAZY + text


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, the pure-Python config lazy.py and its weights."""
    folder = tmp_path_factory.mktemp('lazy')
    (folder / 'lazy.py').write_text(lazy_text(make_data(folder / 'data')))
    with DefaultScope.overwrite_default_scope('mmengine'):
        status, log = run_tool(
            load_tool('train'),
            *(folder / 'lazy.py', '--work-dir', folder / 'work', '--amp'),
            *('--auto-scale-lr', '--seed', '3', '--deterministic'),
        )
    assert status == 0, log
    return folder


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


def test_the_library_of_a_lazy_config_is_known(trained):
    cfg = Config.fromfile(trained / 'lazy.py')
    assert cfg.default_scope is None and scope_of(cfg) == 'mmpretrain'
    assert type_name(cfg.optim_wrapper) == 'OptimWrapper'
    for kind, found in (
        ('mmdet.models.DETR', 'mmdet'),
        ('sparseformer_mm.detection.SparseFormerDetector', 'mmdet'),
        ('sparseformer_mm.segmentation.SparseFormerSegmentor', 'mmseg'),
        ('my_package.Model', None),
    ):
        assert scope_of(Config(dict(model=dict(type=kind)))) == found


@pytest.mark.parametrize('flags', [(), ('--tta',), ('--amp',), ('--show-dir', 'shown')])
def test_testing_a_lazy_config(trained, tmp_path, flags, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, log = run_tool(
        load_tool('test'), trained / 'lazy.py', trained / 'work/epoch_1.pth', *flags
    )
    assert status == 0, log
    assert 'accuracy/top1' in log or flags
    if '--show-dir' in flags:
        assert list(tmp_path.glob('shown/**/*.png'))


def test_resuming_counting_and_exporting_a_lazy_config(trained, tmp_path, capsys):
    config, weights = trained / 'lazy.py', trained / 'work/epoch_1.pth'
    status, log = run_tool(
        load_tool('train'),
        *(config, '--work-dir', tmp_path / 'work', '--resume', weights),
        *('--cfg-options', 'train_cfg.max_epochs=2'),
    )
    assert status == 0, log
    assert (tmp_path / 'work/epoch_2.pth').is_file()
    status, log = run_tool(
        load_tool('analysis_tools/get_flops'), config, '--shape', 32, 32
    )
    assert status == 0, log
    pytest.importorskip('onnx')
    out = tmp_path / 'model.onnx'
    status, log = run_tool(
        load_tool('deployment/export_onnx'),
        *(config, weights, '--out', out, '--shape', 32, 32),
    )
    assert status == 0 and out.is_file(), log


# -------------------------------------------------------------- wrapped data sets

PLAIN = "dataset=dict(dataset, data_root=r'{data}/val')"
WRAPPERS = dict(
    concat="dict(type='ConcatDataset', datasets=[{plain}, {plain}])",
    repeat="dict(type='RepeatDataset', times=2, dataset={plain})",
    balanced="dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset={plain})",
    both="dict(type='RepeatDataset', times=1, dataset="
    "dict(type='ConcatDataset', datasets=[{plain}, {plain}]))",
)


@pytest.mark.parametrize('kind', WRAPPERS)
def test_tta_and_export_of_a_wrapped_data_set(trained, tmp_path, kind):
    plain = PLAIN.format(data=trained / 'data')
    wrapped = WRAPPERS[kind].format(plain=plain[len('dataset=') :])
    text = CONFIG.format(data=trained / 'data', shuffle=True, limit=True)
    assert plain in text
    config, text = tmp_path / 'wrapped.py', text.replace(plain, f'dataset={wrapped}')
    config.write_text(text)
    out = tmp_path / 'metrics.json'
    status, log = run_tool(
        load_tool('test'),
        *(config, trained / 'work/epoch_1.pth', '--tta', '--out', out),
        *('--out-item', 'metrics', '--work-dir', tmp_path),
    )
    assert status == 0, log
    assert json.loads(out.read_text())['accuracy/top1'] >= 0
    # The runner's own copy, with what --tta made of it, is not written over the file.
    assert config.read_text() == text
    assert 'TestTimeAug' in (tmp_path / 'wrapped_used.py').read_text()
    pytest.importorskip('onnx')
    status, log = run_tool(
        load_tool('deployment/export_onnx'),
        *(config, trained / 'work/epoch_1.pth', '--out', tmp_path / 'model.onnx'),
        *('--shape', 32, 32),
    )
    assert status == 0, log


def test_the_pipeline_that_makes_samples_is_found():
    plain = dict(type='CocoDataset', pipeline=[dict(type='Load')])
    mixing = dict(
        type='MultiImageMixDataset', dataset=plain, pipeline=[dict(type='Pack')]
    )
    nested = dict(
        type='RepeatDataset',
        dataset=dict(type='ConcatDataset', datasets=[plain, mixing]),
    )
    assert list(packing_datasets(nested)) == [plain, mixing]
    assert list(packing_datasets(dict(type='Empty'))) == []
