"""What is particular to each library: found by scope, and only where it is used."""

import subprocess
import sys

import pytest
from mmengine.config import Config

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


@pytest.mark.parametrize('scope', SCOPES)
def test_no_library_is_imported_for_another(scope):
    find(scope)
    code = f"""
import sys
from sparseformer_mm.host import LIBRARIES, host_of
assert not set(LIBRARIES) & set(sys.modules)
host_of('{scope}')
tasks = [x.task for s, x in LIBRARIES.items() if s != '{scope}']
assert not [t for t in tasks if f'sparseformer_mm.{{t}}' in sys.modules]
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


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
