"""build(): plain PyTorch, the authors' files with their classifier, features."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

import sparseformer_mm
from helpers.golden import GOLDEN_ARCH, IMAGE_ARCH, VIDEO_ARCH, classify, golden_model
from sparseformer_mm import SparseFormer, SparseFormerClassifier, StageRecord, build
from sparseformer_mm.models.layouts import from_mm, to_mm, to_openmmlab

ARCH = dict(
    num_tokens=6,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=24,
    cortex_depth=2,
    num_heads=4,
    feat_channels=8,
)


@pytest.fixture
def log():
    """(level, line) of what mmengine logs while the test runs."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith('SparseFormer: '):
                lines.append((record.levelname, record.getMessage()))

    handler = Handler()
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def random_classifier(classes=3, seed=1, **kwargs):
    torch.manual_seed(seed)
    model = SparseFormerClassifier(dict(ARCH), classes, **kwargs)
    for param in model.parameters():
        torch.nn.init.uniform_(param)
    return model


def mm_state(model):
    """Under the core's names, the classifier as 'head.*'."""
    state = dict(model.backbone.state_dict())
    state['head.weight'], state['head.bias'] = model.head.fc.weight, model.head.fc.bias
    return {key: value.detach() for key, value in state.items()}


def same(model, other):
    own, theirs = model.state_dict(), other.state_dict()
    assert own.keys() == theirs.keys()
    return all(torch.allclose(own[key], theirs[key], atol=1e-6) for key in own)


@pytest.mark.parametrize(
    'arch, params', [('tiny', 31_522_212), ('small', 47_575_056), ('base', 81_076_996)]
)
def test_published_sizes(arch, params):
    with torch.device('meta'):
        model = build(arch)
    assert sum(p.numel() for p in model.parameters()) == params
    # mmpretrain's names.
    assert model.head.fc.out_features == model.num_classes == 1000
    assert {name.split('.')[0] for name in model.state_dict()} == {'backbone', 'head'}
    assert [n for n in model.state_dict() if n.startswith('head')] == [
        'head.fc.weight',
        'head.fc.bias',
    ]


@pytest.mark.parametrize('wrapper', [None, 'model'])
@pytest.mark.parametrize('layout', ['v1', 'v2', 'mm', 'mmpretrain'])
def test_the_authors_logits(image_v1, layout, wrapper, tmp_path, log):
    """Their numbers in float64, from their file or any translation of it."""
    state = image_v1.part()
    ours = to_mm(state, 'v1')
    if layout == 'v2':
        state = from_mm(ours, 'v2')
    elif layout == 'mm':
        state = ours
    elif layout == 'mmpretrain':
        state = to_openmmlab(ours, 'head.fc')
    torch.save({wrapper: state} if wrapper else dict(state), tmp_path / 'file.pth')

    model = build(IMAGE_ARCH, checkpoint=tmp_path / 'file.pth').double().eval()
    assert model.num_classes == len(ours['head.weight']) == 10
    with torch.no_grad():
        logits = model(image_v1['input'].double())
    # On the way to other names and back, corners of RoIs lose the last bit of float32.
    atol = 1e-6 if layout == 'v2' else 1e-9
    torch.testing.assert_close(logits, image_v1['logits'], atol=atol, rtol=0)
    (level, backbone), (head_level, head) = log
    assert level == head_level == 'INFO'
    assert f'SparseFormer: {len(state) - 2}/{len(state) - 2} tensors loaded' in backbone
    assert 'left out' not in backbone
    assert (f"the authors' {layout} names" in backbone) == (layout in ('v1', 'v2'))
    assert (f'under {wrapper!r}' in backbone) == bool(wrapper)
    assert head == 'SparseFormer: classifier of 10 classes loaded'


def test_five_lines_with_a_checkpoint_of_mmaction2(tmp_path):
    video = dict(spatial_dims=3, token_inflation=2)
    source = random_classifier(**video)
    state = to_openmmlab(mm_state(source), 'cls_head.fc_cls')
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), tmp_path / 'epoch_3.pth')
    model = build(dict(ARCH), checkpoint=str(tmp_path / 'epoch_3.pth'), **video)
    assert same(model, source)
    assert model(torch.rand(1, 3, 4, 16, 16)).shape == (1, 3)


def test_an_image_file_becomes_a_video_model(image_v1, log):
    arch = dict(GOLDEN_ARCH, num_tokens=9, num_points=9)
    model = build(
        arch, checkpoint=image_v1.part(), spatial_dims=3, token_inflation=2
    ).eval()
    assert 'inflated to tubes' in log[0][1]
    seen = model.features(torch.rand(1, 3, 4, 32, 32))
    assert seen.rois.shape == (1, 18, 6)
    assert seen.stages[0].points.shape == (1, 18, 9, 3)


def test_state_dicts_go_both_ways():
    source = random_classifier()
    model = SparseFormerClassifier(dict(ARCH), 3)
    model.load_state_dict(source.state_dict())
    assert same(model, source)
    assert same(build(dict(ARCH), checkpoint=source.state_dict()), source)
    wrapped = {f'module.{key}': value for key, value in source.state_dict().items()}
    assert same(build(dict(ARCH), checkpoint=wrapped), source)


@pytest.mark.parametrize('layout', ['v1', 'v2', 'mmpretrain'])
def test_another_number_of_classes_is_reported(layout, log):
    source = random_classifier()
    state = mm_state(source)
    if layout == 'mmpretrain':
        state = to_openmmlab(state, 'head.fc')
    else:
        state = from_mm(state, layout)
    torch.manual_seed(5)
    model = build(dict(ARCH), 7, state)
    assert same(model.backbone, source.backbone)
    assert model.head.fc.weight.shape == (7, 24)
    assert 0.01 < model.head.fc.weight.std() < 0.03 and (model.head.fc.bias == 0).all()
    assert log[-1] == (
        'WARNING',
        'SparseFormer: classifier re-initialised: 7 classes here, 3 in the checkpoint',
    )


def test_a_checkpoint_without_classifier(log):
    source = random_classifier()
    bare = source.backbone.state_dict()
    with pytest.raises(ValueError, match='no classifier; give num_classes.*=0'):
        build(dict(ARCH), checkpoint=bare)
    model = build(dict(ARCH), 4, bare)
    assert same(model.backbone, source.backbone)
    assert log[-1][0] == 'WARNING' and '4 classes here, none in' in log[-1][1]
    # A detector's file: its head is another thing.
    detector = to_openmmlab(bare)
    detector['bbox_head.fc_cls.weight'] = torch.ones(3, 24)
    model = build(dict(ARCH), 0, detector)
    assert same(model.backbone, source.backbone)
    assert list(model.head.parameters()) == []
    x = torch.rand(2, 3, 20, 30)
    torch.testing.assert_close(model.eval()(x), source.backbone.eval()(x)[0])


def test_a_broken_checkpoint_is_an_error(tmp_path):
    state = from_mm(mm_state(random_classifier()), 'v1')
    cut = {k: v for k, v in state.items() if not k.startswith('layers.3.')}
    with pytest.raises(RuntimeError, match='missing keys: cortex.1.'):
        build(dict(ARCH), checkpoint=cut)
    build(dict(ARCH), checkpoint=cut, allow_partial_load=True)
    with pytest.raises(RuntimeError, match='unexpected keys: stage_embedding'):
        build(dict(ARCH), checkpoint=dict(state, stage_embedding=torch.ones(1)))
    with pytest.raises(RuntimeError, match='mismatched keys'):
        build(dict(ARCH), checkpoint=state, cortex_dims=32)
    with pytest.raises(ValueError, match='no SparseFormer .* begin with: conv1.weight'):
        build(dict(ARCH), checkpoint={'conv1.weight': torch.ones(1)})
    with pytest.raises(FileNotFoundError, match='none.pth'):
        build(dict(ARCH), checkpoint=tmp_path / 'none.pth')


def test_wrong_arguments_name_what_there_is():
    with pytest.raises(ValueError, match="no model 'tinny'.* tiny, small, base"):
        build('tinny')
    with pytest.raises(ValueError, match='mmpretrain.get_model.*config_path'):
        build('sparseformer-tiny_8xb128_in1k')
    with pytest.raises(ValueError, match='out_type .*features'):
        build('tiny', out_type='tokens')
    with pytest.raises(ValueError, match='init_cfg .*checkpoint'):
        build('tiny', init_cfg=dict(type='Pretrained', checkpoint='x'))
    with pytest.raises(ValueError, match='num_classes=-1'):
        build('tiny', num_classes=-1)
    with pytest.raises(TypeError, match='num_token'):
        build('tiny', num_token=9)


def test_features_are_the_backbones(image_v1):
    state = image_v1.part()
    model = build(IMAGE_ARCH, checkpoint=state, out_indices=(0, 1)).double().eval()
    x = image_v1['input'].double()
    seen = model.features(x)
    backbone = golden_model(
        state, IMAGE_ARCH, out_type='tokens', out_indices=(0, 1)
    ).double()
    expected = backbone(x)
    assert torch.equal(seen.rois, expected.rois)
    assert torch.equal(seen.tokens, expected.tokens)
    assert torch.equal(seen.image_feature, expected.image_feature)
    assert len(seen.block_tokens) == 2 and seen.map_extents is None
    assert torch.equal(seen.block_tokens[1], seen.tokens)
    names = ['focusing.0', 'focusing.1', 'cortex.0']
    assert [stage.name for stage in seen.stages] == names
    for mine, theirs in zip(seen.stages, expected.stages):
        assert isinstance(mine, StageRecord)
        assert torch.equal(mine.points, theirs.points)
    batch = len(x)
    assert seen.tokens.shape == (batch, 9, 128) and seen.rois.shape == (batch, 9, 4)
    assert seen.stages[0].tokens.shape == (batch, 9, 64)
    assert seen.stages[-1].tokens.shape == (batch, 9, 128)
    assert seen.stages[-1].points.shape == (batch, 9, 9, 2)
    # The classifier takes single tokens, and the model is as it was.
    assert model.head(seen.tokens).shape == (batch, 9, 10)
    assert model.backbone.out_type == 'pooled'
    torch.testing.assert_close(model(x), model.head(seen.pooled))
    torch.testing.assert_close(model(x), classify(seen.pooled, to_mm(state, 'v1')))


def test_features_train_the_models_own_parameters():
    model = build(dict(ARCH), 3)
    seen = model.features(torch.rand(2, 3, 20, 30))
    (seen.tokens.sum() + seen.rois.square().sum()).backward()
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0
    assert model.backbone.latent.token_rois.grad.abs().sum() > 0


def test_padding_does_not_matter():
    model = random_classifier().eval()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.1)
    image, shape = torch.rand(1, 3, 40, 24), [(40, 24)]
    padded = torch.full((1, 3, 64, 48), 7.0)
    padded[..., :40, :24] = image
    torch.testing.assert_close(model(padded, shape), model(image))
    seen = model.features(padded, shape)
    torch.testing.assert_close(seen.rois, model.features(image).rois)
    assert seen.map_extents.tolist() == [[6.0, 10.0]]


def test_video_arguments(video_v2):
    state = video_v2.part()
    model = build(
        VIDEO_ARCH, checkpoint=state, spatial_dims=3, token_inflation=2
    ).double()
    with torch.no_grad():
        logits = model.eval()(video_v2['input'].double())
    torch.testing.assert_close(logits, video_v2['logits'], atol=1e-9, rtol=0)


def test_the_files_example_needs_torch_and_mmengine_only():
    example = sparseformer_mm.api.__doc__.split('\n\n', 1)[1]
    example = example.replace(", checkpoint='sparseformer_t_imagenet1k.pth'", '')
    lines = [line.strip() for line in example.strip().splitlines()]
    blocked = ('mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mmaction', 'timm')
    code = '\n'.join(
        [
            'import sys',
            f'sys.modules.update(dict.fromkeys({blocked}))',
            *lines,
            'print(*logits.shape, *seen.tokens.shape, len(seen.stages))',
        ]
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['1', '1000', '1', '49', '512', '5']


def test_config_paths():
    names = sparseformer_mm.list_configs()
    assert len(names) == len(set(names)) and not any('_base_' in name for name in names)
    tiny = 'sparseformer-tiny_8xb128_in1k'
    path = sparseformer_mm.config_path(tiny)
    assert path.endswith(f'classification/{tiny}.py')
    assert "arch='tiny'" in Path(path).read_text('utf-8')
    for same_file in (f'{tiny}.py', f'classification/{tiny}'):
        assert sparseformer_mm.config_path(same_file) == path
    for name in names:
        assert sparseformer_mm.config_path(name).endswith(f'{name}.py')
    assert sparseformer_mm.list_configs('video/*-tiny-infl*') == [
        f'video/sparseformer-tiny-infl{n}_32xb8-32x4-50e_k400' for n in (16, 1, 4)
    ]


def test_unknown_config_names_list_near_ones():
    with pytest.raises(ValueError) as caught:
        sparseformer_mm.config_path('sparseformer_tiny_8xb128_in1k')
    message = str(caught.value)
    assert 'near it are classification/sparseformer-tiny_8xb128_in1k' in message
    assert f'all {len(sparseformer_mm.list_configs())} are in' in message
    with pytest.raises(ValueError, match='sparseformer-base_8xb128-60e_in21k'):
        sparseformer_mm.config_path('base_8xb128-60e')
    with pytest.raises(ValueError, match="no config 'zzzz'; all"):
        sparseformer_mm.config_path('zzzz')
    shared = 'sparseformer-nano_1xb16_digits'
    with pytest.raises(ValueError, match=f'detection/{shared} or video/{shared}'):
        sparseformer_mm.config_path(shared)


def test_default_weights_are_those_of_the_backbone():
    """Built models are ready to train: nothing waits for an init_weights()."""
    torch.manual_seed(0)
    model = build(dict(ARCH), 3)
    torch.manual_seed(0)
    assert same(model.backbone, SparseFormer(dict(ARCH)))
