"""What is particular to each library: found by scope, and only where it is used."""

import sys

import pytest
from mmengine.config import Config

from helpers.fresh import succeed_fresh
from helpers.scripts import ROOT
from sparseformer_mm.host import LIBRARIES, Host, host_of

SCOPES = [pytest.param(s, marks=getattr(pytest.mark, s)) for s in LIBRARIES]
PIPELINE = [dict(type='Resize', scale=(8, 8)), dict(type='Pack')]


def find(scope: str) -> Host:
    pytest.importorskip(scope if scope != 'mmaction' else 'sparseformer_mm.video')
    return host_of(scope)


@pytest.mark.parametrize('scope', SCOPES)
def test_a_host_is_found_by_its_scope(scope):
    host = find(scope)
    assert host.scope == scope and host.task == LIBRARIES[scope].task
    assert host is host_of(Config(dict(default_scope=scope)))


def test_other_scopes():
    for scope in (None, 'mmengine', 'sparseformer_mm', Config(dict())):
        assert type(host_of(scope)) is Host and host_of(scope).task is None
    with pytest.raises(ValueError, match="'mmocr' is none of mmpretrain, mmdet, "):
        host_of('mmocr')


def test_no_library_is_imported_for_another():
    code = """
import sys
from sparseformer_mm.host import LIBRARIES, host_of
assert not set(LIBRARIES) & set(sys.modules)
for scope, library in LIBRARIES.items():
    others = {f'sparseformer_mm.{x.task}' for x in LIBRARIES.values()}
    others -= set(sys.modules)
    try:
        host_of(scope)
    except ImportError:
        continue
    others -= {f'sparseformer_mm.{library.task}'}
    assert not others & set(sys.modules), scope
"""
    succeed_fresh(code)


def test_a_broken_library_is_an_error_with_a_cure(monkeypatch):
    find('mmpretrain')
    # What a version assert of the library looks like.
    monkeypatch.delitem(sys.modules, 'sparseformer_mm.classification.host', False)

    def fail(name):
        raise AssertionError('MMCV==2.9 is used but incompatible.\nInstall 2.2')

    monkeypatch.setattr('importlib.import_module', fail)
    with pytest.raises(
        ImportError, match=r'\(AssertionError: MMCV==2.9 .*incompatible.\);.*check_env'
    ):
        host_of('mmpretrain')


@pytest.mark.parametrize(
    'name, size',
    [
        ('classification/sparseformer-tiny_8xb128_in1k', [224, 224]),
        ('classification/sparseformer-nano_1xb64_flowers5', [160, 160]),
        ('detection/sparseformer-small-400tok-modern_8xb8-50e_coco', None),
        ('segmentation/sparseformer-tiny-400tok_8xb2-160k_ade20k-512x512', [512, 512]),
        ('video/sparseformer-tiny_32xb8-32x4-50e_k400', [32, 224, 224]),
    ],
)
def test_size_that_a_test_pipeline_makes(name, size):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    assert find(cfg.default_scope).input_size(cfg) == size


@pytest.mark.mmseg
def test_size_of_a_window():
    model = dict(test_cfg=dict(mode='slide', crop_size=(512, 1024)))
    assert find('mmseg').input_size(Config(dict(model=model))) == [512, 1024]


@pytest.mark.parametrize('scope', SCOPES)
def test_flipped_views(scope):
    resize, augment = find(scope).tta_pipeline(PIPELINE)
    assert resize == PIPELINE[0] and augment['type'] == 'TestTimeAug'
    flips, (pack,) = augment['transforms']
    # mmseg measures with the masks of the first view.
    shares = [0.0, 1.0] if scope == 'mmseg' else [1.0, 0.0]
    assert flips == [dict(type='RandomFlip', prob=share) for share in shares]
    assert ('flip_direction' in pack.get('meta_keys', ())) == (scope == 'mmdet')
    assert PIPELINE[-1] == dict(type='Pack')  # a copy is changed
