"""Every row of the paper's ablation tables: its config, its size, the page about it."""

import re
from pathlib import Path
from typing import Dict, NamedTuple, Optional

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402

from sparseformer_mm.utils.configs import build_model  # noqa: E402
from sparseformer_mm.utils.counting import count_macs  # noqa: E402

pytestmark = [pytest.mark.mmpretrain, pytest.mark.usefixtures('quiet')]
CONFIGS = Path(__file__).parents[2] / 'configs'
FOLDER = CONFIGS / 'classification' / 'ablations'
PARENT = CONFIGS / 'classification' / 'sparseformer-tiny_8xb128_in1k.py'


class Row(NamedTuple):
    """A row of a table: the paper's G and top-1, and what its config changes.

    ``variant`` is the part of the file name that names it, None for the default, whose
    config is the parent. The paper gives no G in Table 9, and no top-1 for RGB.
    """

    variant: Optional[str]
    gflops: Optional[float]
    top1: Optional[float]
    change: dict = {}

    @property
    def path(self) -> Path:
        if self.variant is None:
            return PARENT
        return FOLDER / f'sparseformer-tiny-{self.variant}_8xb128_in1k.py'


# Rows are named as in the paper.
TABLES: Dict[str, Dict[str, Row]] = {
    '3a': {
        '9': Row('9tok', 0.5, 74.5, dict(num_tokens=9)),
        '16': Row('16tok', 0.8, 77.4, dict(num_tokens=16)),
        '25': Row('25tok', 1.1, 79.3, dict(num_tokens=25)),
        '36': Row('36tok', 1.6, 80.1, dict(num_tokens=36)),
        '49': Row(None, 2.0, 81.0),
        '64': Row('64tok', 2.7, 81.4, dict(num_tokens=64)),
        '81': Row('81tok', 3.3, 81.9, dict(num_tokens=81)),
    },
    '3b': {
        'nil': Row('0rep', 1.6, 77.8, dict(focusing_repeats=0, fixed_rois=True)),
        '1': Row('1rep', 1.7, 79.7, dict(focusing_repeats=1)),
        '4': Row(None, 2.0, 81.0),
        '8': Row('8rep', 2.5, 81.0, dict(focusing_repeats=8)),
    },
    '3c': {
        '16': Row('16pt', 1.9, 80.3, dict(num_points=16)),
        '36': Row(None, 2.0, 81.0),
        '64': Row('64pt', 2.3, 81.3, dict(num_points=64)),
    },
    '3d': {
        'RGB': Row('rgb', 1.5, None, dict(stem='pixel')),
        'ViT/8-embed': Row('patch8', 1.9, 78.4, dict(stem='patch_embed')),
        'early conv': Row(None, 2.0, 81.0),
    },
    '3e': {
        'linear': Row('linear-dec', 1.9, 78.5, dict(decoding='linear')),
        'static, mix': Row('static-dec', 1.9, 80.1, dict(decoding='static')),
        'adaptive, mix': Row(None, 2.0, 81.0),
    },
    '9': {
        'half': Row(None, None, 81.0),
        'cell': Row('cell-rois', None, 81.0, dict(roi_init='cell')),
        'whole': Row('whole-rois', None, 80.2, dict(roi_init='whole')),
    },
}
# Videos: the config, the paper's G and top-1.
TABLE_6 = {
    '1': ('sparseformer-tiny-infl1_32xb8-32x4-50e_k400', 7, 69.5),
    '4': ('sparseformer-tiny-infl4_32xb8-32x4-50e_k400', 13, 74.7),
    '8': ('sparseformer-tiny_32xb8-32x4-50e_k400', 22, 77.9),
    '16': ('sparseformer-tiny-infl16_32xb8-32x4-50e_k400', 32, 78.2),
}
ROWS = [
    pytest.param(table, name, id=f'{table}-{name}')
    for table, rows in TABLES.items()
    for name in rows
]
VARIANTS = [
    pytest.param(row, id=row.variant)
    for rows in TABLES.values()
    for row in rows.values()
    if row.variant
]
_sizes: Dict[Path, dict] = {}


def size(path: Path) -> dict:
    """Parameters, multiply-adds at 224 x 224, and those without mixing."""
    if path not in _sizes:
        model = build_model(str(path))
        report = count_macs(model, torch.rand(1, 3, 224, 224))
        mixing = report.by_op.get('aten.baddbmm', 0)
        _sizes[path] = dict(
            params=report.params, macs=report.total, published=report.total - mixing
        )
    return _sizes[path]


def page_rows(table: str) -> Dict[str, list]:
    """Cells of a table of the folder's README, by the row's name in the paper."""
    page = (FOLDER / 'README.md').read_text('utf-8')
    section = page.split(f'## Table {table}:')[1].split('\n## ')[0]
    lines = [line for line in section.splitlines() if line.startswith('| ')]
    cells = [line.strip('| ').split(' | ') for line in lines[1:]]
    return {row[0].replace(' (default)', ''): row[1:] for row in cells}


def test_every_file_is_a_row_of_a_table():
    files = set(FOLDER.glob('*.py'))
    rows = {row.path for rows in TABLES.values() for row in rows.values()}
    assert files == rows - {PARENT}
    assert [len(rows) for rows in TABLES.values()] == [7, 4, 3, 3, 3, 3]


@pytest.mark.parametrize('row', VARIANTS)
def test_a_row_changes_its_subject_only(row):
    expected = Config.fromfile(PARENT).to_dict()
    expected['model']['backbone'].update(row.change)
    assert Config.fromfile(row.path).to_dict() == expected


@pytest.mark.parametrize('table, name', ROWS)
def test_size_is_the_papers(table, name):
    row = TABLES[table][name]
    found = size(row.path)['published'] / 1e9
    # In Table 9 only what RoIs start with differs.
    paper = 2.0 if row.gflops is None else row.gflops
    assert abs(found - paper) <= max(0.05 * paper, 0.06)
    full = size(row.path)['macs'] / 1e9
    # All products are more, by at most a tenth.
    assert found <= full < 1.11 * found


@pytest.mark.parametrize('table, name', ROWS)
def test_page_says_what_is_counted(table, name):
    row, found = TABLES[table][name], size(TABLES[table][name].path)
    link, *cells = page_rows(table)[name]
    target = re.fullmatch(r'\[sparseformer-tiny.*\]\((.+)\)', link)[1]
    assert (FOLDER / target).resolve() == row.path.resolve()
    counted = [found['params'] / 1e6, found['macs'] / 1e9, found['published'] / 1e9]
    assert cells[:3] == [f'{number:.2f}' for number in counted]
    assert cells[3:] == [
        '-' if row.gflops is None else f'{row.gflops}',
        'fail' if row.top1 is None else f'{row.top1}',
    ]


@pytest.mark.parametrize('table', TABLES)
def test_page_has_no_other_rows(table):
    assert list(page_rows(table)) == list(TABLES[table])


def test_a_nil_row_with_focusing_would_be_too_large():
    """What the page says of the row's 1.6 G."""
    nil = str(TABLES['3b']['nil'].path)
    for repeats, expected in ((1, 1.7), (4, 2.1)):
        model = build_model(nil, {'model.backbone.focusing_repeats': repeats})
        report = count_macs(model, torch.rand(1, 3, 224, 224))
        published = report.total - report.by_op['aten.baddbmm']
        assert published / 1e9 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize('row', VARIANTS)
def test_every_parameter_learns_that_should(row):
    small = dict(cortex_depth=2, focusing_dims=64, cortex_dims=64)
    options = {f'model.backbone.{key}': value for key, value in small.items()}
    options['model.head.in_channels'] = 64
    model = build_model(str(row.path), options).train()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    without = {name for name, p in model.named_parameters() if p.grad is None}
    fixed = ('latent.token_rois', 'cortex.0.sampler.bias')
    assert (
        without
        == still
        == (
            {f'model.backbone.{name}' for name in fixed}
            if row.variant == '0rep'
            else set()
        )
    )


def test_inflation_rows_are_those_of_the_video_configs():
    video = (CONFIGS / 'video' / 'README.md').read_text('utf-8')
    rows = page_rows('6')
    assert list(rows) == list(TABLE_6)
    for inflation, (name, gflops, top1) in TABLE_6.items():
        cfg = Config.fromfile(CONFIGS / 'video' / f'{name}.py')
        assert cfg.model.backbone.token_inflation == int(inflation)
        link, params, *macs, paper, accuracy = rows[inflation]
        assert link.endswith(f'](../../video/{name}.py)')
        assert (paper, accuracy) == (str(gflops), str(top1))
        # Counted where they are: the two pages agree.
        assert f'| {params} | {macs[0]} | {macs[1]} | {gflops} x 4 x 3 | {top1} |' in (
            video
        )
        # Two rows do not fit, and the page says so.
        fits = abs(float(macs[1]) - gflops) <= 0.05 * gflops
        assert fits == (inflation in ('4', '8'))
    page = (FOLDER / 'README.md').read_text('utf-8')
    assert 'Two rows do not fit. Inflation 1' in page and 'Inflation 16:' in page
