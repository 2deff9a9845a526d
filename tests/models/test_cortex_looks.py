"""Cortex blocks that look again: stages, RoIs, gradients, checkpoints, errors."""

import pytest
import torch

from helpers.small_model import ARCH, small_model
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.layouts import from_mm

pytestmark = pytest.mark.usefixtures('float64')


def images(seed=0):
    return torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(seed))


def deep(**kwargs):
    return small_model(cortex_depth=3, out_indices=(0, 1, 2), **kwargs)


def test_each_looking_block_is_a_stage_whose_rois_the_next_starts_from():
    model = deep(cortex_looks=2)
    seen = model.forward_intermediates(images())
    names = [stage.name for stage in seen.stages]
    assert names == ['focusing.0', 'focusing.1', 'cortex.0', 'cortex.1']
    for level, stage in enumerate(seen.stages[2:]):
        assert torch.equal(seen.block_rois[level], stage.rois)
    assert torch.equal(seen.block_rois[2], seen.block_rois[1])  # a plain block
    assert torch.equal(seen.rois, seen.block_rois[-1])
    assert (seen.block_rois[1] - seen.block_rois[0]).abs().max() > 1e-3


def test_a_second_look_is_the_block_run_on_what_the_first_left():
    model = deep(cortex_looks=2).eval()
    seen = model.forward_intermediates(images())
    feature = seen.image_feature.movedim(1, -1)
    first, second = seen.stages[2:]
    tokens, rois, looked = model.cortex[1](first.tokens, first.rois, feature)
    torch.testing.assert_close(tokens, second.tokens)
    torch.testing.assert_close(rois, second.rois)
    torch.testing.assert_close(looked[1], second.points)


def test_with_one_look_rois_are_those_of_the_first_block():
    seen = deep().forward_intermediates(images())
    assert [len(x) for x in (seen.block_rois, seen.stages)] == [3, 3]
    for rois in seen.block_rois:
        assert torch.equal(rois, seen.rois)


@pytest.mark.parametrize('extra', [{}, dict(with_cp=True)], ids=['plain', 'with_cp'])
def test_every_parameter_learns(extra):
    model = deep(cortex_looks=3, **extra).train()
    seen = model.forward_intermediates(images())
    (seen.pooled.square().sum() + seen.rois.square().sum()).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, name


def test_padding_does_not_exist():
    model, image = deep(cortex_looks=3).eval(), images()
    padded = torch.randn(2, 3, 64, 60)
    padded[..., :40, :56] = image
    beside = model.forward_intermediates(padded, [(40, 56)] * 2)
    alone = model.forward_intermediates(image)
    for actual, expected in zip(beside.block_rois, alone.block_rois):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(beside.tokens, alone.tokens)


def test_a_model_that_looks_once_loads_where_told_that_tensors_are_missing():
    state = deep().state_dict()
    with pytest.raises(RuntimeError, match=r'cortex\.1\.(roi_adjust|sampler|decoder)'):
        deep(cortex_looks=2).load_state_dict(state)
    model = SparseFormer(
        dict(ARCH, cortex_depth=3, cortex_looks=2), allow_partial_load=True
    )
    model.load_state_dict(state, strict=False)
    assert torch.equal(model.cortex[1].ffn.fc1.weight, state['cortex.1.ffn.fc1.weight'])


def test_tubes_look_again_too():
    model = small_model(spatial_dims=3, token_inflation=2, cortex_looks=2)
    clips = torch.randn(1, 3, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    seen = model.forward_intermediates(clips)
    assert seen.stages[-1].name == 'cortex.1'
    assert seen.stages[-1].points.shape == (1, 10, 7, 3)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(cortex_looks=3), 'cortex_looks=3 exceeds 2'),
        (dict(cortex_looks=0), 'cortex_looks=0'),
        (dict(cortex_looks=2, class_token=True), 'class_token'),
    ],
)
def test_wrong_numbers_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SparseFormer(dict(ARCH), **wrong)


def test_both_ways_between_one_look_and_more_say_which_setting_it_is():
    for here, there in ((1, 2), (2, 1)):
        model, other = deep(cortex_looks=here), deep(cortex_looks=there)
        message = f'the checkpoint looks in {there} cortex blocks, this model in {here}'
        with pytest.raises(RuntimeError, match=f'{message} .cortex_looks'):
            model.load_state_dict(other.state_dict())


@pytest.mark.parametrize('layout', ['v1', 'v2'])
def test_the_authors_have_no_name_for_a_second_look(layout):
    assert from_mm(deep().state_dict(), layout)
    with pytest.raises(KeyError, match='cortex_looks=2.*the authors'):
        from_mm(deep(cortex_looks=2).state_dict(), layout)


def test_fewer_tokens_run_and_frozen_blocks_stay():
    model = deep(cortex_looks=2, test_tokens=3, frozen_stages=2).eval()
    assert model.forward_intermediates(images()).block_rois[1].shape == (2, 3, 4)
    model.train().forward_intermediates(images()).pooled.sum().backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert 'cortex.0.sampler.linear.weight' not in learning
    assert any(name.startswith('cortex.1.sampler') for name in learning)
