"""What the pages of sparseformer_mm/docs say is so: links, names, numbers, snippets."""

import configparser
import importlib
import inspect
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import Registry

import sparseformer_mm
from sparseformer_mm import SparseFormer, registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'sparseformer_mm'
DOCS = PACKAGE / 'docs'
PAGES = [
    ROOT / 'README.md',
    *sorted(DOCS.glob('*.md')),
    *sorted(ROOT.glob('configs/**/README.md')),
]
NAMES = {
    'CHANGELOG.md',
    'CITATION.cff',
    'CONTRIBUTING.md',
    'README.md',
    'architecture.md',
    'architecture.svg',
    'checkpoints.md',
    'deployment.md',
    'extending.md',
    'looking.md',
    'own_data.md',
    'speed.md',
    'troubleshooting.md',
}
TASKS = dict(
    classification='mmpretrain',
    detection='mmdet',
    segmentation='mmseg',
    video='mmaction',
)


def text_of(name: str) -> str:
    return (DOCS / name).read_text('utf-8')


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str = 'python') -> list:
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r'^#+ (.*)$', prose(page.read_text('utf-8')), re.MULTILINE)
    return {
        re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        for heading in headings
    }


def need(library: str):
    """Skip where a library is missing; mmaction2 does not import by itself."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'needs {library}')
    if library == 'mmaction':
        importlib.import_module('sparseformer_mm.video.compat')
    importlib.import_module(f'{library}.models')


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


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Snippets write and read files where they run, and import from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def load_config(code: str, scope: str):
    """Write a snippet to my_config.py, with its base in this repository."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    code, count = re.subn(r"_base_ = 'configs/", f"_base_ = '{ROOT}/configs/", code)
    assert count == 1
    path = Path('my_config.py')
    path.write_text(code)
    cfg = Config.fromfile(path)
    assert cfg.default_scope == scope
    init_default_scope(scope)  # whatever an earlier test of this process was in
    return cfg


def build_model(cfg):
    from mmengine.registry import MODELS

    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model)


# ----------------------------------------------------------------- the set of pages
def test_all_pages_are_there_and_in_the_index():
    assert {path.name for path in DOCS.iterdir()} == NAMES
    index = text_of('README.md')
    for name in NAMES - {'README.md', 'architecture.svg'}:
        assert f']({name})' in index, name


def test_all_pages_are_shipped():
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    patterns = settings['options.package_data']['sparseformer_mm'].split()
    shipped = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert {DOCS / name for name in NAMES} <= shipped


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
    arguments = inspect.signature(SparseFormer).parameters
    for name in re.findall(r'model\.backbone\.(\w+)', text):
        assert name in arguments, name


def test_arguments_named_in_prose_exist():
    arguments = inspect.signature(SparseFormer).parameters
    for page, names in {
        'extending.md': ('out_indices', 'out_type', 'norm_eval', 'allow_partial_load'),
        'own_data.md': ('frozen_stages', 'with_cp'),
        'checkpoints.md': ('num_tokens', 'token_inflation', 'num_points'),
        'architecture.md': ('time_offsets', 'spatial_dims', 'token_inflation'),
    }.items():
        for name in names:
            assert name in text_of(page) and name in arguments, name


# -------------------------------------------------------------------- architecture
def test_picture_needs_nothing_else():
    picture = text_of('architecture.svg')
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith('svg') and root.get('viewBox')
    assert 'href' not in picture and 'url(http' not in picture
    # Every shape in it is in the table of the page, or of a block in general.
    shapes = set(re.findall(r'\(B, [\d, ]+\)', picture))
    assert shapes and shapes - {'(B, 3, 224, 224)'} <= set(
        re.findall(r'\(B, [\d, ]+\)', text_of('architecture.md'))
    )


def test_numbers_of_weights():
    model = sparseformer_mm.build('tiny')
    backbone = model.backbone
    parts = dict(
        zip(
            (
                'early convolution',
                'latent tokens',
                'focusing block',
                'transition',
                'cortex block 0',
                'cortex blocks 1',
                'mean over tokens',
                'linear classifier',
            ),
            (
                backbone.stem,
                backbone.latent,
                backbone.focusing,
                backbone.transition,
                backbone.cortex[0],
                backbone.cortex[1],
                backbone.norm,
                model.head,
            ),
        )
    )
    for name, module in parts.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        row, *_ = re.findall(
            rf'^\| {name}.*$', text_of('architecture.md'), re.MULTILINE
        )
        assert f'{count:,}' in row, name


def test_sizes_of_the_variants():
    keys = (
        'num_tokens',
        'focusing_dims',
        'cortex_dims',
        'cortex_depth',
        'num_points',
        'feat_channels',
        'num_heads',
    )
    for arch in ('tiny', 'small', 'base'):
        settings = SparseFormer._resolve_arch(arch, {})
        row = ' | '.join(str(settings[key]) for key in keys)
        assert f'| {arch} | {row} |' in text_of('architecture.md')


# ------------------------------------------------------------------------ snippets
@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_python_compiles(page):
    for code in blocks(page.read_text('utf-8')):
        compile(code, page.name, 'exec')


@pytest.mark.parametrize('name', ['architecture.md', 'checkpoints.md', 'looking.md'])
def test_python_runs_and_prints_what_is_promised(name):
    """Blocks of a page one after the other; lines after '# ' are what they print."""
    torch.manual_seed(0)
    printed, promised = [], []

    def note(*values):
        printed.append(' '.join(map(str, values)))

    scope = dict(print=note)
    for code in blocks(text_of(name)):
        if 'CONFIG.py' in code:
            continue  # of the reader's own files
        exec(code, scope)
        promised += re.findall(r'^# (.*)$', code, re.MULTILINE)
    assert printed == promised
    assert promised


def test_checkpoint_example_loads_what_it_can():
    """Of the model with another decoding, all but the decoding is the first one's."""
    example = next(c for c in blocks(text_of('checkpoints.md')) if 'adaptive.pth' in c)
    scope = {}
    exec(example, scope)
    saved = torch.load('adaptive.pth')
    for key, value in scope['model'].state_dict().items():
        if 'decoder' not in key:
            assert torch.equal(value, saved[key]), key
    assert 'backbone.focusing.decoder.squeeze.weight' in saved


def test_checkpoint_config_builds():
    from mmengine.registry import MODELS

    (cfg,) = (c for c in blocks(text_of('checkpoints.md')) if c.startswith('model ='))
    scope = {}
    exec(cfg, scope)
    backbone = MODELS.build(scope['model']['backbone'])
    assert type(backbone) is SparseFormer
    torch.save(dict(model=backbone.state_dict()), 'sparseformer_t_imagenet1k.pth')
    backbone.latent.token_rois.data.zero_()
    backbone.init_weights()
    assert backbone.latent.token_rois.detach().min() > 0


# ----------------------------------------------------------------------- extending
@pytest.fixture
def my_parts():
    """The file that the page on extending tells to write."""
    from sparseformer_mm.registry import MODELS

    parts = re.findall(
        r'<!-- file: my_parts.py -->\n```python\n(.*?)^```',
        text_of('extending.md'),
        re.DOTALL | re.MULTILINE,
    )
    assert len(parts) == 3
    yield parts
    sys.modules.pop('my_parts', None)
    for name in ('GatedMean', 'TwoConvStem'):
        MODELS._module_dict.pop(name, None)
    if 'mmpretrain.registry' in sys.modules:
        models = sys.modules['mmpretrain.registry'].MODELS
        models._module_dict.pop('StrongestTokenHead', None)


def test_parts_of_your_own_without_a_library(my_parts):
    Path('my_parts.py').write_text('\n\n'.join(my_parts[:2]))
    importlib.import_module('my_parts')
    example = next(c for c in blocks(text_of('extending.md')) if 'print(' in c)
    printed = []
    exec(
        example, dict(print=lambda *values: printed.append(' '.join(map(str, values))))
    )
    assert printed == re.findall(r'^# (.*)$', example, re.MULTILINE)


def test_the_stem_keeps_images_of_a_batch_apart(my_parts):
    Path('my_parts.py').write_text('\n\n'.join(my_parts[:2]))
    importlib.import_module('my_parts')
    torch.manual_seed(0)
    model = SparseFormer('tiny', cortex_depth=1, stem=dict(type='TwoConvStem')).eval()
    images = torch.rand(2, 3, 34, 41)
    with torch.no_grad():
        alone = model(images[:1, :, :30, :21])[0]
        beside = model(images, valid_shapes=[(30, 21), (34, 41)])[0]
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


@pytest.mark.mmpretrain
def test_config_with_parts_of_your_own(my_parts):
    need('mmpretrain')
    Path('my_parts.py').write_text('\n\n'.join(my_parts))
    (code,) = (c for c in blocks(text_of('extending.md')) if '_base_' in c)
    model = build_model(load_config(code, 'mmpretrain'))
    model.init_weights()
    names = dict(
        stem=type(model.backbone.stem),
        decoding=type(model.backbone.focusing.decoder),
        head=type(model.head),
    )
    assert {part: kind.__name__ for part, kind in names.items()} == dict(
        stem='TwoConvStem', decoding='GatedMean', head='StrongestTokenHead'
    )
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (1, 7)]
    torch.manual_seed(0)
    for _ in range(2):  # some layers start at zero
        losses = model(torch.rand(2, 3, 64, 64), samples, mode='loss')
        model.zero_grad()
        losses['loss'].backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------ own data
def own_configs(task: str) -> list:
    return re.findall(
        rf'<!-- own data: {task} -->\n```python\n(.*?)^```',
        text_of('own_data.md'),
        re.DOTALL | re.MULTILINE,
    )


def picture(path: str, height: int = 60, width: int = 80):
    import cv2

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, np.arange(height * width * 3).reshape(height, width, 3) % 251)


def layout(task: str):
    """A data set of the layout that the page shows."""
    root = Path('data/mine')
    root.mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val'):
        if task == 'classification':
            for label in ('cat', 'dog'):
                picture(f'{root}/{split}/{label}/1.jpg')
        elif task == 'detection':
            picture(f'{root}/images/{split}.jpg')
            content = dict(
                images=[dict(id=1, file_name=f'{split}.jpg', width=80, height=60)],
                annotations=[
                    dict(
                        id=1,
                        image_id=1,
                        category_id=5,
                        bbox=[10, 20, 30, 15],
                        area=450,
                        iscrowd=0,
                    )
                ],
                categories=[dict(id=3, name='box'), dict(id=5, name='ball')],
            )
            (root / f'{split}.json').write_text(json.dumps(content))
        elif task == 'segmentation':
            import cv2

            picture(f'{root}/img/{split}/1.png', 240, 320)
            mask = np.zeros((240, 320), np.uint8)
            mask[:, :160] = 1
            os.makedirs(root / 'ann' / split)
            cv2.imwrite(f'{root}/ann/{split}/1.png', mask)
        else:
            import cv2

            (root / 'clips').mkdir(exist_ok=True)
            name = f'clips/{split}.mp4'
            fourcc = cv2.VideoWriter_fourcc(*'mp4v')
            writer = cv2.VideoWriter(f'{root}/{name}', fourcc, 25, (96, 64))
            for level in range(20):
                writer.write(np.full((64, 96, 3), 10 * level, np.uint8))
            writer.release()
            (root / f'{split}.txt').write_text(f'{name} 2\n')


def labels_of(task: str, sample) -> list:
    if task in ('classification', 'video'):
        return sample.gt_label.tolist()
    if task == 'detection':
        return sample.gt_instances.labels.tolist()
    return sample.gt_sem_seg.data.unique().tolist()


@pytest.mark.parametrize('task', list(TASKS))
def test_own_data(task):
    need(TASKS[task])
    from mmengine.registry import DATASETS

    layout(task)
    codes = own_configs(task)
    assert len(codes) == (2 if task == 'classification' else 1)
    truth = dict(classification=[0], detection=[1], segmentation=[0, 1], video=[2])
    for code in codes:
        cfg = load_config(code, TASKS[task])
        if 'init_cfg' in code:
            classifier = sparseformer_mm.build('tiny')
            path = Path(cfg.model.backbone.init_cfg.checkpoint)
            assert str(path) == 'checkpoints/sparseformer-tiny_in1k.pth'
            path.parent.mkdir()
            torch.save(classifier.state_dict(), path)
        model = build_model(cfg)
        model.init_weights()
        for split in ('train', 'val', 'test'):
            dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
            # Validation and testing see the same files, training others.
            info = dataset.get_data_info(0)
            path = info.get('img_path') or info['filename']
            assert ('train' in str(path)) == (split == 'train')
            sample = dataset[0]
            assert labels_of(task, sample['data_samples']) == truth[task]
        head = next(h for h in model.children() if hasattr(h, 'num_classes'))
        assert head.num_classes == (3 if task == 'video' else 2)
        if 'init_cfg' in code:
            mine, theirs = model.backbone.state_dict(), classifier.backbone.state_dict()
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


# ------------------------------------------------------------------- other promises
def test_quoted_messages_of_the_package_are_its_own():
    source = ''.join(path.read_text('utf-8') for path in PACKAGE.rglob('*.py'))
    source = re.sub(r"'\s*\n\s*f?'", '', source)  # texts over several lines
    page = text_of('troubleshooting.md')
    for message in (
        're-initialising is not allowed here',
        'missing in the checkpoint',
        'of another shape',
        'Nothing in the checkpoint is under',
        'is cut off or no PyTorch checkpoint at all',
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
