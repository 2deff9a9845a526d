"""Generated models and inputs: whatever the arguments, the same laws hold."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.generated import cases
from helpers.generated_models import build, everything, models
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.arch import STEMS

SMALL = dict(
    num_tokens=2,
    num_points=2,
    focusing_dims=8,
    focusing_repeats=1,
    cortex_dims=8,
    cortex_depth=2,
    num_heads=2,
    feat_channels=4,
    ffn_ratio=1,
)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-8)


@given(models())
@cases(50)
def test_a_batch_is_each_alone(case):
    arguments, inputs = case
    model = build(arguments)
    with torch.no_grad():
        together = model.forward_intermediates(inputs)
        alone = [model.forward_intermediates(x) for x in inputs.split(1)]
    assert all(x.isfinite().all() for x in everything(together))
    alone = [torch.cat(parts) for parts in zip(*map(everything, alone))]
    assert_same(everything(together), alone)
    # forward gives what its out_type says of the same.
    with torch.no_grad():
        outputs = model(inputs)
    if arguments['out_type'] == 'tokens':
        assert_same(everything(outputs), everything(together))
    else:
        (outputs,) = outputs if isinstance(outputs, tuple) else [outputs]
        assert torch.equal(outputs.flatten(1), together.pooled)


@given(models(), st.data())
@cases(50)
def test_padding_changes_nothing(case, data):
    arguments, inputs = case
    model = build(arguments)
    shapes = [
        tuple(data.draw(st.integers(1, side)) for side in inputs.shape[-2:])
        for _ in inputs
    ]
    with torch.no_grad():
        padded = model.forward_intermediates(inputs, valid_shapes=shapes)
        alone = [
            model.forward_intermediates(x[..., :height, :width])
            for x, (height, width) in zip(inputs.split(1), shapes)
        ]
    alone = [torch.cat(parts) for parts in zip(*map(everything, alone))]
    assert_same(everything(padded), alone)


@given(models(), st.randoms(use_true_random=False))
@cases(40)
def test_the_order_of_tokens_does_not_matter(case, random):
    arguments, inputs = case
    model = build(arguments)
    with torch.no_grad():
        before = model.forward_intermediates(inputs)
        order = list(range(before.tokens.shape[1]))
        random.shuffle(order)
        for param in (model.latent.token_embeddings, model.latent.token_rois):
            if len(param) == len(order):  # not one for all
                param.copy_(param[order])
        after = model.forward_intermediates(inputs)
    assert_same([after.pooled], [before.pooled])
    tokens = [[x[:, order] for x in everything(before) if x.dim() > 2]]
    assert_same([x for x in everything(after) if x.dim() > 2], *tokens)


@given(models())
@cases(30)
def test_saved_and_loaded_is_the_same_model(case):
    arguments, inputs = case
    model, other = build(arguments), build(arguments, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        outputs = model.forward_intermediates(inputs)
        loaded = other.forward_intermediates(inputs)
    for x, y in zip(everything(outputs), everything(loaded)):
        assert torch.equal(x, y)


@given(models(drop_path_rate=0.0), st.data())
@cases(60)
def test_modes_and_layouts_give_the_same(case, data):
    """Training or not, with or without gradients, however the input lies in memory."""
    arguments, inputs = case
    model = build(arguments)
    with torch.no_grad():
        plain = everything(model.forward_intermediates(inputs))
    rank = inputs.dim()
    layouts = {
        'channels_last': lambda x: x.contiguous(
            memory_format=torch.channels_last if rank == 4 else torch.channels_last_3d
        ),
        'transposed': lambda x: x.mT.contiguous().mT,
        'strided': lambda x: x.repeat_interleave(2, -1)[..., ::2],
    }
    layout = data.draw(st.sampled_from(sorted(layouts)))
    model.train(data.draw(st.booleans()))
    grad = data.draw(st.booleans())
    with torch.set_grad_enabled(grad):
        seen = everything(model.forward_intermediates(layouts[layout](inputs)))
    assert_same(seen, plain)
    # All that may learn gets a gradient, the same when blocks are computed again.
    model.train()
    losses = []
    for model.with_cp in (False, True):
        model.zero_grad()
        seen = model.forward_intermediates(inputs)
        seen.tokens.square().sum().backward()
        losses.append(
            [p.grad for p in model.parameters() if p.requires_grad and p.numel()]
        )
    for x, y in zip(*losses):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.isfinite().all()
            assert_same([x], [y])


@given(models(out_type='pooled', with_cp=False))
@cases(25)
def test_traced_is_eager(case):
    arguments, inputs = case
    model = build(arguments)
    with torch.no_grad():
        traced = torch.jit.trace(model, inputs, check_trace=False)
        assert_same(traced(inputs), model(inputs))
        # Another batch, of another size.
        others = torch.cat([inputs, inputs.flip(-1)]).repeat_interleave(3, -1)
        assert_same(traced(others), model(others))


@given(models(), st.sampled_from([torch.float32, torch.bfloat16]))
@cases(30)
def test_fewer_bits_give_nearly_the_same(case, dtype):
    arguments, inputs = case
    model = build(arguments)
    with torch.no_grad():
        exact = model.forward_intermediates(inputs)
        rounded = model.to(dtype).forward_intermediates(inputs.to(dtype))
    assert rounded.pooled.dtype == dtype
    assert rounded.rois.dtype == torch.float32  # never less
    assert all(x.isfinite().all() for x in everything(rounded))
    if dtype is torch.float32 and arguments.get('time_offsets') != 'middle':
        torch.testing.assert_close(
            rounded.pooled.double(), exact.pooled, rtol=0.01, atol=0.01
        )


NO_COUNTS = [0, -1, 1.5, '2', True, math.nan, math.inf, [2], {}]
WRONG = {
    'arch': ['huge', 3, [1], dict(tokens=3), {1: 2}, b'tiny'],
    **dict.fromkeys(
        ('num_tokens', 'num_points', 'focusing_dims', 'cortex_dims'), NO_COUNTS
    ),
    'cortex_depth': NO_COUNTS,
    'num_heads': [*NO_COUNTS, 3],
    'feat_channels': [*NO_COUNTS, 1],
    'focusing_repeats': NO_COUNTS[1:],
    'cortex_looks': [*NO_COUNTS, 3],
    'ffn_ratio': [0, -1, 'x', math.nan, math.inf, [1], 0.01],
    'spatial_dims': [1, 4, '2', None, 2.5, [2]],
    'token_inflation': [*NO_COUNTS, None, 2],
    'time_offsets': ['x', None, 0, ['spread']],
    'in_channels': [*NO_COUNTS, None],
    'stem': ['resnet', 3, [], {}, dict(type='Nothing'), dict(kind='x')],
    'decoding': ['x', 3, [], {}, dict(type='Nothing'), dict(kind='x')],
    'roi_init': ['x', 1, ['half']],
    'head_dims': [*NO_COUNTS, 3],
    'norm_eps': [0, -1, 'x', math.nan, [1]],
    'focusing_steps': ['look', [], ['ffn'], ['look', 'jump'], ['look'] * 2, 3],
    'class_token': ['yes', 2, math.nan],
    'cortex_activation': ['relu', 1, ['gelu']],
    'drop_path_rate': [1, -0.1, 'x', None, math.nan, [0.1]],
    'out_type': ['x', None, 1, ['pooled']],
    'out_indices': [3, None, (2,), (-3,), ('a',), (0.5,), 'ab', {}, (True,)],
    'frozen_stages': [-2, 4, 1.5, 'x', None, math.nan, [1]],
    'test_tokens': [*NO_COUNTS, 3],
    'train_tokens': ['x', 2, [], [0], [1, 3], [1.5], {}, math.nan],
}


@given(
    st.sampled_from([(name, value) for name in WRONG for value in WRONG[name]]),
    st.sampled_from(['argument', 'arch']),
)
@cases(150)
def test_a_wrong_argument_is_named(wrong, where):
    name, value = wrong
    sizes = dict(SMALL)
    arguments = dict(arch=sizes)
    if name in sizes and where == 'arch':
        sizes[name] = value
    else:
        arguments[name] = value
    with pytest.raises((ValueError, TypeError), match=re.escape(name)):
        SparseFormer(**arguments)


WRONG_INPUTS = {
    'rank 3': lambda x: x[0],
    'rank 5': lambda x: x[:, :, None],
    'channels': lambda x: x[:, :2],
    'channels last': lambda x: x.permute(0, 2, 3, 1),
    'bytes': lambda x: (x * 255).byte(),
    'integers': lambda x: (x * 255).long(),
    'complex': lambda x: x.to(torch.complex64),
    'bools': lambda x: x > 0,
    'no height': lambda x: x[:, :, :0],
    'no width': lambda x: x[..., :0],
    'array': lambda x: x.numpy(),
    'list': lambda x: list(x),
    'nothing': lambda x: None,
    'meta dict': lambda x: dict(inputs=x),
}


@pytest.mark.parametrize('kind', WRONG_INPUTS)
@pytest.mark.parametrize('stem', sorted(STEMS))
def test_a_wrong_input_is_named(kind, stem):
    model = build(dict(arch=SMALL, stem=stem)).float()
    with pytest.raises((ValueError, TypeError), match='input'):
        model(WRONG_INPUTS[kind](torch.rand(2, 3, 8, 9)))


@given(
    st.one_of(
        st.integers(-2, 9),
        st.text(max_size=3),
        st.lists(st.integers(-1, 9), max_size=3),
        st.lists(
            st.lists(
                st.one_of(st.integers(-1, 12), st.floats(), st.text(max_size=2)),
                max_size=3,
            ),
            max_size=3,
        ),
        st.just(np.zeros((2, 2))),
        st.just(np.float64(3)),
    )
)
@cases(100)
def test_wrong_valid_shapes_are_named(shapes):
    model, inputs = build(dict(arch=SMALL)).float(), torch.rand(2, 3, 8, 9)
    good = isinstance(shapes, list) and len(shapes) == 2
    good = good and all(
        isinstance(shape, list)
        and len(shape) in (2, 3)
        and all(isinstance(side, int) for side in shape[:2])
        and 1 <= shape[0] <= 8
        and 1 <= shape[1] <= 9
        for shape in shapes
    )
    if good:
        assert model(inputs, valid_shapes=shapes)[0].isfinite().all()
        return
    with pytest.raises((ValueError, TypeError), match='valid_shapes'):
        model(inputs, valid_shapes=shapes)
