"""The pages of the documentation, and what is in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'sparseformer_mm'
DOCS = PACKAGE / 'docs'
PAGES = [
    ROOT / 'README.md',
    *sorted(DOCS.glob('*.md')),
    *sorted(ROOT.glob('configs/**/README.md')),
]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(name: str) -> str:
    """A page of docs/."""
    return (DOCS / name).read_text('utf-8')


def blocks(text: str, language: str = 'python') -> list:
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def snippet(page: Path, text: str) -> str:
    """A page's one block of Python with a text in it."""
    (block,) = (block for block in blocks(page.read_text('utf-8')) if text in block)
    return block
