"""The page on the architecture: its diagram against the imports, its numbers."""

import ast
import functools
import inspect
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple

import pytest

import sparseformer_mm
from sparseformer_mm import registry
from sparseformer_mm.host import LIBRARIES
from sparseformer_mm.models import rois, sampling
from sparseformer_mm.models.arch import ARCHS, STEMS, resolve_arch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'sparseformer_mm' / 'docs'
TEXT = (DOCS / 'architecture.md').read_text('utf-8')
HOSTS = {'mmcv', *LIBRARIES}


def modules() -> Iterator[Path]:
    """Every Python file of the package and of the tools."""
    for folder in ('sparseformer_mm', 'tools'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            if '.mim' not in path.parts:
                yield path


@functools.lru_cache(maxsize=None)
def imported(path: Path) -> Set[str]:
    """Full names of the modules that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = '.'.join([*package, *filter(None, [node.module])])
            # 'from .. import ops' may mean a module, 'from ..ops import f' cannot.
            names |= {f'{base}.{alias.name}' for alias in node.names}
    return names


def part(name: str) -> str:
    """The part of the house that 'sparseformer_mm.models.ops.linear' belongs to."""
    top, _, rest = name.partition('.')
    if top == 'tools':
        return 'tools'
    first = rest.split('.')[0]
    package = ROOT / 'sparseformer_mm'
    if (package / first).is_dir() or (package / f'{first}.py').is_file():
        return first or '__init__'
    return '__init__'  # a name that the package itself exports


def part_of(path: Path) -> str:
    return part('.'.join(path.relative_to(ROOT).with_suffix('').parts))


def real_arrows() -> Dict[Tuple[str, str], Set[str]]:
    """(importing part, imported part) -> files in which that is."""
    arrows = defaultdict(set)
    for path in modules():
        for name in imported(path):
            if name.split('.')[0] in ('sparseformer_mm', 'tools'):
                arrow = part_of(path), part(name)
                if arrow[0] != arrow[1]:
                    arrows[arrow].add(str(path.relative_to(ROOT)))
    return arrows


def drawn_arrows() -> Set[Tuple[str, str]]:
    """The arrows of the diagram: lines 'a & b["label"] --> c & d'."""
    (diagram,) = re.findall(r'^```mermaid\n(.*?)^```', TEXT, re.DOTALL | re.MULTILINE)
    arrows = set()
    for line in re.findall(r'^ *(.* --> .*)$', diagram, re.MULTILINE):
        line = re.sub(r'\[.*?\]', '', line)
        sides = [re.split(r' *& *', side.strip()) for side in line.split('-->')]
        arrows |= {(above, below) for above in sides[0] for below in sides[1]}
    return arrows


def below(start: str, arrows: Set[Tuple[str, str]]) -> Set[str]:
    """What a part reaches along arrows."""
    reached, todo = set(), [start]
    while todo:
        new = {to for source, to in arrows if source == todo[-1]} - reached
        todo.pop()
        reached |= new
        todo += new
    return reached


def test_diagram_has_every_part_and_no_circle():
    arrows = drawn_arrows()
    drawn = {part for arrow in arrows for part in arrow}
    assert drawn == {part_of(path) for path in modules()}
    for name in drawn:
        assert name not in below(name, arrows)


def test_imports_follow_the_arrows():
    arrows = drawn_arrows()
    against = {
        f'{source} -> {to} ({", ".join(sorted(files))})'
        for (source, to), files in real_arrows().items()
        if to not in below(source, arrows)
    }
    assert not against, 'turn the import round, or draw its arrow in architecture.md'


def test_every_arrow_is_an_import():
    assert not drawn_arrows() - real_arrows().keys()


def test_only_the_host_imports_a_part_by_name():
    """Such an import would go around the arrows."""
    files = {
        path.name
        for path in modules()
        if re.search(
            r'import_module\([^)]*(?:__package__|sparseformer_mm)', path.read_text()
        )
    }
    assert files <= {'host.py'}


def libraries_of(name: str) -> Set[str]:
    """The top packages that the files of a part import."""
    files = [path for path in modules() if part_of(path) == name]
    return {name.split('.')[0] for path in files for name in imported(path)}


def test_libraries_of_each_part():
    draws, reads = {'matplotlib'}, {'cv2', 'numpy', 'PIL', 'scipy', 'timm'}
    for name in ('models', 'api', 'zoo', 'registry', 'version', '__init__'):
        assert not libraries_of(name) & (HOSTS | draws | reads), name
    # A hook that draws nothing does not make a process load what draws.
    assert not libraries_of('engine') & (HOSTS | draws)
    # All that is particular to a library is in the part of its task.
    for name in ('host', 'utils', 'deployment', 'visualization'):
        assert not libraries_of(name) & LIBRARIES.keys(), name
    for scope, library in LIBRARIES.items():
        assert libraries_of(library.task) & LIBRARIES.keys() == {scope}


def test_nobody_imports_from_tools():
    scripts = {path.stem for path in (ROOT / 'tools').rglob('*.py')} - {'test'}
    for path in modules():
        names = {name.split('.')[0] for name in imported(path)}
        assert 'tools' not in names, path
        if part_of(path) != 'tools':
            assert not names & scripts, path


# ------------------------------------------------------------------ who touches what
def touched() -> Dict[str, list]:
    """Task -> the files of its row."""
    table = re.search(
        r'^\| to \| touch \|.*?(?:\n\n|\Z)', TEXT, re.DOTALL | re.MULTILINE
    )[0]
    rows = [line.strip('|').split('|') for line in table.strip().splitlines()[2:]]
    return {row[0].strip(): re.findall(r'\]\(([^)#]+)', row[1]) for row in rows}


def test_a_task_touches_at_most_four_files():
    assert len(touched()) >= 6
    for task, files in touched().items():
        assert 1 <= len(files) <= 4, task
        assert all((DOCS / file).is_file() for file in files), task


def files_that_import(pattern: str) -> Set[Path]:
    """Files of the package that import a module, in functions too."""
    return {
        path
        for path in modules()
        if part_of(path) != 'tools'
        and any(re.match(pattern, name) for name in imported(path))
    }


def test_the_files_are_the_right_ones():
    files = {
        task: {(DOCS / file).resolve() for file in row}
        for task, row in touched().items()
    }
    for name in STEMS.values():
        source = inspect.getsourcefile(registry.MODELS.get(name))
        assert Path(source) in files['add a stem']
    assert Path(inspect.getsourcefile(resolve_arch)) in files['add a stem']
    for function in (rois.points_in_rois, sampling.SparseSampling):
        assert Path(inspect.getsourcefile(function)) in files['mend sampling in tubes']
    exporting = files_that_import(r'torch\.onnx|onnx')
    assert exporting <= files['change the ONNX export'], exporting
    drawing = files_that_import(r'matplotlib\.patches\.Rectangle')
    assert drawing and drawing <= files['change how a RoI is drawn'], drawing


# ------------------------------------------------------------------------- the model
def test_picture_needs_nothing_else():
    picture = (DOCS / 'architecture.svg').read_text('utf-8')
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith('svg') and root.get('viewBox')
    assert 'href' not in picture and 'url(http' not in picture
    # Every shape in it is in the table of the page, or of a block in general.
    shapes = set(re.findall(r'\(B, [\d, ]+\)', picture))
    assert shapes and shapes - {'(B, 3, 224, 224)'} <= set(
        re.findall(r'\(B, [\d, ]+\)', TEXT)
    )


def test_numbers_of_weights():
    model = sparseformer_mm.build('tiny')
    backbone = model.backbone
    parts = {
        'early convolution': backbone.stem,
        'latent tokens': backbone.latent,
        'focusing block': backbone.focusing,
        'transition': backbone.transition,
        'cortex block 0': backbone.cortex[0],
        'cortex blocks 1': backbone.cortex[1],
        'mean over tokens': backbone.norm,
        'linear classifier': model.head,
    }
    for name, module in parts.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        row, *_ = re.findall(rf'^\| {name}.*$', TEXT, re.MULTILINE)
        assert f'{count:,}' in row, name


@pytest.mark.parametrize('arch', ARCHS)
def test_sizes_of_the_variants(arch):
    keys = (
        'num_tokens',
        'focusing_dims',
        'cortex_dims',
        'cortex_depth',
        'num_points',
        'feat_channels',
    )
    settings = resolve_arch(arch)
    heads = settings['num_heads'] or f'{settings["head_dims"]} wide'
    row = ' | '.join(str(value) for value in [*map(settings.get, keys), heads])
    assert f'| {arch} | {row} |' in TEXT
