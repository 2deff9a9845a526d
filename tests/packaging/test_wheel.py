"""What pip makes of this repository: wheel, sdist and editable install."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {'.py', '.md', '.sh', '.txt', '.yml'}
CONFIG = 'classification/sparseformer-nano_1xb32_digits.py'


def python(*arguments, **keywords):
    """Run this interpreter without the paths that lead to the repository."""
    environment = {
        key: value for key, value in os.environ.items() if key != 'PYTHONPATH'
    }
    environment.update(keywords.pop('environment', {}))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the repository, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp('source')
    for name in ('sparseformer_mm', 'configs', 'tools'):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ('setup.py', 'setup.cfg', 'LICENSE', 'README.md'):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


def build_wheel(source, out):
    python(
        '-m',
        'pip',
        'wheel',
        '-q',
        '--no-build-isolation',
        '--no-deps',
        '--no-index',
        '-w',
        out,
        source,
    )
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp('installed')
    python(
        '-m',
        'pip',
        'install',
        '-q',
        '--no-deps',
        '--no-index',
        '--target',
        target,
        wheel,
    )
    return target


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.suffix in SUFFIXES
    }


def test_wheel_carries_configs_and_tools(source, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for folder in ('configs', 'tools'):
            prefix = f'sparseformer_mm/.mim/{folder}/'
            packed = {
                name[len(prefix) :]: archive.read(name)
                for name in names
                if name.startswith(prefix)
            }
            assert packed == files_of(source / folder)
            assert packed
        # Where mim and modelindex look for it.
        index = archive.read('sparseformer_mm/.mim/model-index.yml')
        assert index == (source / 'configs/model-index.yml').read_bytes()
    tops = {name.split('/')[0] for name in names}
    assert {top for top in tops if not top.endswith('.dist-info')} == {
        'sparseformer_mm'
    }
    assert not any(name.endswith('.pyc') for name in names)


def test_every_module_page_and_kernel_is_in_the_wheel(source, wheel):
    suffixes = '.py', '.html', '.cpp', '.h'
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name
            for name in archive.namelist()
            if name.endswith(suffixes) and '/.mim/' not in name
        }
    # pathlib follows the links of .mim or not, depending on the version.
    modules = {
        path.relative_to(source).as_posix()
        for path in (source / 'sparseformer_mm').rglob('*')
        if path.suffix in suffixes and '.mim' not in path.parts
    }
    assert packed == modules
    assert 'sparseformer_mm/visualization/page.html' in packed
    assert 'sparseformer_mm/csrc/self_attention.cpp' in packed


def test_metadata_pulls_nothing_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (
            name for name in archive.namelist() if name.endswith('.dist-info/METADATA')
        )
        lines = archive.read(name).decode().splitlines()
    requires = [line for line in lines if line.startswith('Requires-Dist')]
    assert requires and all('extra ==' in line for line in requires)
    version = {}
    exec((ROOT / 'sparseformer_mm/version.py').read_text(), version)
    assert f'Version: {version["__version__"]}' in lines


def test_wheel_works_from_another_directory(installed, tmp_path):
    pytest.importorskip('mmengine')
    out = python(
        '-c',
        f"""
from pathlib import Path
import sparseformer_mm
from mmengine import Config
from mmengine.registry import MODELS
package = Path(sparseformer_mm.__file__).parent
config = Config.fromfile(str(package / '.mim/configs/{CONFIG}'))
print(package)
print(type(MODELS.build(config.model.backbone)).__module__)
""",
        cwd=str(tmp_path),
        environment={'PYTHONPATH': str(installed)},
    )
    assert out.splitlines()[-2] == str(installed / 'sparseformer_mm')
    assert out.splitlines()[-1] == 'sparseformer_mm.models.sparseformer'


@pytest.mark.parametrize('tool', ['train', 'test', 'check_env'])
def test_installed_tools_start(installed, tmp_path, tool):
    out = python(
        installed / f'sparseformer_mm/.mim/tools/{tool}.py',
        '--help',
        cwd=str(tmp_path),
        environment={'PYTHONPATH': str(installed)},
    )
    assert 'usage:' in out


def test_sdist_makes_the_same_wheel(source, wheel, tmp_path):
    python(
        '-c',
        'import sys; from setuptools import build_meta; '
        'build_meta.build_sdist(sys.argv[1])',
        tmp_path,
        cwd=str(source),
    )
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        archive.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    again = build_wheel(unpacked, tmp_path / 'wheel')
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_editable_install_links(source, tmp_path):
    python(
        '-c',
        'import sys; from setuptools import build_meta; '
        'build_meta.build_editable(sys.argv[1])',
        tmp_path,
        cwd=str(source),
    )
    with zipfile.ZipFile(next(tmp_path.glob('*.whl'))) as archive:
        names = archive.namelist()
        (finder,) = (name for name in names if 'finder' in name)
        assert str(source / 'sparseformer_mm') in archive.read(finder).decode()
    # Nothing is copied: what is edited in configs/ is what .mim shows.
    assert not any('.mim' in name for name in names)
    targets = dict(
        configs='configs',
        tools='tools',
        **{'model-index.yml': 'configs/model-index.yml'},
    )
    for name, target in targets.items():
        link = source / 'sparseformer_mm/.mim' / name
        assert link.is_symlink() and not os.path.isabs(os.readlink(link))
        assert link.resolve() == (source / target).resolve()
