"""The command-line tools, as modules and as processes."""

import importlib.util
import io
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import List, Tuple

from mmengine.logging import MMLogger

ROOT = Path(__file__).resolve().parents[2]


def load_tool(path: str) -> ModuleType:
    """Import ``tools/PATH.py`` without running it.

    Args:
        path: such as 'visualization/vis_focus'.
    """
    file = ROOT / 'tools' / f'{path}.py'
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(tool: ModuleType, *argv) -> Tuple[int, str]:
    """Run a tool's ``main`` in this process.

    Returns:
        The exit status that its process would have, and all that it prints.
    """
    # Runners name their loggers by the second: another run in the same one would get
    # the old logger, which writes where that run's output went.
    for name in set(MMLogger._instance_dict) - {'mmengine'}:
        del MMLogger._instance_dict[name]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            status = tool.main([str(word) for word in argv])
        except SystemExit as end:
            status = end.code
    if isinstance(status, str):
        return 1, f'{output.getvalue()}{status}\n'
    return status or 0, output.getvalue()


def run(command: list, cwd: Path, status: int = 0, **environment: str) -> str:
    """Run a command, return all it printed; fail unless it ends with a status."""
    paths = [str(ROOT), str(ROOT / 'tests')]
    if os.environ.get('PYTHONPATH'):
        paths.append(os.environ['PYTHONPATH'])
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHON=sys.executable,
        PYTHONPATH=os.pathsep.join(paths),
        **environment,
    )
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def tool(name: str, *args) -> str:
    """Run ``tools/NAME.py`` in this process, to its end; return what it prints."""
    status, output = run_tool(load_tool(name), *args)
    assert status == 0, output
    return output


def data_options(data: Path) -> List[str]:
    """Options that make a config read another folder, and in this process."""
    return [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in (
            f'dataset.data_root={data}',
            'num_workers=0',
            'persistent_workers=False',
        )
    ]


def free_port() -> str:
    """A port for processes that train together."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return str(sock.getsockname()[1])
