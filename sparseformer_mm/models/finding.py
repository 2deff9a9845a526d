"""SparseFormers in what a checkpoint file holds, under whatever keys and prefixes.

:func:`find_weights` looks for them, :func:`split_classifier` and :func:`to_whole_model`
take apart what it found. The names of the layouts are in :mod:`~.layouts`.
"""

import re
from collections.abc import Mapping
from typing import Dict, Hashable, Iterator, List, NamedTuple, Tuple

from torch import Tensor

from .layouts import MARKERS, classifier_names, layout_of

# What says of a name that weights under it are averages (EMA), which were evaluated.
_AVERAGED = re.compile(r'(?<![a-z])(ema|average|averaged|avg|swa)(?![a-z])', re.I)

# What torch writes into names when it wraps a module (DDP, compile, FSDP).
_TORCH_WRAPPER = re.compile(
    r'(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)

# The top names of a backbone, in files without any prefix.
_BACKBONE = (
    'stem',
    'latent',
    'stage_embeddings',
    'focusing',
    'transition',
    'cortex',
    'class_token',
    'norm',
)


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
        layout: 'mm', 'v1', 'v2' or 'bootstrapped'; '' if there is no SparseFormer.
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


def unwrapped_name(key: Hashable) -> Hashable:
    """A tensor's name without what torch's wrappers (``module.``, ...) add to it."""
    return _TORCH_WRAPPER.sub('', key) if isinstance(key, str) else key


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
        unwrapped_name(key): value
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
                prefix = key[: -len(marker)]
                layout = layout_of(content, layout, prefix)
                yield Weights(content, wrapper, layout, prefix)


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
        tuple: the rest, under its own names; 'weight' of the classifier, and 'bias' if
        it has one; or an empty dict.
    """
    base = weights.root if weights.layout == 'mm' else weights.prefix
    starts = [base + name for name in classifier_names(weights.layout)]
    places = {start + name: name for start in starts for name in ('weight', 'bias')}
    rest, classifier = {}, {}
    for key, value in weights.state.items():
        if key in places and isinstance(value, Tensor):
            classifier[places[key]] = value
        else:
            rest[key] = value
    return rest, classifier if 'weight' in classifier else {}
