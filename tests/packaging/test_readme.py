"""The main README: short, its example runs, its figures are those of the metafiles."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'README.md').read_text('utf-8')
LIBRARIES = dict(
    classification='mmpretrain',
    detection='mmdet',
    segmentation='mmseg',
    video='mmaction2',
)


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 250
    assert len(TEXT.encode()) <= 16_000


def test_python_example_runs():
    (code,) = (
        code
        for code in re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
        if 'import torch' in code
    )
    printed = []
    exec(code, dict(print=lambda *values: printed.append(' '.join(map(str, values)))))
    assert printed == re.findall(r'^# (.*)$', code, re.MULTILINE)


def test_table_of_configs_is_that_of_the_metafiles():
    yaml = pytest.importorskip('yaml')
    table = re.search(r'^\| task, .*?\n\n', TEXT, re.DOTALL | re.MULTILINE)[0]
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.strip().splitlines()[2:]
    ]
    seen = set()
    for task, config, tokens, params, macs, result in rows:
        folder, name = re.search(r'\(configs/(\w+)/(.*)\.py\)', config).groups()
        if folder not in seen:  # the first of a task
            assert (
                task == f'[{folder}](configs/{folder}/README.md), {LIBRARIES[folder]}'
            )
        seen.add(folder)
        metafile = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())
        (model,) = (model for model in metafile['Models'] if model['Name'] == name)
        meta = model['Metadata']
        assert params == f'{meta["Parameters"] / 1e6:.1f} M'
        decimals = len(macs.partition('.')[2])
        assert macs == f'{meta["FLOPs"] / 1e9:.{decimals}f}'
        assert tokens
        if model['Results']:
            figure = next(iter(model['Results'][0]['Metrics'].values()))
            assert float(result.split()[-1]) == figure
        else:
            assert result == 'not in it'
    assert seen == LIBRARIES.keys()
