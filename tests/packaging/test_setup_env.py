"""The set-up script, with an interpreter that only pretends to install."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob('tools/**/*.sh'), *ROOT.glob('.ci/*')])

# Stands for the python3 of the machine and for the one of the environment.
# Installs nothing, but notes what it was asked for in $FAKE_CALLS.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    '-m venv --clear '*)
        mkdir -p "$4/bin" && ln -s "SELF" "$4/bin/python" ;;
    '-m pip --version') ;;
    '-m pip '*)
        echo "$*" >>"$FAKE_CALLS"
        sleep "${FAKE_SECONDS:-0}"
        [ -z "$FAKE_FAILURE" ] || case "$*" in *$FAKE_FAILURE*) exit 1 ;; esac
        case "$*" in *--force-reinstall*) touch "$FAKE_CALLS.ops" ;; esac ;;
    *check_env.py*) echo "$*" >>"$FAKE_CALLS" ;;
    *mmcv._ext*)
        [ -e "$FAKE_CALLS.ops" ] && echo ok || echo 'no operators' ;;
    *) exec REAL "$@" ;;
esac
"""

pytestmark = pytest.mark.skipif(
    not shutil.which('bash'), reason='the scripts need bash'
)


class Machine:
    """A folder with a fake python3 and the calls it was made to do."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / 'bin'
        self.venv = folder / 'venv'
        self.log = folder / 'calls'
        self.bin.mkdir()
        self.python = self.bin / 'python3'
        self.python.write_text(
            FAKE_PYTHON.replace('SELF', str(self.python)).replace(
                'REAL', sys.executable
            )
        )
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith('SPARSEFORMER_') and key != 'STACK'
        }
        kept.update(
            PATH=f'{self.bin}{os.pathsep}{os.environ["PATH"]}',
            SPARSEFORMER_VENV=str(self.venv),
            FAKE_CALLS=str(self.log),
            FAKE_FAILURE='',
        )
        return subprocess.Popen(
            ['bash', str(ROOT / 'tools/setup_env.sh'), *arguments],
            env={**kept, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def run(self, *arguments: str, **environment: str):
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, word: str = '') -> list:
        """The calls with ``word`` in them since this was last asked."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        self.log.unlink()
        return [line for line in lines if word in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(['bash', '-n', str(script)], check=True)
    assert script.read_text().startswith('#!/usr/bin/env bash\n')


@pytest.mark.parametrize('stack, prefix', [('onedl', 'onedl-'), ('openmmlab', '')])
def test_second_run_does_nothing(machine, stack, prefix):
    arguments = '--stack', stack, '--level', 'full'
    code, out, err = machine.run(*arguments)
    assert code == 0, err
    assert out == f'{machine.venv}/bin/python\n'
    calls = machine.calls()
    assert any(f'-r {ROOT}/tools/requirements/{stack}.txt' in call for call in calls)
    assert any(call.endswith(f'-e {ROOT}') for call in calls)
    # Compiled where it sees torch, and after torch.
    compiling = [i for i, call in enumerate(calls) if '--force-reinstall' in call]
    torch = [i for i, call in enumerate(calls) if ' torch torchvision' in call]
    assert len(compiling) == 1 and torch[0] < compiling[0]
    assert '--no-build-isolation' in calls[compiling[0]]
    assert f' {prefix}mmcv==' in calls[compiling[0]]

    code, out, err = machine.run(*arguments)
    assert (code, out) == (0, f'{machine.venv}/bin/python\n'), err
    assert machine.calls() == []
    # The full level holds what the quickstart needs.
    assert machine.run('--stack', stack, '--level', 'quickstart')[0] == 0
    assert machine.calls() == []


def test_quickstart_compiles_nothing_and_full_adds_the_operators(machine):
    assert machine.run('--level', 'quickstart')[0] == 0
    calls = machine.calls()
    assert not any('--force-reinstall' in call for call in calls)
    assert not any('mmdetection' in call for call in calls)
    # Its wheel without operators must not be found by the full level.
    (mmcv,) = (call for call in calls if 'onedl-mmcv==' in call)
    assert '--no-cache-dir' in mmcv

    assert machine.run('--level', 'full')[0] == 0
    assert len(machine.calls('--force-reinstall')) == 1


def test_interrupted_run_goes_on(machine):
    code, out, err = machine.run('--level', 'quickstart', FAKE_FAILURE='mmpretrain')
    assert code != 0 and out == ''
    assert machine.calls('mmpretrain')
    assert not list(machine.venv.glob('.ready-*'))
    code, out, err = machine.run('--level', 'quickstart')
    assert code == 0, err
    assert machine.calls('mmpretrain')


@pytest.mark.parametrize('works', [True, False])
def test_uv_unpacks_torch_and_pip_takes_over_where_it_fails(machine, works):
    uv = machine.bin / 'uv'
    uv.write_text(f'#!/bin/sh\necho "uv $*" >>"$FAKE_CALLS"\nexit {int(not works)}\n')
    uv.chmod(0o755)
    code, out, err = machine.run('--level', 'quickstart')
    assert code == 0, err
    calls = machine.calls(' torch torchvision onedl-mmengine')
    assert [call.startswith('uv ') for call in calls] == [True, False][: 2 - works]
    assert f'--python {machine.venv}/bin/python' in calls[0]
    assert all(f'-c {ROOT}/tools/requirements/onedl.txt' in call for call in calls)
    assert works != ('pip takes over' in err)


def test_failed_upgrade_is_not_taken_for_ready(machine):
    assert machine.run('--level', 'quickstart')[0] == 0
    assert machine.run('--level', 'full', FAKE_FAILURE='-r')[0] != 0
    machine.calls()
    assert machine.run('--level', 'full')[0] == 0
    assert machine.calls(' -r ')


@pytest.mark.skipif(not shutil.which('flock'), reason='flock is missing')
def test_two_at_once_wait_for_each_other(machine):
    first = machine.start(FAKE_SECONDS='0.3')
    deadline = time.monotonic() + 30
    while not machine.log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    code, out, err = machine.run()
    first_out, first_err = first.communicate(timeout=60)
    assert (first.returncode, code) == (0, 0), first_err + err
    assert out == first_out
    assert 'waiting' in err
    assert len(machine.calls(' -r ')) == 1


def test_named_interpreter_is_only_checked(machine):
    for arguments, environment in (
        (('--python', str(machine.python)), {}),
        ((), {'SPARSEFORMER_PYTHON': str(machine.python)}),
    ):
        code, out, err = machine.run(*arguments, **environment)
        assert (code, out) == (0, f'{machine.python}\n'), err
        (call,) = machine.calls()
        assert call.endswith('check_env.py --need classification')
    assert not machine.venv.exists()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--stack', 'mmcv'), "'onedl' or 'openmmlab', not 'mmcv'"),
        (('--level', 'half'), "'quickstart' or 'full', not 'half'"),
        (('--stack',), '--stack needs a value'),
        (('--clean',), "unknown argument '--clean'"),
        (('--python', 'no-such-python'), 'does not exist'),
    ],
)
def test_bad_arguments(machine, arguments, message):
    code, out, err = machine.run(*arguments)
    assert code == 1 and out == ''
    assert message in err
    assert machine.calls() == []


def test_unsuitable_python_is_named(machine):
    for minor in range(9, 14):
        fake = machine.bin / f'python3.{minor}'
        fake.write_text('#!/bin/sh\nexit 1\n')
        fake.chmod(0o755)
    machine.python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 6 || echo Python 3.6.9\n'
    )
    code, out, err = machine.run()
    assert code == 1 and out == ''
    assert 'Python 3.10, 3.11, 3.12, 3.13; found: Python 3.6.9' in err
    assert '--python' in err
