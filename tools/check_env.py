"""Say what is missing or clashes in this environment, and the exact cure.

    python tools/check_env.py [--need classification|detection|segmentation|
                               video|all] [--json]

Only the standard library is imported here, and every other library in a
process of its own, so that the report comes out of a broken environment too.
The exit code is 1 if something that is needed does not work, else 0.
"""

import argparse
import importlib.metadata as metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

HERE = Path(__file__).resolve().parent

# Distributions which own the folder of a module, the onedl one first.
MMENGINE = ('onedl-mmengine', 'mmengine', 'mmengine-lite')
MMCV = ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full')
OPENCV = (
    'opencv-python',
    'opencv-contrib-python',
    'opencv-python-headless',
    'opencv-contrib-python-headless',
)
LIBRARIES = {
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmaction': ('mmaction2',),
}
TASKS = {
    'classification': ('mmpretrain',),
    'detection': ('mmdet',),
    'segmentation': ('mmseg',),
    'video': ('mmaction',),
    'all': tuple(LIBRARIES),
}
# Fills the gaps of mmaction2 1.2.0.
COMPAT = 'sparseformer_mm.video.compat'
# Registries are filled by these; the bare import of a library says little.
PROBES = {name: f'{name}.models' for name in LIBRARIES}


class Finding(NamedTuple):
    """What one check found: ``status`` is 'ok', 'warning' or 'error'."""

    status: str
    message: str
    cure: str = ''


class Facts(NamedTuple):
    """Everything the checks look at, so that tests can make it up.

    Args:
        versions: Version of each installed distribution by its name.
        errors: Last line of what importing a module raised, '' if it works;
            modules that were not tried are not in it.
        pins: Pinned version by distribution, of the stack found here.
        stack: 'onedl' or 'openmmlab'.
        python: Major and minor version of the interpreter.
        has_pkg_resources: Whether ``pkg_resources`` can be found.
        wants_pkg_resources: Distributions that import ``pkg_resources``.
        weights_only_off: The user made torch load all of a checkpoint.
        libraries: Modules of the libraries that are needed.
    """

    versions: Dict[str, str]
    errors: Dict[str, str]
    pins: Dict[str, str]
    stack: str = 'onedl'
    python: Tuple[int, int] = (3, 11)
    has_pkg_resources: bool = True
    wants_pkg_resources: Tuple[str, ...] = ()
    weights_only_off: bool = False
    libraries: Tuple[str, ...] = tuple(LIBRARIES)

    def installed(self, names: Tuple[str, ...]) -> List[str]:
        return [name for name in names if name in self.versions]

    def show(self, names: Tuple[str, ...]) -> str:
        return ', '.join(
            f'{name} {self.versions[name]}' for name in self.installed(names)
        )

    def pinned(self, names: Tuple[str, ...]) -> str:
        """``name==version`` of the one of ``names`` this stack uses."""
        for name in names:
            if name in self.pins:
                return f'{name}=={self.pins[name]}'
        return names[0]


# ------------------------------------------------------------------- helpers
def number(version: str) -> Tuple[int, ...]:
    """'2.11.0+cpu' -> (2, 11, 0)."""
    return tuple(
        int(part) for part in re.match(r'\d+(\.\d+)*', version).group().split('.')
    )


def pip(*arguments: str) -> str:
    return ' '.join((sys.executable, '-m pip', *arguments))


def install(*requirements: str) -> str:
    return pip('install', *(f'"{name}"' for name in requirements))


def replace(installed: List[str], requirement: str, *options: str) -> str:
    """Distributions that share a folder: all have to go before one comes."""
    return (
        pip('uninstall -y', *installed)
        + ' && '
        + pip('install', *options, f'"{requirement}"')
    )


def compile_mmcv(facts: Facts) -> str:
    # Without the cache: pip may have kept a wheel without operators or one
    # for another torch. Without isolation: the build has to see torch.
    options = ('--no-build-isolation', '--no-cache-dir', '--no-deps')
    return replace(facts.installed(MMCV), facts.pinned(MMCV), *options)


# -------------------------------------------------------------------- checks
def check_python(facts: Facts) -> Finding:
    oldest, newest = {'onedl': (10, 13), 'openmmlab': (9, 11)}[facts.stack]
    version = '.'.join(map(str, facts.python))
    if oldest <= facts.python[1] <= newest:
        return Finding('ok', f'Python {version}')
    return Finding(
        'warning',
        f'Python {version}: the pinned {facts.stack} stack was '
        f'made for 3.{oldest} to 3.{newest}',
        f'bash {HERE}/setup_env.sh --stack {facts.stack}',
    )


def check_torch(facts: Facts) -> Finding:
    torch, vision = facts.pinned(('torch',)), facts.pinned(('torchvision',))
    if 'torch' not in facts.versions:
        return Finding('error', 'torch is missing', install(torch, vision))
    if facts.errors.get('torch'):
        return Finding(
            'error',
            f'torch {facts.versions["torch"]} cannot be '
            f'imported: {facts.errors["torch"]}',
            pip('install --force-reinstall', torch, vision),
        )
    return Finding('ok', f'torch {facts.versions["torch"]}')


def check_torchvision(facts: Facts) -> Optional[Finding]:
    if 'torch' not in facts.versions:
        return None
    major, minor = number(facts.versions['torch'])[:2]
    # torch 2.0 came with torchvision 0.15, torch 1.0 with 0.1.
    wanted = f'torchvision==0.{minor + (15 if major == 2 else 1)}.*'
    if 'torchvision' not in facts.versions:
        return Finding('error', 'torchvision is missing', install(wanted))
    version = facts.versions['torchvision']
    if not version.startswith(wanted[len('torchvision==') : -1]):
        return Finding(
            'error',
            f'torchvision {version} does not go with torch {facts.versions["torch"]}',
            install(wanted),
        )
    if facts.errors.get('torchvision'):
        return Finding(
            'error',
            f'torchvision {version} cannot be imported: {facts.errors["torchvision"]}',
            pip('install --force-reinstall --no-deps', wanted),
        )
    return Finding('ok', f'torchvision {version}')


def check_numpy(facts: Facts) -> Finding:
    if 'numpy' not in facts.versions:
        return Finding('error', 'numpy is missing', install(facts.pinned(('numpy',))))
    version = facts.versions['numpy']
    torch = facts.versions.get('torch')
    if number(version)[0] >= 2 and torch and number(torch) < (2, 3):
        # opencv goes along: from 4.12 on it asks for numpy 2.
        opencv = [f'{name}<4.12' for name in facts.installed(OPENCV)]
        return Finding(
            'error',
            f'numpy {version} does not go with torch '
            f'{torch}, which was built for numpy 1',
            install('numpy<2', *opencv),
        )
    if number(version)[0] < 2 and 'onedl-mmsegmentation' in facts.versions:
        return Finding(
            'error',
            f'onedl-mmsegmentation needs numpy 2, not {version}',
            install(facts.pinned(('numpy',))),
        )
    return Finding('ok', f'numpy {version}')


def check_opencv(facts: Facts) -> Finding:
    installed = facts.installed(OPENCV)
    if not installed:
        return Finding('error', 'opencv is missing', install(facts.pinned(OPENCV)))
    shown = facts.show(OPENCV)
    pin = facts.pins.get('opencv-python', facts.versions[installed[0]])
    cure = pip(
        'install --force-reinstall --no-deps', *(f'{name}=={pin}' for name in installed)
    )
    if len({facts.versions[name] for name in installed}) > 1:
        return Finding(
            'error',
            f'{shown} own the same folder cv2/, the last '
            'one installed has overwritten parts of the others',
            cure,
        )
    if facts.errors.get('cv2'):
        return Finding(
            'error', f'{shown}: cv2 cannot be imported: {facts.errors["cv2"]}', cure
        )
    return Finding('ok', shown)


def check_setuptools(facts: Facts) -> Finding:
    version = facts.versions.get('setuptools', '')
    shown = f'setuptools {version}' if version else 'no setuptools'
    if facts.has_pkg_resources or not facts.wants_pkg_resources:
        return Finding('ok', shown)
    users = ', '.join(facts.wants_pkg_resources)
    return Finding(
        'error',
        f'{shown} brings no pkg_resources (dropped in '
        f'82), which is imported by: {users}',
        install('setuptools<82'),
    )


def check_mmengine(facts: Facts) -> Finding:
    installed = facts.installed(MMENGINE)
    requirement = facts.pinned(MMENGINE)
    if not installed:
        return Finding('error', 'mmengine is missing', install(requirement))
    shown = facts.show(MMENGINE)
    if len(installed) > 1:
        return Finding(
            'error',
            f'{shown} own the same folder mmengine/',
            replace(installed, requirement),
        )
    if facts.errors.get('mmengine'):
        return Finding(
            'error',
            f'{shown} cannot be imported: {facts.errors["mmengine"]}',
            install(requirement),
        )
    return Finding('ok', shown)


def check_weights_only(facts: Facts) -> Optional[Finding]:
    installed = facts.installed(MMENGINE)
    torch = facts.versions.get('torch')
    if (
        not torch
        or number(torch) < (2, 6)
        or len(installed) != 1
        or installed[0].startswith('onedl')
        or number(facts.versions[installed[0]]) > (0, 10, 7)
        or facts.weights_only_off
    ):
        return None
    return Finding(
        'error',
        f'{facts.show(MMENGINE)} cannot load the checkpoints it '
        f'writes with torch {torch} (torch >= 2.6 loads weights only)',
        replace(installed, 'onedl-mmengine')
        + '   (or, if you trust every checkpoint you load: '
        'export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1)',
    )


def check_mmcv(facts: Facts) -> Finding:
    installed = facts.installed(MMCV)
    requirement = facts.pinned(MMCV)
    if not installed:
        return Finding(
            'error',
            'mmcv is missing',
            pip('install --no-build-isolation', f'"{requirement}"'),
        )
    shown = facts.show(MMCV)
    if len(installed) > 1:
        return Finding(
            'error', f'{shown} own the same folder mmcv/', compile_mmcv(facts)
        )
    if facts.errors.get('mmcv'):
        return Finding(
            'error',
            f'{shown} cannot be imported: {facts.errors["mmcv"]}',
            compile_mmcv(facts),
        )
    error = facts.errors.get('mmcv._ext', '')
    if not error:
        return Finding('ok', f'{shown}, operators load')
    needs_ops = [name for name in facts.libraries if name == 'mmdet']
    if "No module named 'mmcv._ext'" in error:
        message = f'{shown} has no compiled operators'
    else:
        message = (
            f'{shown}: the operators were compiled for another torch '
            f'than {facts.versions.get("torch")}: {error}'
        )
    if needs_ops:
        return Finding('error', f'{message}, which mmdet needs', compile_mmcv(facts))
    return Finding('ok', f'{message}; nothing here needs them')


def check_library(facts: Facts, name: str) -> Finding:
    names = LIBRARIES[name]
    installed = facts.installed(names)
    requirement = facts.pinned(names)
    if not installed:
        return Finding('error', f'{name} is missing', install(requirement))
    shown = facts.show(names)
    if len(installed) > 1:
        return Finding(
            'error',
            f'{shown} own the same folder {name}/',
            replace(installed, requirement),
        )
    error = facts.errors.get(PROBES[name], '')
    if not error:
        return Finding('ok', f'{shown}, can be imported')
    if name == 'mmaction' and re.search(r'localizers\.drn|MMCV==', error):
        gaps = (
            f'{shown} refuses mmcv >= 2.2 and was released without '
            'mmaction.models.localizers.drn, which it imports'
        )
        error = facts.errors.get(COMPAT, 'not tried')
        if not error:
            return Finding('ok', f'{gaps}; with {COMPAT} it can be imported')
        return Finding(
            'error',
            f'{gaps}; {COMPAT} cures it but cannot be imported: {error}',
            pip('install', str(HERE.parent)),
        )
    missing = re.search(r"No module named '(\w+)'", error)
    if missing and missing[1] != name:
        return Finding(
            'error', f'{shown} lacks {missing[1]}: {error}', install(missing[1])
        )
    return Finding(
        'error',
        f'{shown} cannot be imported: {error}',
        pip('install --force-reinstall --no-deps', requirement),
    )


def run_checks(facts: Facts) -> List[Finding]:
    """All findings, in the order in which they should be cured."""
    checks: List[Callable[[Facts], Optional[Finding]]] = [
        check_python,
        check_setuptools,
        check_torch,
        check_torchvision,
        check_numpy,
        check_opencv,
        check_mmengine,
        check_weights_only,
        check_mmcv,
    ]
    findings = [check(facts) for check in checks]
    findings += [check_library(facts, name) for name in facts.libraries]
    return [finding for finding in findings if finding]


# --------------------------------------------------------------- real facts
def read_pins(stack: str) -> Dict[str, str]:
    text = (HERE / 'requirements' / f'{stack}.txt').read_text()
    return dict(re.findall(r'^([\w-]+)==([\w.]+)', text, re.MULTILINE))


def import_error(module: str) -> str:
    """Last line of what ``import module`` raises, '' if it works."""
    code = f'import importlib; importlib.import_module({module!r})'
    if module == COMPAT:
        code += f'; importlib.import_module({PROBES["mmaction"]!r})'
    if module == 'mmcv._ext':
        code = 'import torch; ' + code  # whose libraries it is linked to
    try:
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return 'the import took more than five minutes'
    if done.returncode == 0:
        return ''
    lines = done.stderr.decode(errors='replace').strip().splitlines()
    return lines[-1] if lines else f'the process ended with {done.returncode}'


def pkg_resources_users(names: List[str]) -> Tuple[str, ...]:
    """Distributions with a file that imports ``pkg_resources``."""
    pattern = re.compile(rb'^\s*(import|from) pkg_resources', re.MULTILINE)
    users = []
    for name in names:
        files = [
            file
            for file in metadata.files(name) or ()
            if file.suffix == '.py' and '.mim' not in file.parts
        ]
        if name == 'torch':  # thousands of files, one candidate
            files = [file for file in files if file.name == 'cpp_extension.py']
        for file in files:
            path = Path(file.locate())
            if path.is_file() and pattern.search(path.read_bytes()):
                users.append(name)
                break
    return tuple(users)


def gather_facts(need: str) -> Facts:
    """Look at this interpreter; takes a process per import that is tried."""
    versions = {}
    for distribution in metadata.distributions():
        name = distribution.metadata['Name']
        if name:
            versions[re.sub(r'[-_.]+', '-', name).lower()] = distribution.version
    onedl = any(name.startswith('onedl-') for name in versions)
    classic = any(name in versions for name in ('mmengine', 'mmcv'))
    stack = 'onedl' if onedl or not classic else 'openmmlab'

    libraries = TASKS[need]
    owners = {
        'torch': ('torch',),
        'torchvision': ('torchvision',),
        'cv2': OPENCV,
        'mmengine': MMENGINE,
        'mmcv': MMCV,
        'mmcv._ext': MMCV,
    }
    owners.update({PROBES[name]: LIBRARIES[name] for name in libraries})
    if 'mmaction' in libraries:
        owners[COMPAT] = LIBRARIES['mmaction']
    modules = [
        module
        for module, names in owners.items()
        if any(name in versions for name in names)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = dict(zip(modules, pool.map(import_error, modules)))

    ours = MMENGINE + MMCV + sum(LIBRARIES.values(), ('torch',))
    return Facts(
        versions,
        errors,
        read_pins(stack),
        stack,
        sys.version_info[:2],
        importlib.util.find_spec('pkg_resources') is not None,
        pkg_resources_users([name for name in ours if name in versions]),
        os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD') in ('1', 'true'),
        libraries,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description='Say what is missing or clashes in this environment, '
        'and the exact cure.'
    )
    parser.add_argument(
        '--need',
        choices=TASKS,
        default='all',
        help='the task that has to work (default: all)',
    )
    parser.add_argument(
        '--json', action='store_true', help='print the findings as JSON'
    )
    arguments = parser.parse_args()

    findings = run_checks(gather_facts(arguments.need))
    wrong = sum(finding.status == 'error' for finding in findings)
    if arguments.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f'{finding.status.upper():8}{finding.message}')
            if finding.cure:
                print(f'        cure: {finding.cure}')
        print(
            f'{arguments.need}: '
            + (f'{wrong} to cure' if wrong else 'everything works')
        )
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
