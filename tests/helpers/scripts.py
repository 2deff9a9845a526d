"""The command-line tools as modules."""

import importlib.util
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Tuple

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
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            status = tool.main([str(word) for word in argv])
        except SystemExit as end:
            status = end.code
    if isinstance(status, str):
        return 1, f'{output.getvalue()}{status}\n'
    return status or 0, output.getvalue()
