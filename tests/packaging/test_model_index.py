"""The model index: complete, and true to the configs and the paper."""

import re
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
MIM = ROOT / 'sparseformer_mm' / '.mim'
INDEX = MIM / 'model-index.yml'
LIBRARIES = dict(
    classification='mmpretrain',
    detection='mmdet',
    segmentation='mmseg',
    video='mmaction',
)
SECOND = 'bootstrapped'  # the folder of the second paper's models
# The paper's tables: top-1; AP; mIoU and mAcc; top-1.
PAPER = {
    'sparseformer-tiny_8xb128_in1k': [81.0],
    'sparseformer-small_8xb128_in1k': [82.0],
    'sparseformer-base_8xb128_in1k': [82.6],
    'sparseformer-base_in21k-pre_8xb128-30e_in1k': [83.6],
    'sparseformer-base_in21k-pre_8xb128-30e_in1k-384px': [84.1],
    'sparseformer-base_in21k-pre_8xb128-30e_in1k-512px': [84.0],
    'sparseformer-base-144tok_in21k-pre_8xb128-30e_in1k-384px': [84.6],
    'sparseformer-base-196tok_in21k-pre_8xb128-30e_in1k-384px': [84.8],
    'sparseformer-small-400tok_8xb8-300e_coco': [26.4, 43.8, 26.6, 8.3, 26.0, 45.0],
    'sparseformer-tiny-49tok_8xb2-160k_ade20k-512x512': [36.1, 46.0],
    'sparseformer-tiny-256tok_8xb2-160k_ade20k-512x512': [42.9, 53.7],
    'sparseformer-tiny-400tok_8xb2-160k_ade20k-512x512': [43.5, 54.7],
    'sparseformer-tiny_32xb8-32x4-50e_k400': [77.9],
    'sparseformer-small_32xb8-32x4-50e_k400': [79.1],
    'sparseformer-base_in21k-pre_32xb8-32x4-50e_k400': [79.8],
    'sparseformer-tiny-infl1_32xb8-32x4-50e_k400': [69.5],
    'sparseformer-tiny-infl4_32xb8-32x4-50e_k400': [74.7],
    'sparseformer-tiny-infl16_32xb8-32x4-50e_k400': [78.2],
}


@lru_cache(maxsize=None)
def read(path):
    return yaml.safe_load(path.read_text('utf-8'))


def metafiles():
    return [MIM / path for path in read(INDEX)['Import']]


MODELS = {
    model['Name']: model for file in metafiles() for model in read(file)['Models']
}


def paper_of(file) -> str:
    """The end of the address of the paper that a metafile or config belongs to."""
    return '2312.01987' if Path(file).parent.name == SECOND else '2304.03768'


def task(model):
    return model['Config'].split('/')[1]


def test_index_is_where_the_tools_look():
    assert INDEX.resolve() == ROOT / 'configs' / 'model-index.yml'
    folders = {path.parent.name for path in metafiles()}
    assert folders == {*LIBRARIES, SECOND}
    assert sum(len(read(file)['Models']) for file in metafiles()) == len(MODELS)


def test_every_full_size_config_is_listed():
    files = [
        path.relative_to(ROOT).as_posix()
        for pattern in ('*/*sparseformer-*.py', f'classification/{SECOND}/*.py')
        for path in (ROOT / 'configs').glob(pattern)
        if path.parent.name in (*LIBRARIES, SECOND) and '-nano' not in path.stem
    ]
    assert sorted(files) == sorted(model['Config'] for model in MODELS.values())
    for model in MODELS.values():
        assert (MIM / model['Config']).stem == model['Name']
        assert (MIM / model['Config']).is_file()


def test_collections():
    names = []
    for file in metafiles():
        (collection,) = read(file)['Collections']
        names.append(collection['Name'])
        assert {m['In Collection'] for m in read(file)['Models']} == {names[-1]}
        assert collection['Paper']['URL'].endswith(paper_of(file))
        assert (MIM / collection['README']).is_file()
        assert (ROOT / collection['Code']['File']).is_file()
        for value in collection['Metadata'].values():  # mim joins lists with commas
            assert isinstance(value, str) or all(isinstance(v, str) for v in value)
    assert len(set(names)) == len(names)


def test_results_are_the_papers_and_say_so():
    assert {name for name, model in MODELS.items() if model['Results']} == set(PAPER)
    for name, figures in PAPER.items():
        model = MODELS[name]
        (result,) = model['Results']
        assert list(result['Metrics'].values()) == figures
        assert "the paper's" in result['Remarks']
        assert model['Metadata']['Results From'] == 'the paper'
        # The same figures stand in the table of the configs' page.
        page = (MIM / model['Config']).parent / 'README.md'
        rows = [
            line
            for line in page.read_text('utf-8').splitlines()
            if line.startswith('|') and f']({name}.py)' in line
        ]
        assert rows
        for row in rows:
            cells = [cell.strip() for cell in row.strip('|').split('|')]
            assert [float(c) for c in cells[-len(figures) :]] == figures
            published = re.match(r'[\d.]+', model['Metadata']['FLOPs in Paper'])[0]
            assert any(re.match(rf'{published}( x|$)', cell) for cell in cells)


def test_weights_are_the_authors_files():
    for name, model in MODELS.items():
        assert model['Weights'] is None  # a URL, or nothing
        source = model.get('Converted From')
        assert source is None or source['Code'].endswith(
            'github.com/showlab/sparseformer'
        )
        second = re.fullmatch(
            r'sparseformer-bootstrapped-(\w+?)_(augreg|clip)_.*', name
        )
        if second:
            size, kind = second.groups()
            kind = kind.replace('clip', 'openai_clip')
            file = f'sparseformer_btsp_{kind}_{size}_converted.pth'
            assert source['Weights'] == [file]
            assert ('--text-tower' in source['Command']) == ('clip' in name)
            continue
        match = re.fullmatch(r'sparseformer-(\w+)_8xb128_in1k', name)
        assert bool(source) == bool(match)
        if source:
            arch = match[1]
            assert source['Weights'] == [
                f'sparseformer_{arch[0]}_imagenet1k.pth',
                f'sparseformer_v1_{arch}_converted.pth',
            ]
            assert (ROOT / source['Command'].split()[1]).is_file()


@pytest.mark.parametrize('name', MODELS)
def test_parameters(name):
    from mmengine.config import Config
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import DefaultScope

    library = LIBRARIES[task(MODELS[name])]
    if library == 'mmaction':
        pytest.importorskip('sparseformer_mm.video.compat')
    pytest.importorskip(library)
    cfg = Config.fromfile(MIM / MODELS[name]['Config'])
    assert cfg.default_scope == library
    # Shapes are enough; these two compute with numbers, and have no part in the shapes.
    cfg.model.pop('data_preprocessor', None)
    clip = 'vision_backbone' in cfg.model
    if not clip:
        cfg.model.backbone.time_offsets = 'middle'
    with DefaultScope.overwrite_default_scope(library), torch.device('meta'):
        model = REGISTRY.build(cfg.model.vision_backbone if clip else cfg.model)
    counted = sum(p.numel() for p in model.parameters())
    if clip:
        projection = cfg.model.projection
        counted += projection.in_channels * projection.out_channels
    assert counted == MODELS[name]['Metadata']['Parameters']


@pytest.mark.parametrize(
    'name',
    [
        'sparseformer-tiny_8xb128_in1k',
        'sparseformer-base-144tok_in21k-pre_8xb128-30e_in1k-384px',
    ],
)
def test_multiply_adds(name):
    """Counted again where it is quick."""
    pytest.importorskip('mmpretrain')
    from sparseformer_mm.utils.configs import build_model
    from sparseformer_mm.utils.counting import count_macs

    meta = MODELS[name]['Metadata']
    height, width = map(int, meta['Input Size'].split(' x '))
    model = build_model(str(MIM / MODELS[name]['Config']))
    report = count_macs(model, torch.zeros(1, 3, height, width))
    assert report.total == meta['FLOPs']
    published = float(meta['FLOPs in Paper'].split()[0])
    assert report.total / 1e9 == pytest.approx(published, rel=0.1)


def test_the_readers_of_openmmlab_take_it():
    pytest.importorskip('modelindex')
    from modelindex.load_model_index import load

    index = load(str(INDEX))
    index.build_models_with_collections()
    assert {model.name for model in index.models} == set(MODELS)
    for model in index.models:
        expected = MODELS[model.name]
        assert not model.check_errors
        assert model.weights is None
        assert model.metadata.parameters == expected['Metadata']['Parameters']
        assert (model.results is None) == (expected['Results'] is None)
        assert model.full_model.paper['URL'].endswith(paper_of(expected['Config']))
