"""Code as if in a new process, without the seconds that such a one takes to begin.

What is imported stays so for good, and what imports do is under test. So a process that
has torch and mmengine, but nothing of this package, forks for each piece of code.
"""

import json
import subprocess
import sys
import textwrap
from functools import lru_cache
from pathlib import Path
from typing import Tuple

from helpers.scripts import ROOT

_SERVER = """
import json
import os
import sys
import tempfile
import traceback
import warnings

import torch
import mmengine.config
import mmengine.model
import mmengine.registry

warnings.simplefilter('ignore')
for line in sys.stdin:
    request = json.loads(line)
    with tempfile.TemporaryFile('w+') as output:
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            output.seek(0)
            print(json.dumps([status, output.read()]), flush=True)
            continue
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.chdir(request['folder'])
        sys.path[0] = request['folder']
        status = 0
        try:
            exec(compile(request['code'], 'code', 'exec'), dict(__name__='__main__'))
        except BaseException:
            status = 1
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
"""


@lru_cache(maxsize=None)
def _server() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_fresh(code: str, folder: Path = ROOT) -> Tuple[int, str]:
    """Run code where torch and mmengine are imported, but nothing of this package.

    Args:
        code: may be indented as a whole.
        folder: to be in, and to import from.

    Returns:
        0 if all went well, and all that was printed.
    """
    server = _server()
    request = dict(code=textwrap.dedent(code), folder=str(folder))
    print(json.dumps(request), file=server.stdin, flush=True)
    status, output = json.loads(server.stdout.readline())
    return status, output


def succeed_fresh(code: str, folder: Path = ROOT) -> str:
    """The same, and it has to succeed; return what was printed."""
    status, output = run_fresh(code, folder)
    assert status == 0, output
    return output
