"""Loading: other layouts, other sizes, and what the log and the errors say."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint

from helpers.golden import VIDEO_ARCH, golden_model
from helpers.small_model import ARCH
from sparseformer_mm import SparseFormer
from sparseformer_mm.engine import ConvertCheckpointHook
from sparseformer_mm.models.finding import CheckpointError, find_weights
from sparseformer_mm.models.layouts import from_mm, inflate_state, to_mm
from sparseformer_mm.models.rois import init_offsets
from sparseformer_mm.registry import MODELS

ARCH = dict(ARCH, num_tokens=6, num_points=4)
TOTAL = len(SparseFormer(ARCH).state_dict())


class Classifier(BaseModule):
    """As mmpretrain's: a backbone, then a head with a layer named fc."""

    def __init__(self, backbone, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = MODELS.build(dict(type='SparseFormer', **backbone))
        self.head = torch.nn.Module()
        self.head.fc = torch.nn.Linear(backbone.get('cortex_dims', 24), 3)


def report(log):
    """The last report of a loading."""
    return log[-1][1]


def random_model(seed=1, **kwargs):
    torch.manual_seed(seed)
    model = SparseFormer(dict(ARCH), **kwargs)
    for param in model.parameters():
        torch.nn.init.uniform_(param)
    return model


def same(model, state):
    own = model.state_dict()
    assert own.keys() == state.keys()
    return all(torch.equal(own[k], state[k]) for k in own)


def test_authors_layouts_round_trip(image_v1, video_v2):
    for state, layout in (
        (image_v1.part(), 'v1'),
        (video_v2.part(), 'v2'),
        (video_v2.part('image_state/'), 'v2'),
    ):
        assert find_weights(state)[1:4] == ('', layout, '')
        ours = to_mm(state, layout)
        assert find_weights(ours)[1:4] == ('', 'mm', '')
        assert len(ours) == len(state)  # every name is known
        back = from_mm(ours, layout)
        assert back.keys() == state.keys()
        for key, value in state.items():
            # Corners go through center and size and so may lose the last bit.
            torch.testing.assert_close(back[key], value, atol=1e-6, rtol=0)
        other = 'v2' if layout == 'v1' else 'v1'
        assert to_mm(from_mm(ours, other), other).keys() == ours.keys()


def test_from_mm_refuses_what_the_authors_do_not_have():
    state = SparseFormer(dict(ARCH), decoding='static').state_dict()
    with pytest.raises(KeyError, match='no counterpart of .*channel_mixing'):
        from_mm(state, 'v1')


def test_inflation_gives_the_authors_video_state(video_v2):
    state = inflate_state(to_mm(video_v2.part('image_state/'), 'v2'), 2)
    ours = from_mm(state, 'v2')
    stored = video_v2.part('inflated_state/')
    assert len(stored) == 9
    for key, value in stored.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=0)
    unchanged = set(ours) - set(stored)
    for key in unchanged:
        assert torch.equal(ours[key], video_v2[f'image_state/{key}'])


def test_inflation_with_points_spread_in_time(video_v2):
    image = to_mm(video_v2.part('image_state/'), 'v2')
    middle, spread = (inflate_state(image, 2, form) for form in ('middle', 'spread'))
    times = init_offsets(36, 3)[:, 2]
    changed = [key for key in spread if not torch.equal(spread[key], middle[key])]
    assert changed == ['focusing.sampler.bias', 'cortex.0.sampler.bias']
    for key in changed:
        offsets = spread[key].view(36, 3)
        assert torch.equal(offsets[:, :2], image[key].view(36, 2))
        torch.testing.assert_close(offsets[:, 2], times.to(offsets))


WRAPPERS = {
    'bare': lambda s: s,
    'model': lambda s: {'model': s, 'epoch': 3, 'optimizer': {'state': {}}},
    'ema': lambda s: {'model': {k: v * 0 for k, v in s.items()}, 'model_ema': s},
    'module': lambda s: {'model': {f'module.{k}': v for k, v in s.items()}},
    'ema_module': lambda s: {
        'state_dict': {k: v * 0 for k, v in s.items()},
        'state_dict_ema': {f'module.{k}': v for k, v in s.items()},
    },
}


@pytest.fixture(params=itertools.product(['v1', 'v2'], WRAPPERS), ids='-'.join)
def authors(request):
    """An authors' file: its state under our names, layout, wrapper, content."""
    layout, wrapper = request.param
    head = {'head.weight': torch.rand(3, 24), 'head.bias': torch.rand(3)}
    state = dict(random_model().state_dict(), **head)
    return state, layout, wrapper, WRAPPERS[wrapper](from_mm(state, layout))


def test_authors_files_load_through_pretrained(authors, tmp_path, log):
    state, layout, wrapper, content = authors
    file = tmp_path / 'authors.pth'
    torch.save(content, file)
    model = SparseFormer(
        dict(ARCH), init_cfg=dict(type='Pretrained', checkpoint=str(file))
    )
    model.init_weights()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key])
    assert f"{TOTAL}/{TOTAL} tensors loaded (the authors' {layout} names" in report(log)
    assert 'classifier left out: head.weight, head.bias' in report(log)


def test_authors_files_load_into_a_classifier_through_the_hook(authors):
    state, _, _, checkpoint = authors
    runner = SimpleNamespace(model=Classifier(dict(ARCH)))
    ConvertCheckpointHook().after_load_checkpoint(runner, checkpoint)
    runner.model.load_state_dict(checkpoint['state_dict'], strict=True)
    for key, value in runner.model.backbone.state_dict().items():
        torch.testing.assert_close(value, state[key])
    assert torch.equal(runner.model.head.fc.weight, state['head.weight'])
    assert torch.equal(runner.model.head.fc.bias, state['head.bias'])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: {f'model.{k}': v for k, v in s.items()},
        lambda s: {'state_dict': {f'_orig_mod.{k}': v for k, v in s.items()}},
        lambda s: {k.replace('backbone.', 'backbone._orig_mod.'): s[k] for k in s},
        lambda s: {'state_dict': {k: v * 0 for k, v in s.items()}, 'model_ema': s},
        lambda s: {
            'state_dict': {
                **{f'model.{k}': v * 0 for k, v in s.items()},
                **{f'ema.module.{k}': v for k, v in s.items()},
            }
        },
    ],
)
def test_wrapped_models_load_with_their_head_through_the_hook(wrap):
    source, model = Classifier(dict(ARCH)), Classifier(dict(ARCH))
    checkpoint = dict(wrap(source.state_dict()))
    runner = SimpleNamespace(model=model)
    ConvertCheckpointHook().after_load_checkpoint(runner, checkpoint)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert same(model, source.state_dict())


def test_the_hook_wants_a_training_to_resume():
    model = Classifier(dict(ARCH))
    runner = SimpleNamespace(model=model, _resume=True)
    with pytest.raises(CheckpointError, match='no training to go on with.*load_from'):
        ConvertCheckpointHook().after_load_checkpoint(runner, model.state_dict())
    state = model.state_dict()
    checkpoint = dict(state_dict=state, message_hub={}, meta=dict(epoch=1, iter=2))
    ConvertCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert checkpoint['state_dict'] is state


def test_a_teacher_and_its_student_load_what_is_theirs():
    """A model that has two SparseFormers itself is no reason to choose."""
    pair = torch.nn.ModuleDict(
        dict(teacher=Classifier(dict(ARCH)), student=Classifier(dict(ARCH)))
    )
    checkpoint = dict(state_dict=pair.state_dict())
    ConvertCheckpointHook().after_load_checkpoint(
        SimpleNamespace(model=pair), checkpoint
    )
    pair.load_state_dict(checkpoint['state_dict'])


def test_the_hook_leaves_other_files_alone():
    runner = SimpleNamespace(model=Classifier(dict(ARCH)))
    checkpoint = dict(state_dict=runner.model.state_dict(), meta=dict(epoch=3))
    before = dict(checkpoint)
    ConvertCheckpointHook().after_load_checkpoint(runner, checkpoint)
    assert checkpoint == before


def test_an_authors_file_without_the_hook_names_the_cure(tmp_path):
    file = tmp_path / 'authors.pth'
    torch.save(from_mm(random_model().state_dict(), 'v1'), file)
    with pytest.raises(
        RuntimeError, match=r"under 'backbone\.'.*ConvertCheckpointHook"
    ):
        load_checkpoint(Classifier(dict(ARCH)), str(file))


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_own_checkpoints_load_with_and_without_prefix(prefix, tmp_path, log):
    file = tmp_path / 'mm.pth'
    source = random_model()
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    torch.save(dict(state_dict=dict(state, **{'head.fc.weight': torch.zeros(1)})), file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    if prefix:
        init_cfg['prefix'] = prefix
    model = SparseFormer(dict(ARCH), init_cfg=init_cfg)
    model.init_weights()
    assert same(model, source.state_dict())
    assert f'SparseFormer: {TOTAL}/{TOTAL} tensors loaded' in report(log)


def test_plain_load_state_dict_stays_strict():
    model, source = SparseFormer(dict(ARCH)), random_model()
    state = source.state_dict()
    before = dict(state)
    model.load_state_dict(state)
    assert same(model, source.state_dict())
    assert state.keys() == before.keys()  # the caller's dictionary is left alone


@pytest.mark.parametrize(
    'kwargs, unexpected',
    [
        (dict(cortex_depth=1), 'cortex.1.attn_norm.weight'),
        (dict(decoding='linear'), 'focusing.decoder.channel_bias'),
        (dict(fixed_rois=True), 'focusing.roi_adjust.norm.weight'),
        (dict(), 'misspelt'),
    ],
)
def test_tensors_without_a_place_are_an_error(kwargs, unexpected):
    state = random_model().state_dict()
    if not kwargs:
        state['misspelt'] = torch.ones(1)
    model = SparseFormer(dict(ARCH), **kwargs)
    with pytest.raises(RuntimeError, match=f'unexpected keys: .*{unexpected}'):
        model.load_state_dict(state, strict=False)
    model.allow_partial_load = True
    model.load_state_dict(state, strict=False)


def test_an_authors_file_of_another_model_is_an_error():
    """Their later variants share most names; loading only those would be wrong."""
    state = from_mm(random_model().state_dict(), 'v2')
    state['stage_embedding'] = torch.ones(1)
    with pytest.raises(RuntimeError, match='unexpected keys: stage_embedding'):
        SparseFormer(dict(ARCH)).load_state_dict(state)


@pytest.mark.parametrize('kwargs', [dict(num_tokens=9), dict(num_points=9)])
def test_re_initialising_can_be_forbidden(kwargs):
    model = SparseFormer(dict(ARCH), **kwargs)
    model.allow_reinit = False
    with pytest.raises(RuntimeError, match='re-initialising is not allowed here'):
        model.load_state_dict(random_model().state_dict())


def test_another_number_of_tokens_re_initialises_them(log):
    source = random_model()
    model = SparseFormer(dict(ARCH), num_tokens=9)
    drawn = {k: v.clone() for k, v in model.latent.state_dict().items()}
    model.load_state_dict(source.state_dict())
    assert same(model.latent, drawn)
    assert same(model.cortex, source.cortex.state_dict())
    assert (
        f'{TOTAL - 2}/{TOTAL} tensors loaded; 9 tokens here, 6 in the checkpoint; '
        're-initialised: latent.token_embeddings, latent.token_rois'
    ) in report(log)


def test_another_number_of_points_keeps_the_channel_mixing(log):
    source = random_model()
    model = SparseFormer(dict(ARCH), num_points=9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(source.state_dict())
    own, theirs = model.state_dict(), source.state_dict()
    redrawn = report(log).split('re-initialised: ')[1].split(', ')
    assert len(redrawn) == 2 * 6
    for key, value in own.items():
        if 'generate' in key:
            assert torch.equal(value[:64], theirs[key][:64])
            assert torch.equal(value[64:], before[key][64:])
        else:
            assert torch.equal(value, (before if key in redrawn else theirs)[key])
    assert '9 sampling points here, 4 in the checkpoint' in report(log)


def test_an_image_model_loads_into_a_video_model(video_v2, log):
    state = video_v2.part('image_state/')
    video = golden_model(state, VIDEO_ARCH, spatial_dims=3, token_inflation=2)
    assert (
        "image weights inflated to tubes with token_inflation=2, time_offsets='spread'"
        in report(log)
    )
    assert '80/80 tensors loaded' in report(log)
    assert video.latent.token_rois.shape == (8, 6)


@pytest.mark.parametrize('fixed', [False, True])
def test_a_video_checkpoint_does_not_load_into_an_image_model(fixed):
    state = SparseFormer(dict(ARCH), spatial_dims=3, fixed_rois=fixed).state_dict()
    with pytest.raises(RuntimeError, match='holds a video model') as error:
        SparseFormer(dict(ARCH), fixed_rois=fixed).load_state_dict(state)
    assert 'sampling points here' not in str(error.value)


def test_nothing_that_fits_is_an_error():
    with pytest.raises(
        RuntimeError,
        match=f'0/{TOTAL} tensors loaded.*missing.*allow_partial_load=True',
    ):
        SparseFormer(dict(ARCH)).load_state_dict(
            {'layer1.conv.weight': torch.ones(1)}, strict=False
        )


def test_a_truncated_checkpoint_is_an_error_unless_allowed(log):
    state = random_model().state_dict()
    for key in [k for k in state if k.startswith('cortex.1.')]:
        del state[key]
    with pytest.raises(RuntimeError, match='missing keys: cortex.1.'):
        SparseFormer(dict(ARCH)).load_state_dict(dict(state), strict=False)
    model = SparseFormer(dict(ARCH), allow_partial_load=True)
    kept = {k: v.clone() for k, v in model.cortex[1].state_dict().items()}
    model.load_state_dict(dict(state), strict=False)
    assert same(model.cortex[1], kept)
    assert same(model.cortex[0], random_model().cortex[0].state_dict())
    assert 'missing keys: cortex.1.' in report(log)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(cortex_dims=32), r'mismatched keys: .*\(here \(32, .*checkpoint \(24, '),
        (
            dict(focusing_dims=32, cortex_dims=48, num_points=9),
            'mismatched keys: .*Check that arch',
        ),
    ],
)
def test_another_width_is_an_error_that_shows_the_shapes(kwargs, message):
    with pytest.raises(RuntimeError, match=message):
        SparseFormer(dict(ARCH), **kwargs).load_state_dict(random_model().state_dict())
