"""How configs inherit: little, from files of this package, and from each of them."""

import re
from pathlib import Path
from typing import List

import pytest

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(CONFIGS.glob('**/*.py'))


def bases(path: Path) -> List[Path]:
    """The files in ``_base_``."""
    found = re.search(r"^_base_ = (\[.*?\]|'.*?')$", path.read_text(), re.S | re.M)
    return (
        [path.parent / name for name in re.findall(r"'(.*?)'", found[1])]
        if found
        else []
    )


def depth(path: Path) -> int:
    """The longest chain of bases below a config."""
    return max((1 + depth(base) for base in bases(path)), default=0)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_inheritance_is_at_most_two_deep(path):
    assert all(base.is_file() for base in bases(path))
    assert depth(path) <= 2
    assert bool(bases(path)) == ('_base_ =' in path.read_text())


def test_every_base_is_used():
    used = {base.resolve() for path in FILES for base in bases(path)}
    assert {path for path in FILES if '_base_' in path.parts} <= used
