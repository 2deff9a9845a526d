"""Configs of the second paper's published models, and CLIP's zero-shot classes."""

import importlib
import inspect
import re

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.registry import MODELS  # noqa: E402
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.registry import TOKENIZER  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from helpers.scripts import load_tool, run_tool  # noqa: E402
from helpers.shipped_configs import CONFIGS, load, page  # noqa: E402
from helpers.small_model import BOOTSTRAPPED, small_bootstrapped  # noqa: E402
from sparseformer_mm import build  # noqa: E402
from sparseformer_mm.models.arch import ARCHS  # noqa: E402
from sparseformer_mm.models.layouts import from_mm  # noqa: E402
from sparseformer_mm.utils.counting import count_macs  # noqa: E402

pytestmark = pytest.mark.mmpretrain
FOLDER = 'classification/bootstrapped'
NAMES = sorted(path.stem for path in (CONFIGS / FOLDER).glob('*.py'))


@pytest.fixture(autouse=True, scope='module')
def clip_is_there():
    """Their CLIP, in place of what stands for it where packages for texts lack."""
    import mmpretrain.models  # noqa: F401

    classes = MMPRETRAIN_MODELS.module_dict
    before = dict(classes)
    if not inspect.isclass(classes['CLIPZeroShot']):
        for name in ('CLIP', 'CLIPZeroShot'):
            del classes[name]
        clip = importlib.import_module('mmpretrain.models.multimodal.clip')
        classes.update((name, getattr(clip, name)) for name in clip.__all__)
    yield
    classes.clear()
    classes.update(before)


@TOKENIZER.register_module()
class StandInTokenizer:
    """Reads nothing from the net."""

    def get_vocab(self):
        return {'<|startoftext|>': 0, '<|endoftext|>': 1}


def clip_model(name: str, **changes):
    """A CLIP of a config, with a small text side."""
    cfg = load(f'{FOLDER}/{name}').model
    cfg.tokenizer = dict(type='StandInTokenizer')
    cfg.update(vocab_size=2, context_length=4)
    cfg.text_backbone.layers = 1
    for key, value in changes.items():
        cfg[key].update(value)
    return MODELS.build(cfg)


def test_there_is_one_for_each_model():
    archs = {}
    for name in NAMES:
        model = load(f'{FOLDER}/{name}').model
        archs[name] = (model.get('backbone') or model.vision_backbone).arch
    assert len(archs) == 4
    assert sorted(archs.values()) == sorted(n for n in ARCHS if n.startswith('boot'))
    for name, arch in archs.items():
        size = 'large' if 'large' in name else 'base'
        kind = '-clip' if '_clip_' in name else ''
        assert arch == f'bootstrapped{kind}-{size}'


def test_table_is_that_of_the_metafile():
    yaml = pytest.importorskip('yaml')
    text = page(FOLDER)
    index = yaml.safe_load((CONFIGS / FOLDER / 'metafile.yml').read_text('utf-8'))
    for model in index['Models']:
        name, meta = model['Name'], model['Metadata']
        (line,) = re.findall(rf'^\| \[{name}\.py\].*$', text, re.MULTILINE)
        arch = load(f'{FOLDER}/{name}').model
        arch = ARCHS[(arch.get('backbone') or arch.vision_backbone).arch]
        assert f'| {arch["num_tokens"]} + 1 |' in line
        assert f'| {meta["Parameters"]:,} | {meta["FLOPs"] / 1e9:.2f} |' in line
        assert f'`{model["Converted From"]["Weights"][0]}`' in line
    size = 'bootstrapped-base'
    report = count_macs(build(size).eval(), torch.zeros(1, 3, 224, 224))
    assert report.total == index['Models'][0]['Metadata']['FLOPs']


@pytest.mark.parametrize('name', NAMES)
def test_widths_fit_and_pictures_are_normalised_as_they_were(name):
    cfg = load(f'{FOLDER}/{name}')
    mean, std = cfg.data_preprocessor.mean, cfg.data_preprocessor.std
    if '_clip_' not in name:
        arch = ARCHS[cfg.model.backbone.arch]
        assert cfg.model.head.in_channels == arch['cortex_dims']
        assert mean == std == [127.5] * 3
        return
    assert [round(x / 255, 8) for x in mean] == [0.48145466, 0.4578275, 0.40821073]
    assert [round(x / 255, 8) for x in std] == [0.26862954, 0.26130258, 0.27577711]
    with torch.device('meta'):
        model = clip_model(name)
    width = 512 if 'base' in name else 768
    assert tuple(model.visual_proj.proj.shape) == (model.visual.embed_dims, width)
    assert tuple(model.text_projection.shape) == (width, width)


def test_learns_as_a_classifier(tmp_path):
    """From the authors' file, with mmpretrain's head on the class token."""
    model = load(f'{FOLDER}/{NAMES[0]}').model
    source = small_bootstrapped()
    torch.save(from_mm(source.state_dict(), 'bootstrapped'), tmp_path / 'authors.pth')
    model.backbone.update(BOOTSTRAPPED, drop_path_rate=0)
    model.backbone.init_cfg.checkpoint = str(tmp_path / 'authors.pth')
    model.head.in_channels = 24
    model.pop('train_cfg')
    model = MODELS.build(model)
    model.init_weights()
    loaded = model.backbone.state_dict()
    for name, value in source.state_dict().items():
        torch.testing.assert_close(loaded[name], value)
    samples = [DataSample().set_gt_label(label) for label in (3, 7)]
    images = torch.randn(2, 3, 32, 32)
    model.train()(images, samples, mode='loss')['loss'].backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, name
    with torch.no_grad():
        logits = model.eval()(images, mode='tensor')
        seen = model.backbone.forward_intermediates(images)
        torch.testing.assert_close(logits, model.head.fc(seen.pooled))


@pytest.mark.parametrize('source', ['authors', 'bootstrap'])
def test_embeddings_of_texts_classify(source, tmp_path):
    """mmpretrain's CLIP takes the tower, from a file that the converter wrote."""
    (name,) = (name for name in NAMES if 'base_clip' in name)
    small = dict(BOOTSTRAPPED, arch='bootstrapped-clip-base')
    changes = dict(vision_backbone=small, projection=dict(in_channels=24))
    tower = small_bootstrapped(arch='bootstrapped-clip-base').eval()
    projection = torch.randn(512, 24)
    state = dict(tower.state_dict(), **{'head.weight': projection})
    authors = from_mm(state, 'bootstrapped')
    if source == 'bootstrap':  # of this package: the projection is a neck
        authors = {
            f'backbone.{key}': value for key, value in tower.state_dict().items()
        }
        authors.update({'neck.fc.weight': projection, 'neck.fc.bias': torch.zeros(512)})
    torch.save(authors, tmp_path / 'authors.pth')
    clip = clip_model(name, **changes)
    torch.save(dict(state_dict=clip.state_dict()), tmp_path / 'clip.pth')
    tool = load_tool('model_converters/showlab_to_mm')
    files = tmp_path / 'authors.pth', tmp_path / 'both.pth'
    status, log = run_tool(tool, *files, '--text-tower', tmp_path / 'clip.pth')
    assert status == 0, log

    model = clip_model(name, **changes).eval()
    model.load_state_dict(torch.load(files[1])['state_dict'])
    assert torch.equal(model.text_projection, clip.text_projection)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = tower(images)[0] @ projection.t()
        torch.testing.assert_close(model.extract_image_feat(images), expected)
        # As if these were the embeddings of texts, of classes in another order.
        order = [2, 0, 1]
        texts = torch.nn.functional.normalize(expected[order])
        model.text_prototype_embeds = texts.t()
        samples = model(images, mode='predict')
    assert [order[int(sample.pred_label)] for sample in samples] == [0, 1, 2]


def test_text_towers_that_do_not_fit(tmp_path, bootstrapped_v2):
    state = bootstrapped_v2.part()
    no_clip, clip = tmp_path / 'no_clip.pth', tmp_path / 'clip.pth'
    torch.save(dict(state_dict={'a': torch.ones(1)}), no_clip)
    towers = {'text_projection': torch.ones(6, 7), 'logit_scale': torch.ones(())}
    torch.save(dict(state_dict=towers), clip)
    tool = load_tool('model_converters/showlab_to_mm')
    projection = {k: v for k, v in state.items() if k != 'proj.bias'}
    for content, tower, message in (
        (projection, no_clip, 'no_clip.pth is no CLIP checkpoint of mmpretrain'),
        (state, clip, 'it has no projection, or one with a bias'),
        (projection, clip, 'embeddings of 10 numbers, the texts of .*clip.pth 7'),
    ):
        torch.save(content, tmp_path / 'src.pth')
        files = tmp_path / 'src.pth', tmp_path / 'dst.pth'
        status, log = run_tool(tool, *files, '--text-tower', tower)
        assert status == 1 and re.search(message, log), log
        assert not files[1].exists()
