"""build(): plain PyTorch, the authors' files with their classifier, features."""

import pytest
import torch

import sparseformer_mm
from helpers.fresh import succeed_fresh
from helpers.golden import GOLDEN_ARCH, IMAGE_ARCH, VIDEO_ARCH, golden_model
from helpers.small_model import ARCH, BOOTSTRAPPED
from sparseformer_mm import SparseFormer, SparseFormerClassifier, build
from sparseformer_mm.models.layouts import from_mm, to_mm, to_openmmlab

ARCH = dict(ARCH, num_tokens=6, num_points=4)


def random_classifier(classes=3, seed=1, **kwargs):
    torch.manual_seed(seed)
    model = SparseFormerClassifier(dict(ARCH), classes, **kwargs)
    for param in model.parameters():
        torch.nn.init.uniform_(param)
    return model


def mm_state(model):
    """Under the core's names, the classifier as 'head.*'."""
    state = dict(model.backbone.state_dict())
    state.update((f'head.{k}', v) for k, v in model.head.fc.state_dict().items())
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


@pytest.mark.parametrize('num_classes', [None, 7])
@pytest.mark.parametrize('layout', ['bootstrapped', 'mm'])
def test_a_clip_model_gives_the_embedding(layout, num_classes):
    """Its projection has no bias; embeddings of texts classify."""
    arguments = dict(BOOTSTRAPPED, arch='bootstrapped-clip-base')
    source = SparseFormerClassifier(**arguments, num_classes=7, head_bias=False)
    state = mm_state(source)
    state = from_mm(state, layout) if layout == 'bootstrapped' else state
    model = build(**arguments, num_classes=num_classes, checkpoint=state)
    assert same(model, source) and model.head.fc.bias is None
    images = torch.randn(3, 3, 32, 32)
    embeddings = torch.nn.functional.normalize(model.eval()(images))
    assert embeddings.shape == (3, 7)
    scores = embeddings @ embeddings.t()  # as if texts said the same
    assert scores.argmax(1).tolist() == [0, 1, 2]


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


@pytest.mark.parametrize(
    'arch, kwargs, message',
    [
        ('tinny', {}, "no model 'tinny'.* tiny, small, base"),
        ('sparseformer-tiny_8xb128_in1k', {}, 'mmpretrain.get_model.*config_path'),
        ('tiny', dict(out_type='tokens'), 'out_type .*features'),
        ('tiny', dict(init_cfg=dict(type='Pretrained')), 'init_cfg .*checkpoint'),
        ('tiny', dict(num_classes=-1), 'num_classes=-1'),
        ('tiny', dict(num_token=9), 'num_token'),
    ],
)
def test_wrong_arguments_name_what_there_is(arch, kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(arch, **kwargs)


def test_features_are_the_backbones(image_v1):
    state = image_v1.part()
    model = build(IMAGE_ARCH, checkpoint=state, out_indices=(0, 1)).double().eval()
    x = image_v1['input'].double()
    seen = model.features(x)
    backbone = golden_model(state, IMAGE_ARCH, out_type='tokens', out_indices=(0, 1))
    expected = backbone(x)
    for field in ('tokens', 'rois', 'image_feature'):
        assert torch.equal(getattr(seen, field), getattr(expected, field)), field
    assert seen.map_extents is None and torch.equal(seen.block_tokens[1], seen.tokens)
    # The classifier takes single tokens, and the model is as it was.
    assert model.head(seen.tokens).shape == (len(x), 9, 10)
    assert model.backbone.out_type == 'pooled'
    assert torch.equal(model(x), model.head(seen.pooled))


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
    assert succeed_fresh(code).split() == ['1', '1000', '1', '49', '512', '5']


def test_default_weights_are_those_of_the_backbone():
    """Built models are ready to train: nothing waits for an init_weights()."""
    torch.manual_seed(0)
    model = build(dict(ARCH), 3)
    torch.manual_seed(0)
    assert same(model.backbone, SparseFormer(dict(ARCH)))
