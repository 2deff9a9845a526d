"""Names of parameters in the files there are: pure functions between state dicts.

Three layouts are known: 'mm' (this package), 'v1' (the authors' training code) and
'v2' (their later library). :func:`find_weights` looks for them in what a file holds,
:func:`to_mm` and :func:`from_mm` translate between them.
"""

import re
from collections.abc import Mapping
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .rois import corners_to_rois, inflate_rois, init_offsets, rois_to_corners

# The key that tells a layout: the initial RoIs.
MARKERS = dict(mm='latent.token_rois', v1='token_roi.weight', v2='initial_roi.weight')

# What says of a name that weights under it are averages (EMA), which were evaluated.
_AVERAGED = re.compile(r'(?<![a-z])(ema|average|averaged|avg|swa)(?![a-z])', re.I)

# What torch writes into names when it wraps a module (DDP, compile, FSDP).
_TORCH_WRAPPER = re.compile(
    r'(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)

# (mm, v1, v2) within the model, and within a block.
_TOP_NAMES = (
    ('stem.conv.', 'feat_extractor.conv1.', 'feat_extractor.conv1.'),
    ('latent.token_rois', 'token_roi.weight', 'initial_roi.weight'),
    ('latent.token_embeddings', 'token_embedding.weight', 'initial_embedding.weight'),
    ('transition.', 'layers.1.', 'layers.1.'),
    ('norm.', 'head.norm.', 'norm.'),
    ('head.', 'head.classifier.', 'proj.'),  # the classifier, last
)
_BLOCK_NAMES = (
    ('attn_norm.', 'ln_attn.', 'norm1.'),
    ('attn.qkv.weight', 'attn.in_proj_weight', 'attn.qkv.weight'),
    ('attn.qkv.bias', 'attn.in_proj_bias', 'attn.qkv.bias'),
    ('attn.proj.', 'attn.out_proj.', 'attn.proj.'),
    ('ffn_norm.', 'ffn.0.', 'norm2.'),
    ('ffn.fc1.', 'ffn.1.', 'mlp.fc1.'),
    ('ffn.fc2.', 'ffn.3.', 'mlp.fc2.'),
    ('roi_adjust.norm.', 'roi_adjust_module.0.', 'roi_adjust_module.0.'),
    ('roi_adjust.proj.', 'roi_adjust_module.1.', 'roi_adjust_module.1.'),
    ('sampler.norm.', 'roi_offset_module.0.', 'roi_offset_module.0.'),
    ('sampler.proj.', 'roi_offset_module.1.', 'roi_offset_module.1.'),
    ('sampler.bias', 'roi_offset_bias', 'roi_offset_bias'),
    (
        'decoder.norm.',
        'adaptive_mixing.parameter_generator.0.',
        'adaptive_mixing.parameter_generator.0.',
    ),
    (
        'decoder.squeeze.',
        'adaptive_mixing.parameter_generator.1.',
        'adaptive_mixing.parameter_generator.1.',
    ),
    (
        'decoder.generate.',
        'adaptive_mixing.parameter_generator.2.',
        'adaptive_mixing.parameter_generator.2.',
    ),
    ('decoder.channel_bias', 'adaptive_mixing.m_beta', 'adaptive_mixing.m_beta'),
    ('decoder.point_bias', 'adaptive_mixing.s_beta', 'adaptive_mixing.s_beta'),
    ('decoder.proj.', 'adaptive_mixing.tuo_proj.', 'adaptive_mixing.out_proj.'),
)
_LAYOUTS = ('mm', 'v1', 'v2')

# Where mm files have a linear classifier, beside 'backbone.': those of mmpretrain's
# models and of :func:`sparseformer_mm.build`, of mmaction2's, and without any prefix.
_CLASSIFIERS = ('head.fc.', 'cls_head.fc_cls.', 'head.')


# The top names of a backbone, in files without any prefix.
_BACKBONE = ('stem', 'latent', 'focusing', 'transition', 'cortex', 'norm')


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the text names cause and cure."""


class SeveralModelsError(CheckpointError):
    """A checkpoint holds several SparseFormers, and nothing says which is meant."""


class Weights(NamedTuple):
    """A SparseFormer found in a checkpoint.

    Attributes:
        state: the state dict it is in, without other copies of the model and without
            what torch's wrappers (``module.``, ``_orig_mod.``) add to names.
        wrapper: the keys that led to ``state``, as 'a.b'; '' for none.
        layout: 'mm', 'v1' or 'v2'; '' if there is no SparseFormer.
        prefix: of the backbone's names in ``state``.
        others: where other copies are, as wrapper and prefix in one.
    """

    state: Mapping
    wrapper: str = ''
    layout: str = ''
    prefix: str = ''
    others: Tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Wrapper and prefix in one; '' for a bare backbone."""
        return f'{self.wrapper}.{self.prefix}' if self.wrapper else self.prefix

    @property
    def root(self) -> str:
        """What stands before the names of the whole model that has this backbone."""
        return re.sub(r'(?<![^.])backbone\.$', '', self.prefix)


def find_weights(checkpoint: Mapping) -> Weights:
    """Find a SparseFormer in what a checkpoint file holds.

    Of several copies the averaged one is taken, under whatever key or prefix it is.

    Raises:
        SeveralModelsError: if there are several and not one of them is the average.
        CheckpointError: if the weights are numpy arrays.
    """
    candidates = list(_find_all(checkpoint))
    if not candidates:
        for key in ('state_dict', 'model'):
            if isinstance(checkpoint.get(key), Mapping):
                return Weights(checkpoint[key], key)
        return Weights(checkpoint)
    # mmengine's EMAHook stores the average as 'state_dict' and the others here.
    averaged_elsewhere = [
        found
        for found in candidates
        if not (found.wrapper == 'ema_state_dict' and 'steps' in found.state)
    ]
    choice = averaged_elsewhere or candidates
    if len(choice) > 1:
        choice = [found for found in choice if _AVERAGED.search(found.place)] or choice
    if len(choice) > 1:
        places = ' and '.join(repr(found.place) for found in choice)
        raise SeveralModelsError(
            f'the checkpoint holds several SparseFormers, under {places}, and no name '
            'says which one is the average (EMA): save the one you mean in a file of '
            "its own, or (a backbone's init_cfg) give its names' beginning as "
            f"dict(type='Pretrained', checkpoint=..., prefix={choice[-1].prefix!r})"
        )
    (found,) = choice
    others = [other for other in candidates if other is not found]
    beside = tuple(other.root for other in others if other.state is found.state)
    state = {
        _TORCH_WRAPPER.sub('', key) if isinstance(key, str) else key: value
        for key, value in found.state.items()
        if not beside
        or str(key).startswith(found.root)
        or not str(key).startswith(beside)
    }
    # numpy itself is not needed to know its arrays.
    array = next((k for k, x in state.items() if type(x).__name__ == 'ndarray'), None)
    if array is not None:
        raise CheckpointError(
            f'the weights are numpy arrays, not tensors (the first is {array!r}): save '
            'them as {name: torch.as_tensor(array) for name, array in weights.items()}'
        )
    return found._replace(
        state=state,
        prefix=_TORCH_WRAPPER.sub('', found.prefix),
        others=tuple(other.place for other in others),
    )


def _find_all(content: Mapping, wrapper: str = '', depth: int = 3) -> Iterator[Weights]:
    """Every SparseFormer in nested dictionaries, with its names as they are."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            if depth:
                path = f'{wrapper}.{key}' if wrapper else str(key)
                yield from _find_all(value, path, depth - 1)
            continue
        for layout, marker in MARKERS.items():
            if isinstance(key, str) and f'.{key}'.endswith(f'.{marker}'):
                yield Weights(content, wrapper, layout, key[: -len(marker)])


def _rename(key: str, source: str, target: str) -> Optional[str]:
    """Translate one parameter's name; None if the layout does not have it."""
    here, there = _LAYOUTS.index(source), _LAYOUTS.index(target)
    head, rest, names = '', key, _TOP_NAMES
    block = re.match(r'(focusing|cortex\.(\d+)|layers\.(\d+))\.', key)
    if block and not key.startswith('layers.1.'):
        rest, names = key[block.end() :], _BLOCK_NAMES
        # The authors count on from the focusing block (0) and the transition (1).
        index = 0
        if not key.startswith('focusing.'):
            index = int(block[3] or int(block[2]) + 2)
        if target != 'mm':
            head = f'layers.{index}.'
        else:
            head = f'cortex.{index - 2}.' if index else 'focusing.'
    for name in names:
        if rest.startswith(name[here]):
            return head + name[there] + rest[len(name[here]) :]
    return None


def are_rois(value: Optional[Tensor]) -> bool:
    """Whether a tensor has the shape of RoIs, of images or videos."""
    return value is not None and value.dim() == 2 and value.shape[1] in (4, 6)


def to_mm(state: Mapping, layout: str, prefix: str = '') -> Dict[str, Tensor]:
    """Translate a state dict to this package's names.

    RoIs become center and size; a video stem's (C, 3, 1, k, k) weight becomes 2D. The
    classifier, if any, is under ``head.``. Names that are unknown are left out.

    Args:
        state: under ``layout`` names, each starting with ``prefix``.
        layout: 'mm', 'v1' or 'v2'.
        prefix: e.g. 'module.'; other names are left out.
    """
    result = {}
    for key, value in state.items():
        if not key.startswith(prefix) or not isinstance(value, Tensor):
            continue
        name = key[len(prefix) :]
        if layout != 'mm':
            name = _rename(name, layout, 'mm')
            if name is None:
                continue
            if name == 'latent.token_rois' and are_rois(value):
                value = corners_to_rois(value)
            elif name == 'stem.conv.weight' and value.dim() == 5:
                value = value.squeeze(2)
        result[name] = value
    return result


def unexpected_keys(state: Mapping, layout: str, prefix: str = '') -> List[str]:
    """Keys of an authors' state dict that :func:`to_mm` has to leave out."""
    return [
        str(key)
        for key, value in state.items()
        if isinstance(value, Tensor)
        and not (key.startswith(prefix) and _rename(key[len(prefix) :], layout, 'mm'))
    ]


def from_mm(state: Mapping, layout: str) -> Dict[str, Tensor]:
    """Translate this package's names (classifier under ``head.``) to the authors'.

    Args:
        state: as :func:`to_mm` returns it.
        layout: 'v1' or 'v2'. A video model's stem weight becomes (C, 3, 1, k, k).

    Raises:
        KeyError: for a parameter that the authors' models do not have.
    """
    is_video = state['latent.token_rois'].shape[-1] == 6
    result = {}
    for key, value in state.items():
        name = _rename(key, 'mm', layout)
        if name is None:
            raise KeyError(
                f"the authors' {layout} layout has no counterpart of {key!r}"
            )
        if key == 'latent.token_rois':
            value = rois_to_corners(value)
        elif key == 'stem.conv.weight' and is_video:
            value = value.unsqueeze(2)
        result[name] = value
    return result


def to_openmmlab(state: Mapping, classifier: Optional[str] = None) -> Dict[str, Tensor]:
    """Name a backbone's and classifier's state as in a model of OpenMMLab.

    Args:
        state: as :func:`to_mm` returns it.
        classifier: name of the linear layer that gets ``head.*``, e.g. 'head.fc';
            None leaves it out.

    Returns:
        The state dict, with 'backbone.' before the backbone's names.
    """
    result = {}
    for key, value in state.items():
        if not key.startswith('head.'):
            result[f'backbone.{key}'] = value
        elif classifier:
            result[classifier + key[len('head') :]] = value
    return result


def to_whole_model(
    weights: Weights, classifier: str
) -> Tuple[Dict[str, Tensor], List[str]]:
    """Name all tensors of an 'mm' file as a model of OpenMMLab has them.

    Args:
        weights: of layout 'mm'; a whole model, whose head, neck and all else is kept,
            or a bare backbone, maybe with a classifier ``head.*``.
        classifier: name of the linear layer that a bare backbone's classifier becomes.

    Returns:
        tuple: the state dict, in which 'backbone.' is the only prefix; names that are
        left out since they do not belong to that model.
    """
    root, result, unknown = weights.root, {}, []
    is_whole = weights.prefix != root
    for key, value in weights.state.items():
        name = key[len(root) :]
        if not key.startswith(root):
            unknown.append(key)
        elif is_whole:
            result[name] = value
        elif name.split('.')[0] in _BACKBONE:
            result[f'backbone.{name}'] = value
        elif name in ('head.weight', 'head.bias'):
            result[classifier + name[len('head') :]] = value
        else:
            unknown.append(key)
    return result, unknown


def split_classifier(weights: Weights) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Take a linear classifier out of a state dict.

    Returns:
        tuple: the rest, under its own names; 'weight' and 'bias' of the classifier,
        or an empty dict.
    """
    if weights.layout == 'mm':
        starts = [weights.root + name for name in _CLASSIFIERS]
    else:
        name = _TOP_NAMES[-1][_LAYOUTS.index(weights.layout)]
        starts = [weights.prefix + name]
    places = {start + name: name for start in starts for name in ('weight', 'bias')}
    rest, classifier = {}, {}
    for key, value in weights.state.items():
        if key in places and isinstance(value, Tensor):
            classifier[places[key]] = value
        else:
            rest[key] = value
    return rest, classifier if len(classifier) == 2 else {}


def inflate_state(
    state: Mapping, inflation: int, time_offsets: str = 'middle'
) -> Dict[str, Tensor]:
    """Make an image model's 'mm' state a video model's (paper, section 3.2).

    Tokens are copied along time; nothing that depends on a token moves points or
    tubes in time yet.

    Tensors of a shape that no image model has stay as they are.

    Args:
        state: of an image model.
        inflation: n_t.
        time_offsets: what points have in time in all tubes, see
            :func:`~.rois.init_offsets`. 'middle' is the authors' inflation.
    """
    result = dict(state)
    result['latent.token_rois'] = inflate_rois(state['latent.token_rois'], inflation)
    moving = ('sampler.bias', 'sampler.proj.weight', 'roi_adjust.proj.weight')
    for key, value in state.items():
        if key == 'latent.token_embeddings' and value.dim() == 2:
            result[key] = value.repeat(inflation, 1)
        elif (
            key.endswith(moving)
            and value.dim() == (1 if key.endswith('bias') else 2)
            and value.numel()
            and len(value) % 2 == 0
        ):
            # Axes come in groups of x, y per point, or of center and size.
            axes = value.unflatten(0, (-1, 2))
            times = torch.zeros_like(axes[:, :1])
            if key.endswith('sampler.bias'):
                times += init_offsets(len(axes), 3, time_offsets)[:, 2:].to(times)
            result[key] = torch.cat([axes, times], 1).flatten(0, 1)
    return result
