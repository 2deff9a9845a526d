"""What the pages say is so: links, files, names, flags, messages."""

import configparser
import importlib
import inspect
import re
from pathlib import Path

import pytest
from mmengine.registry import Registry

import sparseformer_mm
from helpers.pages import DOCS, PACKAGE, PAGES, ROOT, blocks, page_id, text_of
from sparseformer_mm import SparseFormer, registry
from sparseformer_mm.host import LIBRARIES
from sparseformer_mm.models.arch import ARCHS

# Task -> the library it needs.
TASKS = {library.task: scope for scope, library in LIBRARIES.items()}


def prose(text: str) -> str:
    return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r'^#+ (.*)$', prose(page.read_text('utf-8')), re.MULTILINE)
    return {
        re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        for heading in headings
    }


def resolve(name: str):
    """What 'a.B' stands for in this package: an attribute, a module or a type."""
    found, parts = sparseformer_mm, name.split('.')
    for index, part in enumerate(parts):
        if not hasattr(found, part):
            path = '.'.join(['sparseformer_mm', *parts[: index + 1]])
            if importlib.util.find_spec(path) is None:
                break
            importlib.import_module(path)
        found = getattr(found, part)
    else:
        return found
    registries = [x for x in vars(registry).values() if isinstance(x, Registry)]
    return next(filter(None, (r.get(name) for r in registries)), None)


# ----------------------------------------------------------------- the set of pages
def test_all_pages_are_in_the_index():
    index = text_of('README.md')
    for path in DOCS.iterdir():
        if path.name != 'README.md' and path.suffix != '.svg':
            assert f']({path.name})' in index, path.name


def test_all_pages_are_shipped():
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    patterns = settings['options.package_data']['sparseformer_mm'].split()
    shipped = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert set(DOCS.iterdir()) <= shipped


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)', prose(page.read_text('utf-8')))
    assert links or page.name in ('CHANGELOG.md', 'deployment.md')
    for link in links:
        if '://' in link:
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_files_that_are_named_exist(page):
    text = page.read_text('utf-8')
    assert '{{' not in text
    found = re.findall(r'(?<![\w/.-])((?:tools|tests|configs)/[\w./-]*\w)', text)
    for name in found:
        assert (ROOT / name).exists(), name
    folders = '|'.join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    for name in re.findall(rf'`((?:{folders})/\w+\.py)`', text):
        assert (PACKAGE / name).exists(), name


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_flags_of_tools_exist(page):
    for line in re.findall(
        r'(?:python|bash) (tools/\S+\.(?:py|sh)[^`\n]*)', page.read_text('utf-8')
    ):
        tool, _, arguments = line.partition(' ')
        source = (ROOT / tool).read_text('utf-8')
        if tool in ('tools/train.py', 'tools/test.py'):
            source += (PACKAGE / 'utils/launch.py').read_text('utf-8')
        for flag in re.findall(r'(?<!\S)--[\w-]+', arguments.partition('#')[0]):
            assert flag in source, line


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_names_of_the_package_exist(page):
    names = re.findall(
        r'(?<![\w/.])sparseformer_mm\.([\w.]*\w)', page.read_text('utf-8')
    )
    for name in sorted(set(names)):
        library = TASKS.get(name.split('.')[0])
        if library and importlib.util.find_spec(library) is None:
            continue
        assert resolve(name) is not None, name


def test_a_wrong_name_would_be_noticed():
    assert resolve('SparseFormer') is SparseFormer
    assert resolve('models.sampling').__name__ == 'sparseformer_mm.models.sampling'
    assert resolve('SparsFormer') is None


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_backbone_arguments_exist(page):
    text = page.read_text('utf-8')
    arguments = {*inspect.signature(SparseFormer).parameters, *ARCHS['tiny']}
    for name in re.findall(r'model\.backbone\.(\w+)', text):
        assert name in arguments, name


def test_arguments_named_in_prose_exist():
    arguments = {*inspect.signature(SparseFormer).parameters, *ARCHS['tiny']}
    for page, names in {
        'extending.md': ('out_indices', 'out_type', 'norm_eval', 'allow_partial_load'),
        'own_data.md': ('frozen_stages', 'with_cp'),
        'checkpoints.md': ('num_tokens', 'token_inflation', 'num_points'),
        'architecture.md': ('time_offsets', 'spatial_dims', 'token_inflation'),
    }.items():
        for name in names:
            assert name in text_of(page) and name in arguments, name


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_python_compiles(page):
    for code in blocks(page.read_text('utf-8')):
        compile(code, page.name, 'exec')


# ------------------------------------------------------------------- other promises
def test_quoted_messages_of_the_package_are_its_own():
    source = ''.join(path.read_text('utf-8') for path in PACKAGE.rglob('*.py'))
    source += ''.join(path.read_text('utf-8') for path in ROOT.glob('tools/**/*.py'))
    source = re.sub(r"'\s*\n\s*f?'", '', source)  # texts over several lines
    page = text_of('troubleshooting.md')
    for message in (
        're-initialising is not allowed here',
        'missing keys',
        'mismatched keys',
        'Nothing in the checkpoint is under',
        'a bootstrapped SparseFormer',
        'is cut off',
        'is a web page',
        'is a pointer of Git LFS',
        'holds objects of code that is not here',
        'the weights are numpy arrays',
        'holds several SparseFormers',
        'holds weights but no training to go on with',
        'cannot resume from',
        'cannot write',
        'since tensors would be lost',
        'it cannot read videos of this width',
        'masks hold the labels',
        'DRN is not in the released mmaction2',
    ):
        assert message in re.sub(r'\s+', ' ', page) and message in source, message


def test_pins_are_those_of_the_requirements():
    pins = ''.join(
        (ROOT / 'tools/requirements' / f'{stack}.txt').read_text()
        for stack in ('onedl', 'openmmlab')
    )
    found = re.findall(r'(?:onedl-)?mmcv==[\d.]*\d', text_of('troubleshooting.md'))
    assert found
    for pin in found:
        assert f'\n{pin}\n' in pins or pin.startswith('MMCV'), pin


def test_changelog_has_this_version():
    assert f'\n## {sparseformer_mm.__version__} ' in text_of('CHANGELOG.md')


def test_citation():
    yaml = pytest.importorskip('yaml')
    citation = yaml.safe_load(text_of('CITATION.cff'))
    assert citation['cff-version'] == '1.2.0'
    assert citation['version'] == sparseformer_mm.__version__
    assert {'message', 'title', 'authors'} <= citation.keys()
    paper = citation['preferred-citation']
    assert {'type', 'title', 'authors', 'year', 'conference'} <= paper.keys()
    readme = (ROOT / 'README.md').read_text('utf-8')
    assert paper['title'] in readme and str(paper['year']) in readme
    for author in paper['authors']:
        assert f'{author["family-names"]}, {author["given-names"]}' in readme
