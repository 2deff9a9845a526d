"""Elastic tokens: one trained model that runs with as many of its tokens as wanted.

The weights of a SparseFormer know nothing of the number of tokens; only the initial
embeddings and RoIs are one for each. So a model runs with any of them. Which ones is
one fixed order, in which the first n spread over the picture whatever n is: smaller
sets are inside of larger ones, and training with random numbers teaches the first
tokens to do without the others.
"""

from functools import lru_cache
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .arguments import is_integer, is_number
from .rois import init_rois


@lru_cache(maxsize=None)
def coverage_order(num_tokens: int, roi_init: str = 'half') -> Tuple[int, ...]:
    """Tokens in an order in which the first n are spread over the picture.

    It is known from the number of tokens and their start, so no file has to hold it.
    The first token is in a corner, each next one where the nearest of those before is
    farthest; among equals the one that all of those before repel least (the sum of
    1 / distance^2), then the first. The four that come first of a grid are its
    corners: RoIs of 'half' size cover the picture from the fourth on.

    Args:
        num_tokens: N of an image.
        roi_init: see :func:`~.rois.init_rois`. 'random' is in the tokens' own order:
            any of them are as good as others.

    Returns:
        tuple: a permutation of 0..N-1.

    Example:
        >>> coverage_order(9)  # columns of three: corners, middle, sides
        (0, 8, 2, 6, 4, 1, 7, 3, 5)
    """
    if roi_init == 'random':
        return tuple(range(num_tokens))
    with torch.device('cpu'):  # models are also built where tensors have no values
        centers = init_rois(num_tokens, roi_init)[:, :2].tolist()
    order, left = [0], list(range(1, num_tokens))
    nearest, repelled = [float('inf')] * num_tokens, [0.0] * num_tokens
    while left:
        x, y = centers[order[-1]]
        for i in left:
            square = (centers[i][0] - x) ** 2 + (centers[i][1] - y) ** 2
            nearest[i] = min(nearest[i], square)
            repelled[i] += 1 / (square + 1e-9)
        # Rounded, so that what is equal on paper is equal here.
        best = max(left, key=lambda i: (round(nearest[i], 6), -round(repelled[i], 3)))
        left.remove(best)
        order.append(best)
    return tuple(order)


def _draw(numbers: Sequence[int]) -> int:
    """One of them, from torch's generator of the CPU: a seed gives the same again."""
    return numbers[int(torch.randint(len(numbers), (), device='cpu'))]


class ElasticTokens:
    """Mix-in of a model with ``latent`` tokens: how many of them run.

    Numbers count the tokens of an image. Of tubes, all copies along time of a token run
    or none. ``train_tokens`` and ``test_tokens`` are checked when they are set, at any
    time; no tensor and no name in a state dict depends on them.
    """

    _train_tokens: Optional[Tuple[int, ...]] = None
    _test_tokens: Optional[int] = None

    @property
    def train_tokens(self) -> Optional[Tuple[int, ...]]:
        """In training, each batch runs with one of these numbers, at random."""
        return self._train_tokens

    @train_tokens.setter
    def train_tokens(self, numbers: Optional[Sequence[int]]):
        if numbers is not None:
            many = isinstance(numbers, (list, tuple, range)) and len(numbers)
            if not many or not all(map(self._can_run, numbers)):
                raise ValueError(
                    f'train_tokens={numbers!r} must be a list of numbers of tokens, '
                    f'each from 1 to {self.latent.num_tokens} (num_tokens), or None '
                    'for all tokens in every batch'
                )
            numbers = tuple(map(int, numbers))
        self._train_tokens = numbers
        self._find_order()

    @property
    def test_tokens(self) -> Optional[int]:
        """In evaluation, the number of tokens; None is all."""
        return self._test_tokens

    @test_tokens.setter
    def test_tokens(self, number: Optional[int]):
        if number is not None:
            if not self._can_run(number):
                raise ValueError(
                    f'test_tokens={number!r} must be from 1 to '
                    f'{self.latent.num_tokens} (num_tokens, which was trained), or '
                    'None for all'
                )
            number = int(number)
        self._test_tokens = number
        self._find_order()

    def _can_run(self, number: int) -> bool:
        return is_integer(number) and 1 <= number <= self.latent.num_tokens

    def _find_order(self):
        # Here and not when it is needed, where a compiler would follow.
        if self.train_tokens or self.test_tokens:
            self._order = coverage_order(self.latent.num_tokens, self.latent.roi_init)

    def _running_tokens(self) -> Optional[List[int]]:
        """Which initial tokens run now, rising; None is all of them."""
        number = self.test_tokens
        if self.training:
            number = self.train_tokens and _draw(self.train_tokens)
        total = self.latent.num_tokens
        if number is None or number == total:
            return None
        first = sorted(self._order[:number])
        return [k * total + i for k in range(self.latent.inflation) for i in first]


class CertainAnswer(NamedTuple):
    """What :func:`answer_when_certain` found.

    Attributes:
        logits: (B, K).
        num_tokens: (B,) int64, with how many tokens each picture was answered.
    """

    logits: Tensor
    num_tokens: Tensor


@torch.no_grad()
def answer_when_certain(
    model: nn.Module,
    inputs: Tensor,
    budgets: Sequence[int],
    certainty: float = 0.8,
    forward: Optional[Callable[[Tensor], Tensor]] = None,
) -> CertainAnswer:
    """Classify a batch with few tokens, and again with more what is not certain yet.

    All pictures run with the first number of tokens; those whose highest probability
    is below ``certainty`` run anew, stem included, with the second, and so on. So a
    picture costs the sum of the runs it was in: this pays if most pictures stop early.
    Each run also waits for the device once.

    Args:
        model: a classifier on one SparseFormer, in evaluation mode. Its ``test_tokens``
            is as before afterwards.
        inputs: (B, C, H, W) or (B, C, T, H, W), of one size, without padding.
        budgets: rising numbers of tokens.
        certainty: 0 stops all pictures after the first run, above 1 none before the
            last. Of a model trained with label smoothing the highest probabilities
            are little above 1 minus the smoothing.
        forward: gives logits (B, K) of a batch; ``model`` itself if not given.

    Raises:
        ValueError: for a model that has no SparseFormer, or is in training mode, and
            for budgets that do not rise or are more than its tokens.

    Example:
        >>> import torch
        >>> from sparseformer_mm import build
        >>> from sparseformer_mm.models.elastic import answer_when_certain
        >>> model = build('nano', num_classes=10).eval()
        >>> answer = answer_when_certain(model, torch.rand(2, 3, 64, 64), [4, 16])
        >>> tuple(answer.logits.shape), answer.num_tokens.tolist()
        ((2, 10), [16, 16])
    """
    backbones = [m for m in model.modules() if isinstance(m, ElasticTokens)]
    if len(backbones) != 1 or backbones[0].training:
        raise ValueError(
            f'{type(model).__name__} has {len(backbones)} SparseFormers, and one in '
            'evaluation mode is needed: call model.eval() first'
        )
    budgets = list(budgets)
    if not budgets or sorted(set(budgets)) != budgets or not is_number(certainty):
        raise ValueError(
            f'budgets={budgets!r} must be rising numbers of tokens, and '
            f'certainty={certainty!r} a number: for instance [4, 9, 16] and 0.8'
        )
    (backbone,) = backbones
    forward, before = forward or model, backbone.test_tokens
    left = torch.arange(len(inputs), device=inputs.device)
    logits, num_tokens = None, torch.zeros_like(left)
    try:
        for budget in budgets:
            backbone.test_tokens = budget
            found = forward(inputs if logits is None else inputs[left])
            if logits is None:
                logits = found.clone()
            logits[left], num_tokens[left] = found, budget
            doubtful = found.softmax(-1).amax(-1) < certainty
            left = left[doubtful]
            if not len(left):
                break
    finally:
        backbone.test_tokens = before
    return CertainAnswer(logits, num_tokens)
