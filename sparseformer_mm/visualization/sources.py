"""Pictures to look at, and what the command line chose of them."""

import argparse
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor

from ..utils.errors import fail
from .disturb import Disturbed, disturb
from .panels import Frames
from .recording import Stage, top_tokens
from .truths import Truths, name_of

WHITE = (1.0,) * 3


class Source(NamedTuple):
    """A picture to look at.

    Attributes:
        path: its file.
        original: (H, W, 3) RGB uint8, as it is in the file.
        disturbed: what is made of it; None if nothing is.
    """

    path: Path
    original: np.ndarray
    disturbed: Optional[Disturbed] = None

    @property
    def image(self) -> np.ndarray:
        return self.original if self.disturbed is None else self.disturbed.image

    @property
    def area(self) -> Optional[np.ndarray]:
        return None if self.disturbed is None else self.disturbed.area

    @property
    def same_places(self) -> bool:
        """Whether what is left of the picture is where it was."""
        if self.disturbed is None:
            return False
        return self.image.shape == self.original.shape

    def inputs(self):
        """What the inference functions of mmdet and mmseg take."""
        if self.disturbed is None:
            return str(self.path)
        return np.ascontiguousarray(self.image[..., ::-1])  # they read BGR

    def boxes(self, truths: Truths) -> np.ndarray:
        """True boxes relative to the picture, disturbed or not."""
        boxes = truths.boxes(self.path, self.original.shape)
        return boxes if self.disturbed is None else self.disturbed.boxes(boxes)


def make_source(path: Path, image: np.ndarray, args: argparse.Namespace) -> Source:
    """Disturb a picture as the command line wants it."""
    if args.disturb is None:
        return Source(path, image)
    try:
        disturbed = disturb(
            image, args.disturb, args.disturb_share, args.seed, args.erase_fill
        )
    except ValueError as error:
        fail(f'--disturb-share: {error}')
    return Source(path, image, disturbed)


def class_index(text: str, classes: Optional[Sequence[str]], num_classes: int) -> int:
    """The class that a name or a number on the command line means; names go first."""
    if classes and text in classes:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = ', '.join(list(classes or ())[:20])
    fail(
        f'--class {text}: no class of the model; give a number from 0 to '
        f'{num_classes - 1}' + (f' or a name ({known})' if known else '')
    )


def chosen_tokens(
    logits: Optional[Tensor],
    total: int,
    known: Tuple[int, str],
    classes: Optional[Sequence[str]],
    args: argparse.Namespace,
) -> Tuple[Optional[np.ndarray], str]:
    """The tokens of ``--tokens`` or ``--top-k-class``, and what they answer to.

    Args:
        logits: (N, K) of single tokens.
        total: N.
        known: class which is meant without ``--class``, and whether it is 'true' or
            'predicted'.
    """
    if args.tokens is not None:
        wrong = [token for token in args.tokens if not 0 <= token < total]
        if wrong:
            fail(f'--tokens {wrong[0]}: the model has tokens 0 to {total - 1}')
        return np.array(list(dict.fromkeys(args.tokens))), ''
    if args.top_k_class is None:
        return None, ''
    label, kind = known
    if args.class_name is not None:
        label, kind = class_index(args.class_name, classes, logits.shape[1]), 'chosen'
    tokens = top_tokens(logits[:, label], args.top_k_class)
    return tokens, f'{name_of(classes, label)} ({kind})'


def chosen_stages(found: Sequence[Stage], args: argparse.Namespace) -> List[Stage]:
    """The stages of ``--stages``, by name or number."""
    if args.stages is None:
        return list(found)
    names = [stage.name for stage in found]
    kept = set()
    for wanted in args.stages:
        if wanted in names:
            kept.add(names.index(wanted))
        elif wanted.lstrip('-').isdecimal() and -len(names) <= int(wanted) < len(names):
            kept.add(int(wanted) % len(names))
        else:
            fail(
                f'--stages {wanted}: the model has {len(names)} sampling stages, '
                f'numbered from 0: {", ".join(names)}'
            )
    return [found[i] for i in sorted(kept)]


def truth_frames(boxes: np.ndarray) -> Frames:
    return Frames(boxes, np.tile(WHITE, (len(boxes), 1)), width=1, dashed=True)
