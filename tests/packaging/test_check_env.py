"""tools/check_env.py: each defect gets its own cure, a sound one none."""

import json
import subprocess
import sys

import pytest

from helpers.scripts import ROOT, load_tool

check_env = load_tool('check_env')
PIP = f'{sys.executable} -m pip'


def sound(stack='onedl', **changes):
    """The facts of an environment just as the requirement file pins it."""
    pins = check_env.read_pins(stack)
    facts = dict(versions=pins, errors={}, pins=pins, stack=stack)
    return check_env.Facts(**{**facts, **changes})


def broken(stack='onedl', without=(), errors=(), **versions):
    """A sound environment with other distributions or failing imports."""
    facts = sound(stack)
    found = {
        name: version for name, version in facts.versions.items() if name not in without
    }
    found.update(
        {name.replace('_', '-'): version for name, version in versions.items()}
    )
    return facts._replace(versions=found, errors=dict(errors))


def errors_of(facts):
    return [
        finding for finding in check_env.run_checks(facts) if finding.status != 'ok'
    ]


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
def test_pinned_stacks_are_sound(stack):
    assert errors_of(sound(stack)) == []


# facts, what the message says, the cure word for word (PIP, PYTHON, TOOLS)
CASES = {
    'no torch': (
        broken(without=['torch', 'torchvision']),
        'torch is missing',
        'PIP install "torch==2.11.0" "torchvision==0.26.0"',
    ),
    'torch does not load': (
        broken(errors={'torch': 'ImportError: libcudnn.so.9'}),
        'libcudnn.so.9',
        'PIP install --force-reinstall torch==2.11.0 torchvision==0.26.0',
    ),
    'no torchvision': (
        broken(without=['torchvision']),
        'torchvision is missing',
        'PIP install "torchvision==0.26.*"',
    ),
    'torchvision of another torch': (
        broken(torch='2.9.1+cpu'),
        '0.26.0 does not go with torch 2.9.1+cpu',
        'PIP install "torchvision==0.24.*"',
    ),
    'numpy 2 with torch 2.1': (
        broken(
            'openmmlab',
            numpy='2.2.6',
            opencv_python='4.12.0.88',
            opencv_contrib_python='4.12.0.88',
        ),
        'numpy 2.2.6 does not go with torch 2.1.2',
        'PIP install "numpy<2" "opencv-python<4.12" "opencv-contrib-python<4.12"',
    ),
    'numpy 1 with onedl-mmsegmentation': (
        broken(numpy='1.26.4'),
        'needs numpy 2',
        'PIP install "numpy==2.2.6"',
    ),
    'three opencv versions': (
        broken(opencv_python='5.0.0.93'),
        'own the same folder cv2/',
        'PIP install --force-reinstall --no-deps opencv-python==4.12.0.88 '
        'opencv-contrib-python==4.12.0.88 opencv-python-headless==4.12.0.88',
    ),
    'no opencv': (
        broken(without=check_env.OPENCV),
        'opencv is missing',
        'PIP install "opencv-python==4.12.0.88"',
    ),
    'no mmengine': (
        broken(without=['onedl-mmengine']),
        'mmengine is missing',
        'PIP install "onedl-mmengine==0.10.12"',
    ),
    'both mmengines': (
        broken(mmengine='0.10.7'),
        'own the same folder mmengine/',
        'PIP uninstall -y onedl-mmengine mmengine && '
        'PIP install "onedl-mmengine==0.10.12"',
    ),
    'checkpoints that cannot be read back': (
        broken('openmmlab', torch='2.7.0', torchvision='0.22.0'),
        'cannot load the checkpoints it writes',
        'PIP uninstall -y mmengine && PIP install "onedl-mmengine"   (or, if '
        'you trust every checkpoint you load: '
        'export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1)',
    ),
    'no mmcv': (
        broken(without=['onedl-mmcv']),
        'mmcv is missing',
        'PIP install --no-build-isolation "onedl-mmcv==2.3.6"',
    ),
    'mmcv and mmcv-lite': (
        broken('openmmlab', mmcv_lite='2.1.0'),
        'own the same folder mmcv/',
        'PIP uninstall -y mmcv mmcv-lite && PIP install --no-build-isolation '
        '--no-cache-dir --no-deps "mmcv==2.1.0"',
    ),
    'mmcv without operators': (
        broken(
            errors={'mmcv._ext': "ModuleNotFoundError: No module named 'mmcv._ext'"}
        ),
        'no compiled operators',
        'PIP uninstall -y onedl-mmcv && PIP install --no-build-isolation '
        '--no-cache-dir --no-deps "onedl-mmcv==2.3.6"',
    ),
    'operators of another torch': (
        broken(errors={'mmcv._ext': 'ImportError: undefined symbol: _ZN3c10'}),
        'compiled for another torch than 2.11.0',
        'PIP uninstall -y onedl-mmcv && PIP install --no-build-isolation '
        '--no-cache-dir --no-deps "onedl-mmcv==2.3.6"',
    ),
    'no mmpretrain': (
        broken('openmmlab', without=['mmpretrain']),
        'mmpretrain is missing',
        'PIP install "mmpretrain==1.2.0"',
    ),
    'both mmdets': (
        broken(mmdet='3.3.0'),
        'own the same folder mmdet/',
        'PIP uninstall -y onedl-mmdetection mmdet && '
        'PIP install "onedl-mmdetection==3.5.1"',
    ),
    'mmseg without ftfy': (
        broken(
            'openmmlab',
            errors={'mmseg.models': "ModuleNotFoundError: No module named 'ftfy'"},
        ),
        'lacks ftfy',
        'PIP install "ftfy"',
    ),
    'mmpretrain and transformers 5': (
        broken(
            transformers='5.17.0',
            errors={'mmpretrain.models': 'TypeError: NoneType takes no arguments'},
        ),
        '1.3.6 cannot be imported beside transformers 5.17.0',
        'PIP uninstall -y transformers',
    ),
    'mmaction2 and transformers, behind mmcv 2.3': (
        broken(
            transformers='4.57.6',
            errors={
                'mmaction.models': 'AssertionError: MMCV==2.3.6 is used but '
                'incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.',
                check_env.COMPAT: "ImportError: cannot import name 'x' from "
                "'transformers.modeling_utils'",
            },
        ),
        'mmaction2 1.2.0 cannot be imported beside transformers 4.57.6',
        'PIP uninstall -y transformers',
    ),
    'mmaction2 and transformers without timm': (
        broken(
            transformers='4.57.6',
            errors={'mmaction.models': "ModuleNotFoundError: No module named 'timm'"},
        ),
        'mmaction2 1.2.0 cannot be imported beside transformers 4.57.6',
        'PIP uninstall -y transformers',
    ),
    'mmseg lacks timm, with transformers': (
        broken(
            transformers='4.57.6',
            errors={'mmseg.models': "ModuleNotFoundError: No module named 'timm'"},
        ),
        'lacks timm',
        'PIP install "timm"',
    ),
    'mmpretrain and transformers, mmaction2 for another reason': (
        broken(
            transformers='5.17.0',
            errors={
                'mmpretrain.models': 'TypeError: NoneType takes no arguments',
                check_env.COMPAT: "ModuleNotFoundError: No module named 'decord'",
            },
        ),
        'onedl-mmpretrain 1.3.6 cannot be imported beside transformers 5.17.0',
        'PIP uninstall -y transformers',
    ),
    'mmseg lacks ftfy, mmaction2 breaks on transformers': (
        broken(
            transformers='4.57.6',
            errors={
                'mmseg.models': "ModuleNotFoundError: No module named 'ftfy'",
                check_env.COMPAT: "ImportError: cannot import name 'x' from "
                "'transformers.modeling_utils'",
            },
        ),
        'lacks ftfy',
        'PIP install "ftfy"',
    ),
    'mmaction2 and mmcv 2.3': (
        broken(
            errors={
                'mmaction.models': 'AssertionError: MMCV==2.3.6 is used but '
                'incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'
            }
        ),
        'refuses mmcv >= 2.2',
        f'PIP install {ROOT}',
    ),
    'mmaction2 without drn': (
        broken(
            'openmmlab',
            errors={
                'mmaction.models': 'ModuleNotFoundError: No module named '
                "'mmaction.models.localizers.drn'"
            },
        ),
        'released without mmaction.models.localizers.drn',
        f'PIP install {ROOT}',
    ),
    'Python without wheels': (
        sound('openmmlab', python=(3, 13)),
        'made for 3.9 to 3.11',
        'bash TOOLS/setup_env.sh --stack openmmlab',
    ),
}


@pytest.mark.parametrize('facts, message, cure', CASES.values(), ids=list(CASES))
def test_one_defect_one_cure(facts, message, cure):
    cure = cure.replace('PIP', PIP).replace('PYTHON', sys.executable)
    cure = cure.replace('TOOLS', str(ROOT / 'tools'))
    finding = errors_of(facts)[0]
    assert message in finding.message
    assert finding.cure == cure


def test_setuptools_82_names_who_breaks():
    facts = sound(
        'openmmlab', has_pkg_resources=False, wants_pkg_resources=('mmengine', 'torch')
    )
    facts.versions['setuptools'] = '84.2.1'
    (finding,) = errors_of(facts)
    assert 'setuptools 84.2.1' in finding.message
    assert 'mmengine, torch' in finding.message
    assert finding.cure == f'{PIP} install "setuptools<82"'
    # Nobody asks for it, nobody misses it.
    assert errors_of(sound(has_pkg_resources=False)) == []


def test_users_of_pkg_resources_are_found_in_their_files(monkeypatch, tmp_path):
    for name, line in (
        ('old', 'from pkg_resources import packaging'),
        ('new', 'import packaging  # was pkg_resources'),
    ):
        info = tmp_path / f'{name}-1.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: 1.0\n')
        (info / 'RECORD').write_text(f'{name}.py,,\n')
        (tmp_path / f'{name}.py').write_text(f'import os\n{line}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check_env.pkg_resources_users(['old', 'new']) == ('old',)


def test_operators_matter_to_detection_only():
    error = "ModuleNotFoundError: No module named 'mmcv._ext'"
    facts = broken(errors={'mmcv._ext': error})
    assert errors_of(facts._replace(libraries=('mmpretrain', 'mmseg'))) == []
    assert errors_of(facts._replace(libraries=('mmdet',)))


def test_trusted_checkpoints_are_no_defect():
    facts = broken('openmmlab', torch='2.7.0', torchvision='0.22.0')
    assert errors_of(facts._replace(weights_only_off=True)) == []


def test_import_error_survives_a_crash():
    assert check_env.import_error('json') == ''
    assert check_env.import_error('no_such_module') == (
        "ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_mmaction_is_fine_with_the_compatibility_module():
    error = "ModuleNotFoundError: No module named 'mmaction.models.localizers.drn'"
    facts = broken(errors={'mmaction.models': error, check_env.COMPAT: ''})
    assert errors_of(facts) == []


@pytest.mark.mmpretrain
def test_this_environment():
    """The tests run here, so what classification needs has to work."""
    pytest.importorskip('mmpretrain')
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools/check_env.py'),
            '--json',
            '--need',
            'classification',
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    findings = json.loads(done.stdout)
    assert done.returncode == 0, findings
    import torch

    assert any(
        torch.__version__.split('+')[0] in finding['message'] for finding in findings
    )
    assert {finding['status'] for finding in findings} <= {'ok', 'warning'}


def test_missing_libraries_make_it_fail(tmp_path):
    """An interpreter without anything: the report still comes, exit 1."""
    done = subprocess.run(
        [sys.executable, '-I', '-S', str(ROOT / 'tools/check_env.py')],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    for name in (
        'torch',
        'numpy',
        'mmengine',
        'mmcv',
        'mmpretrain',
        'mmdet',
        'mmseg',
        'mmaction',
    ):
        assert f'{name} is missing\n        cure: ' in done.stdout
