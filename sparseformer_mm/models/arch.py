"""Settings of the published models, and of one for a CPU.

Sizes:

- num_tokens, num_points: N and P, squares or not (:func:`~.rois.split_evenly`).
- focusing_dims, cortex_dims: widths of the tokens, d_f and d_c.
- focusing_repeats: runs of the focusing block; 0 leaves the sampling in the cortex.
- cortex_depth: blocks after the transition, the one that samples included.
- num_heads: of attention, at every width. Or head_dims: the width of a head.
- feat_channels: C, of the map.
- ffn_ratio: hidden width of a feed-forward network over its width.

Parts, by name or as dict(type=...):

- stem: 'early_conv', 'patch_embed' (ViT/8), 'pixel'.
- decoding: 'adaptive', 'static', 'linear'.
- sampling: 'sparse' (:class:`~.sampling.SparseSampling`), with limit_coord_grad: clamp
  the gradient of every sampling coordinate to +-1 / (map height), as the authors do.
- roi_adjust: 'linear' (:class:`~.blocks.RoIAdjust`, which knows ``mlp=True``).
- position: 'corners' (:class:`~.blocks.CornerEncoding`), where a step says 'position'.

And how they are put together:

- roi_init: 'half', 'cell', 'whole', 'random' (Table 9, appendix A.1) or 'square', see
  :func:`~.rois.init_rois`.
- shared_embedding: all tokens start with one embedding and differ by their RoIs.
- focusing_steps, cortex_steps: what the focusing block and the first cortex block do,
  in order, see :class:`~.blocks.Block`. The other cortex blocks are plain.
- cortex_looks: so many cortex blocks, counted from the first, take cortex_steps. 1 is
  the papers'; with more, tokens look again while they reason: tighter boxes.
- stage_embeddings: a learned vector is added to the tokens before each repeat.
- transition_norm: a LayerNorm follows the linear layer from d_f to d_c.
- class_token: one more token, without a RoI, joins behind the first cortex block, and
  ``pooled`` is what becomes of it.
- cortex_activation: 'gelu' or 'quick_gelu' (CLIP's), in cortex blocks.
- norm_eps: of the LayerNorms of blocks and of the last one.
"""

from typing import Dict, Tuple, Union

from .arguments import as_cfg, check_choice, check_count, check_positive
from .blocks import ACTIVATIONS, STEPS

# Short names of parts that can be replaced by dict(type=...).
STEMS = dict(early_conv='EarlyConv', patch_embed='PatchEmbed', pixel='RawPixels')
DECODINGS = dict(
    adaptive='AdaptiveMixing', static='StaticMixing', linear='LinearDecoding'
)
PARTS: Dict[str, Dict[str, str]] = dict(
    stem=STEMS,
    decoding=DECODINGS,
    sampling=dict(sparse='SparseSampling'),
    roi_adjust=dict(linear='RoIAdjust'),
    position=dict(corners='CornerEncoding'),
)

PLAIN = ('attention', 'ffn')
_LOOKING = ('attention', 'adjust', 'look', 'ffn')

# What makes a bootstrapped model of the second paper (arXiv 2312.01987).
_BOOTSTRAPPED = dict(
    num_points=16,
    num_heads=None,
    head_dims=64,
    feat_channels=64,
    norm_eps=1e-5,
    stem=dict(type='EarlyConv', biased_norm=True, norm_eps=1e-5),
    sampling=dict(
        type='SparseSampling', padding='border', offset_eps=1e-5, norm_eps=1e-5
    ),
    limit_coord_grad=False,
    decoding=dict(
        type='AdaptiveMixing',
        hidden_dims=128,
        min_out_points=32,
        mixing_bias=False,
        channel_gelu=False,
        norm_eps=1e-5,
    ),
    roi_adjust=dict(type='RoIAdjust', mlp=True, norm_eps=1e-5),
    position=dict(type='CornerEncoding', norm_eps=1e-5),
    roi_init='square',
    shared_embedding=True,
    stage_embeddings=True,
    class_token=True,
    transition_norm=False,
    focusing_steps=('look', 'position', 'attention', 'ffn', 'adjust'),
    cortex_steps=('look', 'position'),
)
_BOOTSTRAPPED_BASE = dict(
    _BOOTSTRAPPED, num_tokens=48, focusing_dims=384, cortex_dims=768, cortex_depth=9
)
_BOOTSTRAPPED_LARGE = dict(
    _BOOTSTRAPPED, num_tokens=48, focusing_dims=512, cortex_dims=1024, cortex_depth=17
)

# What is not given is that of 'tiny'. The first three are the first paper's Table 1.
ARCHS = dict(
    tiny=dict(
        num_tokens=49,
        num_points=36,
        focusing_dims=256,
        focusing_repeats=4,
        cortex_dims=512,
        cortex_depth=8,
        num_heads=64,
        head_dims=None,
        feat_channels=96,
        ffn_ratio=4,
        norm_eps=1e-6,
        cortex_activation='gelu',
        stem='early_conv',
        sampling='sparse',
        limit_coord_grad=True,
        decoding='adaptive',
        roi_adjust='linear',
        position='corners',
        roi_init='half',
        shared_embedding=False,
        stage_embeddings=False,
        class_token=False,
        transition_norm=True,
        focusing_steps=_LOOKING,
        cortex_steps=_LOOKING,
        cortex_looks=1,
    ),
    small=dict(num_tokens=64, focusing_dims=320, cortex_dims=640),
    base=dict(num_tokens=81, focusing_dims=384, cortex_dims=768, cortex_depth=10),
    # Not the paper's: learns small data sets from scratch on a CPU.
    nano=dict(
        num_tokens=16,
        num_points=16,
        focusing_dims=96,
        cortex_dims=192,
        cortex_depth=4,
        num_heads=8,
        feat_channels=48,
    ),
    **{
        'bootstrapped-base': _BOOTSTRAPPED_BASE,
        'bootstrapped-large': _BOOTSTRAPPED_LARGE,
        'bootstrapped-clip-base': dict(
            _BOOTSTRAPPED_BASE, cortex_activation='quick_gelu'
        ),
        'bootstrapped-clip-large': dict(
            _BOOTSTRAPPED_LARGE, num_tokens=63, cortex_activation='quick_gelu'
        ),
    },
)
_SIZES = (
    'num_tokens',
    'num_points',
    'focusing_dims',
    'focusing_repeats',
    'cortex_dims',
    'cortex_depth',
    'feat_channels',
    'cortex_looks',
)
_SWITCHES = (
    'limit_coord_grad',
    'shared_embedding',
    'stage_embeddings',
    'class_token',
    'transition_norm',
)


def resolve_arch(arch: Union[str, dict], **overrides) -> dict:
    """All settings of a model.

    Args:
        arch: a name in :data:`ARCHS`, or a dict with any of its keys; missing ones are
            those of 'tiny'.
        **overrides: a value for a key, or None to leave it.

    Returns:
        dict: with all keys of ``ARCHS['tiny']``; parts as dict(type=...), of
        ``num_heads`` and ``head_dims`` one is None.

    Raises:
        ValueError, TypeError: naming what is wrong and what is allowed.
    """
    settings = dict(ARCHS['tiny'])
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is unknown; choose one of {list(ARCHS)} or give a dict'
            )
        arch = ARCHS[arch]
    elif isinstance(arch, dict):
        unknown = sorted(set(arch) - set(settings), key=str)
        if unknown:
            raise ValueError(
                f'arch has unknown keys {unknown}; the known ones are '
                f'{sorted(settings)}'
            )
    else:
        raise TypeError(f'arch must be a name or a dict, not {type(arch).__name__}')
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise TypeError(
            f'SparseFormer has no argument {", ".join(unknown)}; what a key of arch '
            f'can be is {", ".join(sorted(settings))}'
        )
    for given in (arch, {k: v for k, v in overrides.items() if v is not None}):
        settings.update(given)
        # One of the two that say the same takes the place of the other.
        for name, other in (('num_heads', 'head_dims'), ('head_dims', 'num_heads')):
            if given.get(name) is not None and given.get(other) is None:
                settings[other] = None
    _check(settings)
    return settings


def _check(settings: dict):
    # The stem's norm needs two channels for a variance.
    least = dict(focusing_repeats=0, feat_channels=2)
    for name in _SIZES:
        settings[name] = check_count(name, settings[name], least.get(name, 1))
    for name in ('ffn_ratio', 'norm_eps'):
        check_positive(name, settings[name])
    for name in _SWITCHES:
        check_choice(name, settings[name], (True, False))
    check_choice('cortex_activation', settings['cortex_activation'], ACTIVATIONS)
    for name, short_names in PARTS.items():
        settings[name] = as_cfg(name, settings[name], short_names)
    for name in ('focusing_steps', 'cortex_steps'):
        settings[name] = _check_steps(name, settings[name])
    _check_heads(settings)
    looks = settings['cortex_looks']
    most = 1 if settings['class_token'] else settings['cortex_depth']
    if looks > most:
        raise ValueError(
            f'cortex_looks={looks} exceeds {most}: all cortex blocks can look, but '
            'only the first where a class_token joins behind it'
        )
    if settings['class_token'] and settings['cortex_depth'] < 2:
        raise ValueError(
            f'cortex_depth={settings["cortex_depth"]} leaves no block after the class '
            'token, which joins behind cortex block 0: give it at least 2, or '
            'class_token=False'
        )


def _check_steps(name: str, steps) -> Tuple[str, ...]:
    good = isinstance(steps, (list, tuple)) and all(
        isinstance(step, str) and step in STEPS for step in steps
    )
    if not good or len(set(steps)) != len(steps) or 'look' not in steps:
        raise ValueError(
            f"{name}={steps!r} must name steps of {STEPS}, each once, 'look' among them"
        )
    return tuple(steps)


def _check_heads(settings: dict):
    kind = 'num_heads' if settings['head_dims'] is None else 'head_dims'
    if settings['num_heads'] is not None and kind == 'head_dims':
        raise ValueError(
            f'num_heads={settings["num_heads"]} and head_dims='
            f'{settings["head_dims"]} are two ways to say one thing: leave one out'
        )
    heads = settings[kind] = check_count(kind, settings[kind])
    for name in ('focusing_dims', 'cortex_dims'):
        if settings[name] % heads:
            raise ValueError(
                f'{kind}={heads} does not divide {name}={settings[name]}; choose a '
                f'width that is a multiple of {kind}, or another {kind}'
            )
        if int(settings[name] * settings['ffn_ratio']) < 1:
            raise ValueError(
                f'ffn_ratio={settings["ffn_ratio"]} of {name}={settings[name]} leaves '
                'no hidden channel: choose a larger ratio or width'
            )
