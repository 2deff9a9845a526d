"""Disturbed pictures: a part erased, or wide margins (figure 7 of the paper)."""

import zlib
from typing import NamedTuple, Optional, Tuple

import numpy as np

KINDS = ('erase', 'zero-pad', 'reflect-pad')
# What an erased area is filled with; 'grey' is that of mmpretrain's RandomErasing.
FILLS = ('grey', 'black', 'mean', 'noise')


class Disturbed(NamedTuple):
    """A disturbed picture.

    Attributes:
        image: (H', W', 3), as the undisturbed one otherwise.
        area: (H', W') bool, the pixels which were erased or added.
        offset: x, y of the undisturbed picture's corner in it.
        size: width and height of the undisturbed picture.
    """

    image: np.ndarray
    area: np.ndarray
    offset: Tuple[int, int]
    size: Tuple[int, int]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) relative to the undisturbed picture, relative to this one."""
        boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
        pixels = boxes * np.tile(self.size, 2) + np.tile(self.offset, 2)
        return pixels / np.tile(self.area.shape[::-1], 2)

    def mask(self, mask: np.ndarray, fill: int = 255) -> np.ndarray:
        """A mask (H, W) of the undisturbed picture; ``fill`` where it was disturbed."""
        result = np.full(self.area.shape, fill, dtype=mask.dtype)
        (x, y), (width, height) = self.offset, self.size
        result[y : y + height, x : x + width] = mask
        result[self.area] = fill
        return result


def disturb(
    image: np.ndarray,
    kind: str,
    share: Optional[float] = None,
    seed: int = 0,
    fill: str = 'grey',
) -> Disturbed:
    """Disturb a picture.

    Args:
        image: (H, W, 3) uint8.
        kind: 'erase' erases one rectangle anywhere, between 1:2 and 2:1 if it fits so;
            'zero-pad' and 'reflect-pad' put black or mirrored margins around the
            picture, whose pixels stay as they are.
        share: above 0. Of the picture that is erased, below 1 (0.25), met up to the
            rounding to whole pixels; or width of the margin on each side in units of
            the picture's, at most 1 (0.5, so that a quarter of the result is the
            picture).
        seed: of what is erased: the same picture and seed give the same rectangle.
        fill: of what is erased: 'grey' (128), 'black', 'mean' (the picture's mean
            colour) or 'noise' (any colour, pixel by pixel).

    Raises:
        ValueError: for another kind or fill, or a share out of bounds.

    Example:
        >>> disturb(np.zeros((8, 6, 3), np.uint8), 'zero-pad').image.shape
        (16, 12, 3)
    """
    if kind == 'erase':
        return _erase(image, 0.25 if share is None else share, seed, fill)
    if kind not in KINDS:
        raise ValueError(f'kind={kind!r} is unknown; choose one of {KINDS}')
    return _pad(image, 0.5 if share is None else share, kind == 'reflect-pad')


def _erase(image: np.ndarray, share: float, seed: int, fill: str) -> Disturbed:
    if fill not in FILLS:
        raise ValueError(f'fill={fill!r} is unknown; choose one of {FILLS}')
    if not 0 < share < 1:
        raise ValueError(f'share must be above 0 and below 1, got {share!r}')
    height, width = image.shape[:2]
    rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image))])
    pixels = share * height * width
    wide = np.sqrt(pixels) * 2 ** rng.uniform(-0.5, 0.5)
    # Its height is pixels / width: neither side may be longer than the picture's.
    wide = int(np.ceil(np.clip(wide, pixels / height, width)))
    high = int(np.clip(round(pixels / wide), 1, height))
    x = int(rng.integers(0, width - wide + 1))
    y = int(rng.integers(0, height - high + 1))
    area = np.zeros((height, width), dtype=bool)
    area[y : y + high, x : x + wide] = True
    fills = dict(
        grey=np.full(3, 128),
        black=np.zeros(3),
        mean=image.mean((0, 1)).round(),
        noise=rng.integers(0, 256, (area.sum(), 3)),
    )
    image = image.copy()
    image[area] = fills[fill]
    return Disturbed(image, area, (0, 0), (width, height))


def _pad(image: np.ndarray, share: float, reflect: bool) -> Disturbed:
    if not 0 < share <= 1:
        raise ValueError(f'share must be above 0 and at most 1, got {share!r}')
    height, width = image.shape[:2]
    x, y = (max(1, round(share * side)) for side in (width, height))
    margins = ((y, y), (x, x))
    area = np.pad(np.zeros((height, width), dtype=bool), margins, constant_values=True)
    mode = 'reflect' if reflect else 'constant'
    padded = np.pad(image, (*margins, (0, 0)), mode=mode)
    return Disturbed(padded, area, (x, y), (width, height))
