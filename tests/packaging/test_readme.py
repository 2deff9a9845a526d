"""What the documents promise is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('configs/*/README.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_placeholders(page):
    text = page.read_text(encoding='utf-8')
    assert '{{' not in text
    links = re.findall(r'\]\(([^)#]+?)(?:#[^)]*)?\)', text)
    local = [link for link in links if '://' not in link]
    assert local
    for link in local:
        assert (page.parent / link).exists(), link


def test_python_examples_run():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    examples = [
        code
        for code in re.findall(r'```python\n(.*?)```', text, re.DOTALL)
        if 'import torch' in code
    ]
    assert examples
    for code in examples:
        printed = []

        def note(*values, printed=printed):
            printed.append(' '.join(map(str, values)))

        exec(code, dict(print=note))
        promised = re.findall(r'^# (.*)$', code, re.MULTILINE)
        assert printed == promised
