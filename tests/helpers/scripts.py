"""The command-line tools as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

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
