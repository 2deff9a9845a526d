"""Generated checkpoints: what fits is loaded, what does not is named."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import load_checkpoint

from helpers.generated import cases
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.finding import CheckpointError
from sparseformer_mm.models.layouts import from_mm, inflate_state

ARCH = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=8,
    focusing_repeats=1,
    cortex_dims=12,
    cortex_depth=2,
    num_heads=2,
    feat_channels=4,
    ffn_ratio=1,
)
SECOND = dict(ARCH, arch='bootstrapped-base', num_heads=None, head_dims=4)
OURS = (RuntimeError, CheckpointError)

# Of the first paper's models and of the second's; 'mm' is either's.
layouts = st.sampled_from(['mm', 'v1', 'v2', 'mm of the second', 'bootstrapped'])
places = st.integers(0, 200)
prefixes = st.sampled_from(['', 'module.', 'backbone.', '_orig_mod.', 'net.model.'])
wrappers = st.sampled_from(['', 'state_dict', 'model', 'model_ema'])

MISSHAPEN = {
    'scalar': lambda x: x.sum(),
    'one row more': lambda x: torch.cat([x, x[:1]]),
    'one row less': lambda x: x[:-1],
    'no row': lambda x: x[:0],
    'flat': lambda x: x.flatten() if x.dim() > 1 else x[:, None],
    'one axis more': lambda x: x[None],
    'last axis cut': lambda x: x[..., :-1],
}


def random_model(seed: int, layout: str, **kwargs) -> SparseFormer:
    torch.manual_seed(seed)
    first = dict(arch=dict(ARCH)) if layout in ('mm', 'v1', 'v2') else SECOND
    model = SparseFormer(**dict(first, **kwargs))
    for param in model.parameters():
        torch.nn.init.uniform_(param)
    return model


def write(state: dict, layout: str) -> dict:
    """A state dict under the names of a layout."""
    return dict(state) if layout.startswith('mm') else from_mm(state, layout)


def load(model, state, file, prefix='', wrapper=''):
    """Load a state, under other names and in a file, as mmengine does."""
    content = {prefix + key: value for key, value in state.items()}
    torch.save({wrapper: content, 'epoch': 3} if wrapper else content, file)
    load_checkpoint(model, str(file), strict=True)


@given(layouts, prefixes, wrappers, st.booleans())
@cases(60)
def test_known_names_load(tmp_path, layout, prefix, wrapper, video):
    video = video and layout != 'bootstrapped'  # the authors have no such videos
    source = random_model(1, layout, spatial_dims=3 if video else 2)
    state = source.state_dict()
    model = random_model(2, layout, spatial_dims=3 if video else 2)
    model.allow_reinit = False
    written = write(state, layout)
    load(model, written, tmp_path / 'x.pth', prefix, wrapper)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key])


@given(places, layouts, prefixes, st.booleans(), st.integers(2, 3))
@cases(80)
def test_a_missing_key_is_named(tmp_path, place, layout, prefix, surplus, dims):
    """Or one that the model has not."""
    state = random_model(1, layout).state_dict()
    written = write(state, layout)
    key, name = list(zip(state, written))[place % len(state)]
    if surplus:
        key, name = f'{key}_old', f'{name}_old'
        written[name] = torch.ones(2)
    else:
        del written[name]
    model = random_model(2, layout, spatial_dims=dims)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(OURS) as error:
        load(model, written, tmp_path / 'x.pth', prefix)
    if name not in ('latent.token_rois', 'token_roi.weight', 'initial_roi.weight'):
        assert key in str(error.value) or name in str(error.value)
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k])


@given(
    places,
    st.sampled_from(sorted(MISSHAPEN)),
    layouts,
    prefixes,
    st.integers(2, 3),
)
@cases(120)
def test_a_misshapen_tensor_is_named(tmp_path, place, how, layout, prefix, dims):
    state = random_model(1, layout).state_dict()
    written = write(state, layout)
    key, name = list(zip(state, written))[place % len(state)]
    written[name] = MISSHAPEN[how](written[name])
    model = random_model(2, layout, spatial_dims=dims)
    model.allow_reinit = False
    with pytest.raises(OURS) as error:
        load(model, written, tmp_path / 'x.pth', prefix)
    assert key in str(error.value) or name in str(error.value)


@given(st.integers(1, 6), st.integers(1, 6), layouts, prefixes, st.booleans())
@cases(60)
def test_other_numbers_of_tokens_and_points(
    tmp_path, tokens, points, layout, prefix, reinit
):
    state = random_model(1, layout).state_dict()
    written = write(state, layout)
    model = random_model(2, layout, num_tokens=tokens, num_points=points)
    model.allow_reinit = reinit
    before = {k: v.clone() for k, v in model.state_dict().items()}
    same = (tokens, points) == (4, 4)
    if not reinit and not same:
        with pytest.raises(OURS, match='re-initialising is not allowed'):
            load(model, written, tmp_path / 'x.pth', prefix)
        return
    load(model, written, tmp_path / 'x.pth', prefix)
    for key, value in model.state_dict().items():
        mine, theirs = before[key], state[key]
        if tokens != 4 and 'latent.' in key and len(theirs) > 1:  # not one for all
            assert torch.equal(value, mine)
        elif value.shape == theirs.shape:
            torch.testing.assert_close(value, theirs)
        elif not key.endswith(('generate.weight', 'generate.bias')):
            assert torch.equal(value, mine)
        else:  # the channel mixing does not depend on the points
            channels = ARCH['feat_channels'] ** 2
            torch.testing.assert_close(value[:channels], theirs[:channels])
            assert torch.equal(value[channels:], mine[channels:])


@given(
    st.integers(1, 3),
    st.sampled_from(['spread', 'middle']),
    layouts,
    prefixes,
    wrappers,
)
@cases(40)
def test_images_become_videos(
    tmp_path, inflation, time_offsets, layout, prefix, wrapper
):
    state = random_model(1, layout).state_dict()
    written = write(state, layout)
    video = dict(spatial_dims=3, token_inflation=inflation, time_offsets=time_offsets)
    model = random_model(2, layout, **video)
    load(model, written, tmp_path / 'x.pth', prefix, wrapper)
    expected = inflate_state(state, inflation, time_offsets)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    # The way back is refused.
    image = random_model(2, layout)
    with pytest.raises(OURS, match='video model'):
        load(image, model.state_dict(), tmp_path / 'x.pth', prefix, wrapper)
