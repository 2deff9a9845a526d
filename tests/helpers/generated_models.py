"""Strategies for models: arguments of a backbone that go together, and inputs."""

import torch
from hypothesis import strategies as st

from sparseformer_mm import SparseFormer
from sparseformer_mm.models.arch import ARCHS, DECODINGS, STEMS

SIZES = st.fixed_dictionaries(
    dict(
        num_tokens=st.integers(1, 5),
        num_points=st.integers(1, 5),
        focusing_dims=st.sampled_from([8, 12]),
        focusing_repeats=st.integers(0, 2),
        cortex_dims=st.sampled_from([8, 16]),
        cortex_depth=st.integers(1, 2),
        cortex_looks=st.integers(1, 2),
        num_heads=st.sampled_from([1, 2, 4]),
        feat_channels=st.integers(2, 6),
        ffn_ratio=st.sampled_from([0.5, 1, 2.0]),
    )
)
SECOND = ARCHS['bootstrapped-base']
FOCUSING, CORTEX = 'focusing_steps', 'cortex_steps'
OPTIONS = dict(
    in_channels=st.integers(1, 4),
    stem=st.sampled_from([*sorted(STEMS), SECOND['stem']]),
    decoding=st.sampled_from([*sorted(DECODINGS), SECOND['decoding']]),
    roi_adjust=st.sampled_from(['linear', SECOND['roi_adjust']]),
    sampling=st.sampled_from(['sparse', SECOND['sampling']]),
    cortex_activation=st.sampled_from(['gelu', 'quick_gelu']),
    roi_init=st.sampled_from(['half', 'cell', 'whole', 'random', 'square']),
    fixed_rois=st.booleans(),
    limit_coord_grad=st.booleans(),
    drop_path_rate=st.sampled_from([0.0, 0.4]),
    out_type=st.sampled_from(['pooled', 'featmap', 'tokens']),
    out_indices=st.sampled_from([(-1,), [0], (0, -1)]),
    frozen_stages=st.integers(-1, 2),
    with_cp=st.booleans(),
    norm_eval=st.booleans(),
    **dict.fromkeys(
        ['shared_embedding', 'stage_embeddings', 'class_token', 'transition_norm'],
        st.booleans(),
    ),
    focusing_steps=st.sampled_from([ARCHS['tiny'][FOCUSING], SECOND[FOCUSING]]),
    cortex_steps=st.sampled_from([ARCHS['tiny'][CORTEX], SECOND[CORTEX]]),
)
IMAGES = st.fixed_dictionaries(OPTIONS)
VIDEOS = st.fixed_dictionaries(
    dict(
        OPTIONS,
        spatial_dims=st.just(3),
        token_inflation=st.integers(1, 2),
        time_offsets=st.sampled_from(['spread', 'middle']),
    )
)


def build(arguments: dict, seed: int = 0) -> SparseFormer:
    """In float64 and evaluation mode; every weight matters."""
    torch.manual_seed(seed)
    model = SparseFormer(**arguments).double().eval()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token_rois' not in name:
                param.add_(torch.randn_like(param) * 0.1)
    return model


@st.composite
def models(draw, options=st.one_of(IMAGES, VIDEOS), **fixed):  # noqa: B008 is constant
    """Arguments of a model, and a batch of one to three inputs for it."""
    arguments = dict(draw(options), arch=draw(SIZES), **fixed)
    sizes = arguments['arch']
    arguments['class_token'] &= sizes['cortex_depth'] > 1
    most = 1 if arguments['class_token'] else sizes['cortex_depth']
    sizes['cortex_looks'] = min(sizes['cortex_looks'], most)
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    if arguments.get('spatial_dims') == 3:
        shape = (draw(st.integers(1, 4)), *shape)
    batch = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    inputs = torch.randn(
        batch, arguments['in_channels'], *shape, generator=generator, dtype=torch.double
    )
    return arguments, inputs


def everything(seen):
    """All tensors of an output, in order."""
    stages = [x for stage in seen.stages for x in stage[1:]]
    return [seen.tokens, seen.rois, seen.pooled, *seen.block_tokens, *stages]
