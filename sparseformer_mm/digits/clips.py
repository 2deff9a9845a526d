"""Short clips of one handwritten digit which moves over clutter.

The class is the motion, and no single picture tells it: whatever the class,
digit, colour, clutter and, at the middle of the clip, place and size are
drawn alike. Each of right/left, up/down and growing/shrinking is the other
one backwards. Nothing moves but the digit.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np

from .scenes import PlacedDigit, Scene, SceneSampler, ink_color, render_glyph

# Class 0, 1, ...
MOTIONS = (
    'right',
    'left',
    'up',
    'down',
    'growing',
    'shrinking',
    'still',
    'turning_back',
)
_DIRECTIONS = dict(right=(1, 0), left=(-1, 0), up=(0, -1), down=(0, 1))
# The whole way from the first to the last frame, in sides of the picture.
_DISTANCE = (0.25, 0.45)
# The greatest size, in units of the smallest.
_GROWTH = (1.6, 2.2)
# Standard deviation of the noise of each frame, of 255.
_NOISE = 3
# cv2.warpAffine does not average the pixels which it shrinks; enlarging first
# and then averaging does.
_OVERSAMPLING = 2
FRAMES_PER_SECOND = 8
# decord 0.6 takes the padded rows of such a picture for four channels.
UNREADABLE_WIDTHS = (48, 72)


@dataclass
class Clip:
    """One moving digit.

    Args:
        label: Class, an index of ``MOTIONS``.
        frames: One digit on the same background each.
        noise_seed: Seed of the frames' noise.
    """

    label: int
    frames: List[Scene]
    noise_seed: int

    @property
    def digits(self) -> List[PlacedDigit]:
        """The digit as in the first frame, in a list."""
        return self.frames[0].digits

    def render(self) -> List[np.ndarray]:
        """Return the frames, each (H, W, 3) RGB uint8."""
        rng = np.random.default_rng(self.noise_seed)
        pictures = [frame.render() for frame in self.frames]
        return [
            np.rint(picture + _NOISE * rng.standard_normal(picture.shape, np.float32))
            .clip(0, 255)
            .astype(np.uint8)
            for picture in pictures
        ]

    def boxes(self) -> List[List[int]]:
        """Return ``[x1, y1, x2, y2, label]`` of the ink in every frame."""
        return [box for frame in self.frames for box in frame.boxes()]


@dataclass
class Trajectory:
    """Where a patch is in every frame.

    Args:
        centers: Middle (x, y) of the patch in pixels, (T, 2); a
            picture's upper left corner is (0, 0).
        scales: Size of the patch in units of the given one,
            (T,), at most 1.
        middle: Middle of the patch at the middle of the clip,
            which may lie between two frames, (2,).
    """

    centers: np.ndarray
    scales: np.ndarray
    middle: np.ndarray


def draw_range(rng: np.random.Generator, size: int) -> Tuple[float, float]:
    """Draw how far a clip's digit would move and how much it would grow.

    Drawn for every class, as it tells where there is room and how large the
    digit may be.

    Returns:
        The distance in pixels and the factor of growth.
    """
    return size * rng.uniform(*_DISTANCE), rng.uniform(*_GROWTH)


def draw_trajectory(
    rng: np.random.Generator,
    motion: str,
    num_frames: int,
    size: int,
    patch: Tuple[int, int],
    distance: float,
    growth: float,
) -> Trajectory:
    """Draw a place which leaves room for every motion, then move one way.

    Args:
        rng: Source of randomness.
        motion: One of ``MOTIONS``.
        num_frames: Length T of the clip.
        size: Side of the square picture in pixels.
        patch: Height and width of the patch at its
            greatest, in pixels.
        distance: Way from the first to the last frame in pixels; who
            turns back goes half of it to and half of it fro.
        growth: Greatest size in units of the smallest. At its middle,
            every clip has the geometric mean of both.

    Returns:
        The patch lies inside the picture in all frames.
    """
    extent = np.array(patch[::-1], float)
    middle = growth**-0.5
    # Too large to move in this picture: smaller, whatever the motion.
    fit = min(1, size / extent.max(), (size - distance) / (middle * extent.max()))
    extent *= fit
    reach = np.maximum(extent, middle * extent + distance) / 2
    center = reach + (size - 2 * reach) * rng.random(2)

    # Drawn for every class, so that what is drawn next is the same for all.
    turn = rng.uniform(-1 / 6, 1 / 6)
    direction = _DIRECTIONS[MOTIONS[rng.integers(len(_DIRECTIONS))]]
    # From -0.5 to 0.5, 0 being the middle of the clip.
    time = (np.arange(num_frames) - (num_frames - 1) / 2) / (num_frames - 1)
    offsets, scales = np.zeros((num_frames, 2)), np.ones(num_frames)
    if motion in _DIRECTIONS:
        offsets = distance * np.outer(time, _DIRECTIONS[motion])
    elif motion == 'growing':
        scales = growth**time
    elif motion == 'shrinking':
        scales = growth**-time
    elif motion == 'turning_back':
        way = np.interp([0, *time], [-0.5, turn, 0.5], [0, distance / 2, 0])
        offsets = np.outer(way[1:] - way[0], direction)
    return Trajectory(center + offsets, fit * middle * scales, center)


def warp_patch(
    alpha: np.ndarray, center: np.ndarray, scale: float, size: int
) -> np.ndarray:
    """Shrink a patch and put it on an empty canvas, between pixels too.

    Args:
        alpha: Opacity, (h, w) float32 in 0..1.
        center: Where its middle goes, (x, y) in pixels.
        scale: Its size on the canvas in units of its own.
        size: Side of the square canvas in pixels.

    Returns:
        Opacity, (size, size) in 0..1.
    """
    height, width = alpha.shape
    scale, fine = scale * _OVERSAMPLING, size * _OVERSAMPLING
    # From pixel indices, which are 0.5 in the middle of the first pixel.
    x, y = center * _OVERSAMPLING - scale * (np.array([width, height]) - 1) / 2 - 0.5
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    canvas = cv2.warpAffine(alpha, matrix, (fine, fine), flags=cv2.INTER_LINEAR)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def compose_clip(
    sampler: SceneSampler,
    rng: np.random.Generator,
    index: int,
    frames: int,
    **_: object,
) -> Clip:
    """Draw a clip of ``frames`` frames; classes and sources take turns."""
    label = index % len(MOTIONS)
    source = sampler.dealt_source(index)
    size = sampler.canvas_size
    background = sampler.background(rng)
    distance, growth = draw_range(rng, size)
    # Drawn once, at its greatest, so that its shape does not flicker.
    height = rng.uniform(*sampler.digit_size) * growth**0.5
    alpha = render_glyph(sampler.pixels[source], height, rng)
    color = ink_color(rng)
    path = draw_trajectory(
        rng, MOTIONS[label], frames, size, alpha.shape, distance, growth
    )
    # Fragments keep clear of the digit at the middle of the clip only: the
    # ground that they left free would else tell the motion.
    x, y = path.middle
    half_height, half_width = np.array(alpha.shape) * growth**-0.5 / 2
    middle = (x - half_width, y - half_height, x + half_width, y + half_height)
    sampler.add_fragments(background, [middle], rng)
    scenes = []
    for center, scale in zip(path.centers, path.scales):
        opacity = warp_patch(alpha, center, scale, size)
        digit = PlacedDigit(label, source, opacity, color, 0, 0)
        scenes.append(Scene(background, [digit]))
    return Clip(label, scenes, int(rng.integers(2**32)))


def check_encoder() -> str:
    """Stop with the cure where mp4 files cannot be written.

    Returns:
        The version of PyAV.

    Raises:
        SystemExit: If PyAV or its H.264 encoder is missing.
    """
    cure = (
        f'Install it with\n    {sys.executable} -m pip install av\nor write '
        'pictures in place of mp4 files: --format frames'
    )
    try:
        import av
    except ImportError as error:
        raise SystemExit(
            f'mp4 files are written by PyAV, which cannot be imported here ({error}). '
            + cure
        ) from error
    if 'libx264' not in av.codecs_available:
        raise SystemExit(
            'mp4 files are written by the encoder libx264, which PyAV '
            f'{av.__version__} lacks here; its wheel of PyPI has it. {cure}'
        )
    return av.__version__


def write_mp4(path: Path, frames: List[np.ndarray]) -> None:
    """Write frames, (H, W, 3) RGB uint8 of even sides, as H.264."""
    import av

    # The bytes must depend neither on the time nor on the number of cores.
    with av.open(str(path), 'w', options=dict(fflags='+bitexact')) as container:
        options = dict(crf='12', preset='veryfast', bf='0', threads='1')
        stream = container.add_stream(
            'libx264', rate=FRAMES_PER_SECOND, options=options
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            # Not PyAV's own conversion, whose result varies from run to run.
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            picture = av.VideoFrame.from_ndarray(planes, format='yuv420p')
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
