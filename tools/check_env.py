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
from typing import Dict, List, NamedTuple, Optional, Tuple

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
        return ', '.join(f'{n} {self.versions[n]}' for n in self.installed(names))

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
def fine(message: str) -> Finding:
    return Finding('ok', message)


def error(message: str, cure: str) -> Finding:
    return Finding('error', message, cure)


def defect(
    facts: Facts,
    names: Tuple[str, ...],
    module: str,
    missing: str,
    several: str = '',
    broken: str = '',
) -> Optional[Finding]:
    """What may be wrong with all that bring a module: none is there, several are (they
    share a folder), or it cannot be imported; with the cure for each case."""
    package, installed = module.partition('.')[0], facts.installed(names)
    if not installed:
        return error(f'{package} is missing', missing)
    shown = facts.show(names)
    if several and len(installed) > 1:
        return error(f'{shown} own the same folder {package}/', several)
    if facts.errors.get(module):
        return error(f'{shown} cannot be imported: {facts.errors[module]}', broken)
    return None


def check_python(facts: Facts) -> Finding:
    oldest, newest = {'onedl': (10, 13), 'openmmlab': (9, 11)}[facts.stack]
    version = '.'.join(map(str, facts.python))
    if oldest <= facts.python[1] <= newest:
        return fine(f'Python {version}')
    return Finding(
        'warning',
        f'Python {version}: the pinned {facts.stack} stack was '
        f'made for 3.{oldest} to 3.{newest}',
        f'bash {HERE}/setup_env.sh --stack {facts.stack}',
    )


def check_torch(facts: Facts) -> Finding:
    torch, vision = facts.pinned(('torch',)), facts.pinned(('torchvision',))
    again = pip('install --force-reinstall', torch, vision)
    problem = defect(facts, ('torch',), 'torch', install(torch, vision), broken=again)
    return problem or fine(facts.show(('torch',)))


def check_torchvision(facts: Facts) -> Optional[Finding]:
    if 'torch' not in facts.versions:
        return None
    major, minor = number(facts.versions['torch'])[:2]
    # torch 2.0 came with torchvision 0.15, torch 1.0 with 0.1.
    wanted = f'torchvision==0.{minor + (15 if major == 2 else 1)}.*'
    shown = facts.show(('torchvision',))
    if shown and not shown.startswith(wanted[:-1].replace('==', ' ')):
        return error(
            f'{shown} does not go with torch {facts.versions["torch"]}', install(wanted)
        )
    again = pip('install --force-reinstall --no-deps', wanted)
    names = ('torchvision',)
    problem = defect(facts, names, 'torchvision', install(wanted), broken=again)
    return problem or fine(shown)


def check_numpy(facts: Facts) -> Finding:
    pinned = install(facts.pinned(('numpy',)))
    if 'numpy' not in facts.versions:
        return error('numpy is missing', pinned)
    version = facts.versions['numpy']
    torch = facts.versions.get('torch')
    if number(version)[0] >= 2 and torch and number(torch) < (2, 3):
        # opencv goes along: from 4.12 on it asks for numpy 2.
        opencv = [f'{name}<4.12' for name in facts.installed(OPENCV)]
        return error(
            f'numpy {version} does not go with torch '
            f'{torch}, which was built for numpy 1',
            install('numpy<2', *opencv),
        )
    if number(version)[0] < 2 and 'onedl-mmsegmentation' in facts.versions:
        return error(f'onedl-mmsegmentation needs numpy 2, not {version}', pinned)
    return fine(f'numpy {version}')


def check_opencv(facts: Facts) -> Finding:
    installed = facts.installed(OPENCV)
    if not installed:
        return error('opencv is missing', install(facts.pinned(OPENCV)))
    pin = facts.pins.get('opencv-python', facts.versions[installed[0]])
    pinned = [f'{name}=={pin}' for name in installed]
    cure = pip('install --force-reinstall --no-deps', *pinned)
    if len({facts.versions[name] for name in installed}) > 1:
        return error(
            f'{facts.show(OPENCV)} own the same folder cv2/, the last '
            'one installed has overwritten parts of the others',
            cure,
        )
    problem = defect(facts, OPENCV, 'cv2', '', broken=cure)
    return problem or fine(facts.show(OPENCV))


def check_setuptools(facts: Facts) -> Finding:
    version = facts.versions.get('setuptools', '')
    shown = f'setuptools {version}' if version else 'no setuptools'
    if facts.has_pkg_resources or not facts.wants_pkg_resources:
        return fine(shown)
    return error(
        f'{shown} brings no pkg_resources (dropped in 82), which is imported by: '
        + ', '.join(facts.wants_pkg_resources),
        install('setuptools<82'),
    )


def check_mmengine(facts: Facts) -> Finding:
    pinned = facts.pinned(MMENGINE)
    several = replace(facts.installed(MMENGINE), pinned)
    again = install(pinned)
    problem = defect(facts, MMENGINE, 'mmengine', again, several, again)
    return problem or fine(facts.show(MMENGINE))


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
    return error(
        f'{facts.show(MMENGINE)} cannot load the checkpoints it '
        f'writes with torch {torch} (torch >= 2.6 loads weights only)',
        replace(installed, 'onedl-mmengine')
        + '   (or, if you trust every checkpoint you load: '
        'export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1)',
    )


def check_mmcv(facts: Facts) -> Finding:
    missing = pip('install --no-build-isolation', f'"{facts.pinned(MMCV)}"')
    again = compile_mmcv(facts)
    problem = defect(facts, MMCV, 'mmcv', missing, again, again)
    shown, failure = facts.show(MMCV), facts.errors.get('mmcv._ext', '')
    if problem or not failure:
        return problem or fine(f'{shown}, operators load')
    if "No module named 'mmcv._ext'" in failure:
        message = f'{shown} has no compiled operators'
    else:
        message = (
            f'{shown}: the operators were compiled for another torch '
            f'than {facts.versions.get("torch")}: {failure}'
        )
    if 'mmdet' in facts.libraries:
        return error(f'{message}, which mmdet needs', again)
    return fine(f'{message}; nothing here needs them')


def multimodal(facts: Facts, shown: str, name: str, failure: str) -> Optional[Finding]:
    """Where there is transformers, mmpretrain (which mmdet and mmseg look for) and
    mmaction2 import models of pictures and words that later releases of it break."""
    version = facts.versions.get('transformers')
    signs = r'NoneType takes no arguments|\btransformers\b'
    if name == 'mmaction':
        signs += "|No module named 'timm'"
    if not version or not re.search(signs, failure):
        return None
    return error(
        f'{shown} cannot be imported beside transformers {version}: {failure}; only '
        f'its models of pictures and words need that (keep it in another environment: '
        f'bash {HERE}/setup_env.sh makes one without)',
        pip('uninstall -y transformers'),
    )


def check_library(facts: Facts, name: str) -> Finding:
    names = LIBRARIES[name]
    pinned, shown = facts.pinned(names), facts.show(names)
    failure = facts.errors.get(PROBES[name], '')
    behind = facts.errors.get(COMPAT) if name == 'mmaction' else ''
    problem = multimodal(facts, shown, name, behind or failure)
    if failure and problem and len(facts.installed(names)) == 1:
        return problem
    if name == 'mmaction' and re.search(r'localizers\.drn|MMCV==', failure):
        gaps = (
            f'{shown} refuses mmcv >= 2.2 and was released without '
            'mmaction.models.localizers.drn, which it imports'
        )
        failure = facts.errors.get(COMPAT, 'not tried')
        if not failure:
            return fine(f'{gaps}; with {COMPAT} it can be imported')
        return error(
            f'{gaps}; {COMPAT} cures it but cannot be imported: {failure}',
            pip('install', str(HERE.parent)),
        )
    lacks = re.search(r"No module named '(\w+)'", failure)
    if lacks and lacks[1] != name and len(facts.installed(names)) == 1:
        return error(f'{shown} lacks {lacks[1]}: {failure}', install(lacks[1]))
    several = replace(facts.installed(names), pinned)
    again = pip('install --force-reinstall --no-deps', pinned)
    problem = defect(facts, names, PROBES[name], install(pinned), several, again)
    return problem or fine(f'{shown}, can be imported')


def run_checks(facts: Facts) -> List[Finding]:
    """All findings, in the order in which they should be cured."""
    findings = [
        check_python(facts),
        check_setuptools(facts),
        check_torch(facts),
        check_torchvision(facts),
        check_numpy(facts),
        check_opencv(facts),
        check_mmengine(facts),
        check_weights_only(facts),
        check_mmcv(facts),
        *(check_library(facts, name) for name in facts.libraries),
    ]
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
    owners = dict(torch=('torch',), torchvision=('torchvision',), cv2=OPENCV)
    owners.update({'mmengine': MMENGINE, 'mmcv': MMCV, 'mmcv._ext': MMCV})
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--need', choices=TASKS, default='all', help='what has to work (all)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
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
        summary = f'{wrong} to cure' if wrong else 'everything works'
        print(f'{arguments.need}: {summary}')
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
