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
        image (np.ndarray): (H', W', 3), as the undisturbed one otherwise.
        area (np.ndarray): (H', W') bool, the pixels which were erased or added.
        offset (Tuple[int, int]): x, y of the undisturbed picture's corner in it.
        size (Tuple[int, int]): Width and height of the undisturbed picture.
    """

    image: np.ndarray
    area: np.ndarray
    offset: Tuple[int, int]
    size: Tuple[int, int]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the undisturbed picture, where they are now.

        Args:
            boxes (np.ndarray): (n, 4) corners relative to the undisturbed picture.

        Returns:
            np.ndarray: (n, 4) relative to the disturbed one.
        """
        height, width = self.area.shape
        boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
        pixels = boxes * np.tile(self.size, 2) + np.tile(self.offset, 2)
        return pixels / [width, height, width, height]

    def mask(self, mask: np.ndarray, fill: int = 255) -> np.ndarray:
        """A mask (H, W) of the undisturbed picture; ``fill`` where it was disturbed."""
        result = np.full(self.area.shape, fill, dtype=mask.dtype)
        (x, y), (width, height) = self.offset, self.size
        result[y : y + height, x : x + width] = mask
        result[self.area] = fill
        return result


def erase(
    image: np.ndarray, share: float = 0.25, seed: int = 0, fill: str = 'grey'
) -> Disturbed:
    """Erase one rectangle of a picture (random erasing).

    Args:
        image (np.ndarray): (H, W, 3) uint8.
        share (float): Of the picture that is erased, above 0 and below 1; met up to
            the rounding to whole pixels.
        seed (int): The same picture and seed give the same rectangle. Its shape is
            between 1:2 and 2:1 if it fits into the picture so, its place anywhere.
        fill (str): 'grey' (128), 'black', 'mean' (the picture's mean colour) or
            'noise' (any colour, pixel by pixel).
    """
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


def pad(image: np.ndarray, share: float = 0.5, reflect: bool = False) -> Disturbed:
    """Put margins around a picture; its pixels stay as they are.

    Args:
        image (np.ndarray): (H, W, 3) uint8.
        share (float): Width of the margin on each side in units of the picture's, above
            0 and at most 1. With 0.5 a quarter of the result is the picture.
        reflect (bool): Margins mirror the picture instead of being black.
    """
    if not 0 < share <= 1:
        raise ValueError(f'share must be above 0 and at most 1, got {share!r}')
    height, width = image.shape[:2]
    x, y = (max(1, round(share * side)) for side in (width, height))
    margins = ((y, y), (x, x))
    mode = 'reflect' if reflect else 'constant'
    area = np.pad(np.zeros((height, width), dtype=bool), margins, constant_values=True)
    padded = np.pad(image, (*margins, (0, 0)), mode=mode)
    return Disturbed(padded, area, (x, y), (width, height))


def disturb(
    image: np.ndarray,
    kind: str,
    share: Optional[float] = None,
    seed: int = 0,
    fill: str = 'grey',
) -> Disturbed:
    """Disturb a picture in one of the ways of :data:`KINDS`.

    Args:
        image (np.ndarray): (H, W, 3) uint8.
        kind (str): 'erase', 'zero-pad' or 'reflect-pad'.
        share (float, optional): See :func:`erase` and :func:`pad`, whose defaults
            hold if it is not given.
        seed, fill: Of 'erase'.

    Raises:
        ValueError: for another kind or fill, or a share out of bounds.

    Example:
        >>> disturb(np.zeros((8, 6, 3), np.uint8), 'zero-pad').image.shape
        (16, 12, 3)
    """
    settings = {} if share is None else dict(share=share)
    if kind == 'erase':
        return erase(image, seed=seed, fill=fill, **settings)
    if kind not in KINDS:
        raise ValueError(f'kind={kind!r} is unknown; choose one of {KINDS}')
    return pad(image, reflect=kind == 'reflect-pad', **settings)
