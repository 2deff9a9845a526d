"""Scenes of scattered handwritten digits over clutter.

The digits are the 1797 real 8x8 ones which ship inside scikit-learn. A
:class:`SceneSampler` enlarges and distorts them and puts them at random
places on a cluttered canvas; the resulting :class:`Scene` knows its picture,
its boxes and its masks. Nothing here writes files, so every task (class
folders, COCO boxes, masks, clips) starts from the same scenes.
"""

import sys
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

NUM_CLASSES = 10
# Pixels with at least this opacity are "ink": boxes and masks count these.
INK = 0.5
# Fixed, not the user's seed: a digit of a validation set is then in no
# training set of any task or seed, so fine-tuning across tasks cannot leak.
_SPLIT_SEED = 1797
_VAL_SHARE = 0.2


def load_source_digits() -> Tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's handwritten digits.

    Returns:
        ``pixels`` (1797, 8, 8), float32 in 0..1, and ``labels``
        (1797,), int64.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit(
            'The handwritten digits come with scikit-learn, which cannot be '
            f'imported here ({error}). Install it with:\n'
            f'    {sys.executable} -m pip install scikit-learn'
        ) from error
    digits = load_digits()
    pixels = (digits.images / 16).astype(np.float32)
    return pixels, digits.target.astype(np.int64)


def split_sources(labels: np.ndarray) -> Dict[str, np.ndarray]:
    """Divide the source digits, class by class, into train and val.

    Args:
        labels: Class of every source digit, shape (S,).

    Returns:
        Sorted source indices of ``train`` (80 %) and
        ``val`` (20 %); no index is in both.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    train, val = [], []
    for label in range(NUM_CLASSES):
        order = rng.permutation(np.flatnonzero(labels == label))
        num_val = round(_VAL_SHARE * len(order))
        val.append(order[:num_val])
        train.append(order[num_val:])
    return dict(train=np.sort(np.concatenate(train)), val=np.sort(np.concatenate(val)))


@dataclass
class PlacedDigit:
    """One digit on the canvas.

    Args:
        label: Class.
        source: Index of the source digit in scikit-learn's set.
        alpha: Opacity, (h, w) in 0..1.
        color: RGB in 0..1, shape (3,).
        x: Canvas column of the patch's left edge.
        y: Canvas row of the patch's upper edge.
    """

    label: int
    source: int
    alpha: np.ndarray
    color: np.ndarray
    x: int
    y: int

    @property
    def box(self) -> Tuple[int, int, int, int]:
        """Pixel edges (x1, y1, x2, y2) around the ink; x2, y2 exclusive."""
        rows, columns = np.nonzero(self.alpha >= INK)
        return (
            self.x + int(columns.min()),
            self.y + int(rows.min()),
            self.x + int(columns.max()) + 1,
            self.y + int(rows.max()) + 1,
        )


@dataclass
class Scene:
    """A cluttered canvas and the digits on it, first drawn first.

    Args:
        background: (H, W, 3) RGB in 0..1, clutter included.
        digits: The digits; they lie inside the canvas.
    """

    background: np.ndarray
    digits: List[PlacedDigit] = field(default_factory=list)

    def render(self) -> np.ndarray:
        """Return the picture, (H, W, 3) RGB uint8."""
        canvas = self.background.copy()
        for digit in self.digits:
            paste(canvas, digit.alpha, digit.color, digit.x, digit.y)
        return np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)

    def boxes(self) -> List[List[int]]:
        """Return ``[x1, y1, x2, y2, label]`` of every digit, in pixels."""
        return [[*digit.box, digit.label] for digit in self.digits]

    def masks(self) -> np.ndarray:
        """Return the ink seen of every digit, (num_digits, H, W) bool.

        What lies under the ink of a later digit is not seen.
        """
        masks = np.zeros((len(self.digits), *self.background.shape[:2]), bool)
        for number, digit in enumerate(self.digits):
            height, width = digit.alpha.shape
            ink = digit.alpha >= INK
            place = np.s_[..., digit.y : digit.y + height, digit.x : digit.x + width]
            masks[:number][place] &= ~ink
            masks[number][place] = ink
        return masks

    def label_map(self) -> np.ndarray:
        """Return each pixel's class, (H, W) uint8: 0 or the digit plus 1."""
        label_map = np.zeros(self.background.shape[:2], np.uint8)
        for mask, digit in zip(self.masks(), self.digits):
            label_map[mask] = digit.label + 1
        return label_map


def paste(
    canvas: np.ndarray, alpha: np.ndarray, color: np.ndarray, x: int, y: int
) -> None:
    """Blend a coloured patch into a canvas (in place).

    Args:
        canvas: (H, W, 3) in 0..1.
        alpha: (h, w) opacity; the patch must fit.
        color: (3,) in 0..1.
        x: Left edge of the patch.
        y: Upper edge of the patch.
    """
    region = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    region += alpha[..., None] * (color - region)


def render_glyph(
    pixels: np.ndarray, height: float, rng: np.random.Generator
) -> np.ndarray:
    """Enlarge a source digit with a mild random distortion.

    Rotation, shear, aspect ratio, stroke thickness and edge softness vary.

    Args:
        pixels: (8, 8) in 0..1.
        height: Wanted height in pixels; the distortion changes the
            result by some percent.
        rng: Source of randomness.

    Returns:
        (h, w) opacity in 0..1, cropped to its visible part.
    """
    rows, columns = np.nonzero(pixels >= INK)
    middle = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
    scale = height / (rows.max() - rows.min() + 1)
    angle = np.deg2rad(rng.uniform(-12, 12))
    shear = rng.uniform(-0.2, 0.2)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = (
        np.array([[cos, -sin], [sin, cos]])
        @ np.array([[rng.uniform(0.85, 1.2), shear], [0, 1]])
        * scale
    )
    side = int(np.ceil(scale * 8 * 1.8)) + 4
    offset = (side - 1) / 2 - matrix @ middle
    large = cv2.warpAffine(
        pixels, np.column_stack([matrix, offset]), (side, side), flags=cv2.INTER_CUBIC
    )
    # A lower threshold thickens the strokes; the slope softens their edge.
    threshold = rng.uniform(0.4, 0.6)
    softness = rng.uniform(0.25, 0.6)
    alpha = ((large - threshold) / softness + 0.5).clip(0, 1)
    return crop_visible(alpha)


def crop_visible(alpha: np.ndarray) -> np.ndarray:
    """Cut an opacity patch to its pixels above zero."""
    rows, columns = np.nonzero(alpha > 0)
    return alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


class SceneSampler:
    """Draws scenes; the same generator state gives the same scene.

    Args:
        pixels: All source digits, (S, 8, 8) in 0..1.
        labels: Their classes, (S,).
        sources: Indices which may be used, (one split).
        canvas_size: Side of the square canvas in pixels.
        digit_size: Least and greatest height of
            a digit in pixels. Defaults to a quarter and half of the canvas.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        sources: np.ndarray,
        canvas_size: int,
        digit_size: Optional[Tuple[int, int]] = None,
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self.sources = sources
        self.canvas_size = canvas_size
        self.digit_size = digit_size or (canvas_size // 4, canvas_size // 2)

    def nth_source(self, label: int, n: int) -> int:
        """Return the n-th source digit of a class.

        After the last comes the first again: all are used equally often.
        """
        candidates = self.sources[self.labels[self.sources] == label]
        return int(candidates[n % len(candidates)])

    def dealt_source(self, n: int) -> int:
        """Return the n-th source digit dealt from a shuffled pack.

        All are dealt once, whatever their class, before the pack is shuffled
        anew: all are used equally often and any classes may meet.
        """
        round_, place = divmod(n, len(self.sources))
        pack = np.random.default_rng([_SPLIT_SEED, round_]).permutation(self.sources)
        return int(pack[place])

    def sample(self, rng: np.random.Generator, sources: Sequence[int]) -> Scene:
        """Draw a scene with the given source digits.

        Args:
            rng: Source of randomness.
            sources: One source index per digit. A digit for
                which no free place is found is left out, so a crowded canvas
                may hold fewer.

        Returns:
            Digits overlap neither each other nor bright clutter.
        """
        scene = Scene(self.background(rng))
        occupied = []
        for source in sources:
            alpha = render_glyph(
                self.pixels[source], rng.uniform(*self.digit_size), rng
            )
            place = self._free_place(alpha.shape, occupied, rng)
            if place is not None:
                scene.digits.append(
                    PlacedDigit(
                        int(self.labels[source]),
                        int(source),
                        alpha,
                        ink_color(rng),
                        *place,
                    )
                )
        self.add_fragments(scene.background, occupied, rng)
        return scene

    def _free_place(
        self,
        shape: Tuple[int, int],
        occupied: List[Tuple[int, int, int, int]],
        rng: np.random.Generator,
        tries: int = 30,
    ) -> Optional[Tuple[int, int]]:
        """Find (x, y) for a patch, one pixel clear of everything occupied.

        The place is added to ``occupied``. None if there is no room.
        """
        height, width = shape
        room_y, room_x = self.canvas_size - height, self.canvas_size - width
        if min(room_y, room_x) < 0:
            return None
        for _ in range(tries):
            x, y = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
            if all(
                x > x2 or y > y2 or x + width < x1 or y + height < y1
                for x1, y1, x2, y2 in occupied
            ):
                occupied.append((x, y, x + width, y + height))
                return x, y
        return None

    def background(self, rng: np.random.Generator) -> np.ndarray:
        """Dark texture with strokes and blobs that are dimmer than ink."""
        size = self.canvas_size
        cells = int(rng.integers(2, 9))
        coarse = rng.random((cells, cells, 3), np.float32)
        canvas = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        canvas *= rng.uniform(0.1, 0.4)
        for _ in range(rng.integers(3, 8)):
            alpha = self._stroke_or_blob(rng)
            color = rng.uniform(0.1, 0.55, 3).astype(np.float32)
            paste(canvas, alpha * rng.uniform(0.5, 1), color, 0, 0)
        noise = rng.standard_normal(canvas.shape, np.float32)
        return canvas + rng.uniform(0.01, 0.04) * noise

    def _stroke_or_blob(self, rng: np.random.Generator) -> np.ndarray:
        """Return the opacity (size, size) of a line, an arc or an ellipse."""
        size = self.canvas_size
        # cv2 smooths edges in 8 bit only.
        layer = np.zeros((size, size), np.uint8)
        thickness = int(rng.integers(1, max(2, size // 20) + 1))
        x, y, x2, y2 = (int(v) for v in rng.integers(0, size, 4))
        kind = rng.integers(3)
        if kind == 0:
            cv2.line(layer, (x, y), (x2, y2), 255, thickness, cv2.LINE_AA)
        else:
            axes = [int(v) for v in rng.integers(2, max(3, size // 5), 2)]
            start = int(rng.integers(360))
            # An arc of the ellipse, or the whole of it filled.
            sweep = int(rng.integers(60, 270)) if kind == 1 else 360
            cv2.ellipse(
                layer,
                (x, y),
                axes,
                int(rng.integers(180)),
                start,
                start + sweep,
                255,
                thickness if kind == 1 else -1,
                cv2.LINE_AA,
            )
        return layer.astype(np.float32) / 255

    def add_fragments(
        self,
        canvas: np.ndarray,
        occupied: List[Tuple[int, int, int, int]],
        rng: np.random.Generator,
    ) -> None:
        """Add what has the strokes and the colour of digits but is none.

        These are parts of source digits, 4 to 6 source pixels wide and high,
        with their 2x2 blocks mixed.
        """
        for _ in range(rng.integers(1, 5)):
            pixels = self.pixels[rng.choice(self.sources)]
            blocks = pixels.reshape(4, 2, 4, 2).swapaxes(1, 2).reshape(16, 4)
            # Whole digits are mostly empty at the sides; such blocks would
            # leave nothing to see.
            blocks = rng.permutation(blocks[blocks.max(1) >= INK])
            rows, columns = rng.integers(2, 4, 2)
            blocks = np.resize(blocks, (rows, columns, 2, 2))
            part = np.zeros((8, 8), np.float32)
            part[: 2 * rows, : 2 * columns] = blocks.swapaxes(1, 2).reshape(
                2 * rows, 2 * columns
            )
            height = rng.uniform(*self.digit_size) * rows / 4
            alpha = render_glyph(part, height, rng)
            place = self._free_place(alpha.shape, occupied, rng, tries=5)
            if place is not None:
                paste(canvas, alpha, ink_color(rng), *place)


def ink_color(rng: np.random.Generator) -> np.ndarray:
    """Bright and at most half saturated: brighter than any background."""
    tint = 1 - rng.uniform(0, 0.5) * rng.random(3)
    return (rng.uniform(0.75, 1) * tint).astype(np.float32)
