"""Our names in mmpretrain's hub, and its inferencer."""

import numpy as np
import pytest
import torch

mmpretrain = pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.registry import DefaultScope  # noqa: E402
from mmpretrain import ImageClassificationInferencer, get_model  # noqa: E402
from mmpretrain.apis import ModelHub  # noqa: E402
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES  # noqa: E402
from PIL import Image  # noqa: E402

import sparseformer_mm.classification  # noqa: E402
from helpers.fresh import run_fresh  # noqa: E402

pytestmark = pytest.mark.mmpretrain
TINY = 'sparseformer-tiny_8xb128_in1k'
NAMES = [
    name.split('/')[-1]
    for pattern in ('sparseformer-*', 'bootstrapped/*')
    for name in sparseformer_mm.list_configs(f'classification/{pattern}')
    if 'ablations/' not in name and '-nano' not in name
]
# Small enough to run in no time; the names and all else are the real ones.
SIZES = dict(num_tokens=9, focusing_dims=64, cortex_dims=64, cortex_depth=1)
SMALL = dict(backbone=SIZES, head=dict(in_channels=64))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return str(tmp_path / 'photo.png')


@pytest.fixture
def checkpoint(tmp_path):
    """A random classifier with a strong opinion."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = get_model(TINY, **SMALL)
    torch.nn.init.normal_(model.head.fc.weight)
    file = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), file)
    return str(file)


def test_all_names_are_listed():
    assert len(NAMES) == 15
    assert mmpretrain.list_models('*sparseformer*') == sorted(NAMES)
    # The hub's own models are still there.
    assert 'swin-tiny_16xb64_in1k' in mmpretrain.list_models('swin-tiny')
    found = ImageClassificationInferencer.list_models('sparseformer-small')
    assert found == ['sparseformer-small_8xb128_in1k']  # has results, 21k has none


def test_importing_twice_is_fine():
    before = mmpretrain.list_models('sparseformer')
    sparseformer_mm.classification._register()
    assert mmpretrain.list_models('sparseformer') == before


# (CLIP needs packages for texts: mmpretrain's error says so.)
@pytest.mark.parametrize('name', [name for name in NAMES if '_clip_' not in name])
def test_every_name_builds_what_its_metafile_says(name):
    meta = ModelHub.get(name)
    with torch.device('meta'):
        model = get_model(name)
    assert type(model.backbone) is sparseformer_mm.SparseFormer
    assert sum(p.numel() for p in model.parameters()) == meta.metadata.parameters
    assert meta.config.filename == sparseformer_mm.config_path(name)
    assert meta.weights is None


def test_get_model_without_weights_says_so():
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):
        get_model(TINY, pretrained=True, **SMALL)


def test_inferencer_takes_names_and_paths(photo, checkpoint, tmp_path):
    by_name = ImageClassificationInferencer(TINY, checkpoint, 'cpu', **SMALL)
    path = sparseformer_mm.config_path(TINY)
    by_path = ImageClassificationInferencer(path, checkpoint, 'cpu', **SMALL)
    (named,) = by_name(photo, show_dir=str(tmp_path / 'out'))
    (found,) = by_path(photo)
    assert named['pred_scores'].shape == (1000,)
    assert named['pred_scores'].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(named['pred_scores'], found['pred_scores'])
    assert named['pred_class'] == by_name.classes[named['pred_label']]
    drawn = np.array(Image.open(tmp_path / 'out' / 'photo.png'))
    assert (drawn != np.array(Image.open(photo))).any()

    # The same numbers in plain PyTorch, on what the config's pipeline makes of it.
    plain = sparseformer_mm.build('tiny', checkpoint=checkpoint, **SIZES)
    (batch,) = by_name.preprocess([photo])
    inputs = by_name.model.data_preprocessor(batch)['inputs']
    assert inputs.shape == (1, 3, 224, 224)
    with torch.no_grad():
        scores = plain.eval()(inputs).softmax(-1)[0]
    assert scores.max() > 0.2
    np.testing.assert_allclose(scores.numpy(), found['pred_scores'], atol=1e-5)


def test_inference_model_finds_its_inferencer(photo):
    result = mmpretrain.inference_model(TINY, photo, pretrained=False)
    assert result['pred_scores'].shape == (1000,)
    assert result['pred_scores'].sum() == pytest.approx(1, abs=1e-5)
    assert result['pred_class'] in IMAGENET_CATEGORIES


def test_the_package_alone_leaves_mmpretrain_out():
    code = (
        'import sys, sparseformer_mm\n'
        "assert 'mmpretrain' not in sys.modules\n"
        "sys.modules['mmpretrain'] = None\n"
        'import sparseformer_mm.classification\n'
    )
    status, output = run_fresh(code)
    assert status
    (*_, last) = output.strip().splitlines()
    assert last.startswith(
        'ImportError: sparseformer_mm.classification needs mmpretrain'
    )
    assert 'pip install onedl-mmpretrain' in last
