"""The four tasks: which scenes their data sets show, and which files these are.

Adding a task means writing a ``compose`` and a ``write`` function and naming
them in :data:`TASKS`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Tuple, Union

import cv2
import numpy as np

from .clips import MOTIONS, Clip, compose_clip, write_mp4
from .scenes import NUM_CLASSES, Scene, SceneSampler

MAX_DIGITS = 6
# How often a scene is drawn until all its digits find a place.
_REDRAWS = 20
# RGB of background and digits 0..9 in the sample sheet, as in the task's config.
_PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (210, 245, 60),
        (170, 110, 40),
    ],
    np.uint8,
)


@dataclass
class Task:
    """How the scenes of one task are drawn and written.

    Args:
        compose: ``(sampler, rng, index) -> Scene``.
        write: ``(root, split, scenes) -> None``; consumes the
            scenes one by one, so that a split never has to fit in memory.
        draw: ``scene -> (h, w, 3) RGB uint8``, a tile of
            ``samples.png``.
        train: Default number of training pictures.
        val: Default number of validation pictures.
        size: Default side of the pictures in pixels.
        digit_eighths: Default least and greatest height of
            the digits, in eighths of the pictures' side.
        columns: Tiles side by side in ``samples.png``.
        samples: Tiles of ``samples.png``, at most.
        noun: What the task calls its scenes.
        options: Defaults of the arguments which only this task has;
            ``compose`` and ``write`` get their values as keywords.
        format: Raise it whenever the same arguments give other files than
            before.
    """

    compose: Callable[..., Union[Scene, Clip]]
    write: Callable[..., None]
    draw: Callable[[Any], np.ndarray]
    train: int
    val: int
    size: int
    digit_eighths: Tuple[int, int]
    columns: int = 10
    samples: int = 40
    noun: str = 'pictures'
    options: Dict[str, Any] = field(default_factory=dict)
    format: int = 1


def compose_single(
    sampler: SceneSampler, rng: np.random.Generator, index: int
) -> Scene:
    """Draw a scene with one digit; classes and sources take turns."""
    label, turn = index % NUM_CLASSES, index // NUM_CLASSES
    return sampler.sample(rng, [sampler.nth_source(label, turn)])


def compose_several(
    sampler: SceneSampler, rng: np.random.Generator, index: int
) -> Scene:
    """Draw a scene with 1 to 6 digits; numbers and sources take turns.

    Where the digits are too large for that many, the fullest of several
    attempts is taken.
    """
    # Six scenes in a row hold 1, 2, ... 6 digits, so where a scene's digits
    # start in the pack follows from its index alone.
    turn, place = divmod(index, MAX_DIGITS)
    number = place + 1
    start = turn * MAX_DIGITS * (MAX_DIGITS + 1) // 2 + place * (place + 1) // 2
    sources = [sampler.dealt_source(start + i) for i in range(number)]
    best = sampler.sample(rng, sources)
    for _ in range(_REDRAWS):
        if len(best.digits) == number:
            break
        best = max(best, sampler.sample(rng, sources), key=lambda s: len(s.digits))
    return best


def write_class_folders(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write ``split/<class>/<number>.png`` and ``split_boxes.json``."""
    boxes = {}
    for label in range(NUM_CLASSES):
        (root / split / str(label)).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        name = f'{split}/{scene.digits[0].label}/{index:06d}.png'
        write_image(root / name, scene.render())
        boxes[name] = scene.boxes()
    write_json(root / f'{split}_boxes.json', boxes)


def write_coco(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write ``split/<number>.png``, ``annotations/instances_split.json``."""
    (root / split).mkdir()
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for index, scene in enumerate(scenes):
        name = f'{index:06d}.png'
        write_image(root / split / name, scene.render())
        height, width = scene.background.shape[:2]
        image_id = index + 1
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        for (x1, y1, x2, y2, label), mask in zip(scene.boxes(), scene.masks()):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=run_lengths(mask),
                )
            )
    content = dict(
        info=dict(description='Handwritten digits scattered over clutter'),
        images=images,
        annotations=annotations,
        categories=[
            dict(id=label + 1, name=str(label), supercategory='digit')
            for label in range(NUM_CLASSES)
        ],
    )
    write_json(root / f'annotations/instances_{split}.json', content)


def run_lengths(mask: np.ndarray) -> Dict[str, List[int]]:
    """Encode a mask as COCO does without compression.

    Args:
        mask: (H, W) bool.

    Returns:
        ``size``, H and W; and ``counts``, the lengths of the runs of equal
        pixels down the columns, one column after the other. The first run is
        one of False, perhaps of length 0.
    """
    pixels = mask.ravel(order='F')
    starts = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(starts, prepend=0, append=pixels.size)
    return dict(size=list(mask.shape), counts=counts.tolist())


def write_masks(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write ``img_dir/split/<number>.png``, ``ann_dir/split/<number>.png``."""
    for folder in ('img_dir', 'ann_dir'):
        (root / folder / split).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        name = f'{split}/{index:06d}.png'
        write_image(root / 'img_dir' / name, scene.render())
        write_image(root / 'ann_dir' / name, scene.label_map())


def write_clips(
    root: Path, split: str, clips: Iterable[Clip], format: str, **_: object
) -> None:
    """Write clips, ``split.txt``, ``split_boxes.json`` and ``classes.txt``.

    Args:
        root: Folder of the data set.
        split: 'train' or 'val'.
        clips: The clips.
        format: 'mp4', a file per clip, or 'frames', a folder each.
    """
    folder = f'{"videos" if format == "mp4" else "frames"}/{split}'
    (root / folder).mkdir(parents=True)
    boxes, lines = {}, []
    for index, clip in enumerate(clips):
        name, frames = f'{folder}/{index:06d}', clip.render()
        if format == 'mp4':
            name += '.mp4'
            write_mp4(root / name, frames)
            lines.append(f'{name} {clip.label}\n')
        else:
            (root / name).mkdir()
            for number, frame in enumerate(frames, start=1):
                write_image(root / name / f'img_{number:05d}.png', frame)
            lines.append(f'{name} {len(frames)} {clip.label}\n')
        boxes[name] = clip.boxes()
    (root / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')
    (root / 'classes.txt').write_text('\n'.join(MOTIONS) + '\n', encoding='utf-8')
    write_json(root / f'{split}_boxes.json', boxes)


def draw_boxes(scene: Scene) -> np.ndarray:
    """Return the enlarged picture with its boxes."""
    tile = scene.render()
    zoom = max(1, 128 // len(tile))
    tile = np.kron(tile, np.ones((zoom, zoom, 1), np.uint8))
    for *box, _ in scene.boxes():
        x1, y1, x2, y2 = (zoom * edge for edge in box)
        cv2.rectangle(tile, (x1 - 1, y1 - 1), (x2, y2), (255, 255, 0))
    return tile


def draw_mask(scene: Scene) -> np.ndarray:
    """Return the enlarged picture and, to its right, its coloured mask."""
    tile = np.concatenate([scene.render(), _PALETTE[scene.label_map()]], axis=1)
    zoom = max(1, 128 // len(tile))
    return np.kron(tile, np.ones((zoom, zoom, 1), np.uint8))


def draw_strip(clip: Clip) -> np.ndarray:
    """Return six frames side by side with the class above them."""
    pictures = clip.render()
    chosen = np.linspace(0, len(pictures) - 1, 6).round().astype(int)
    strip = np.concatenate([pictures[i] for i in chosen], axis=1)
    zoom = max(1, 128 // len(strip))
    strip = np.kron(strip, np.ones((zoom, zoom, 1), np.uint8))
    strip = np.pad(strip, ((16, 0), (0, 8), (0, 0)))
    name, font = MOTIONS[clip.label], cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(strip, name, (2, 11), font, 0.4, (255,) * 3, 1, cv2.LINE_AA)


def write_samples(root: Path, tiles: Iterable[np.ndarray], columns: int) -> None:
    """Write a sheet of tiles of the same size."""
    tiles = list(tiles)
    columns = min(columns, len(tiles))
    # The last row is filled up in black.
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [
        np.concatenate(tiles[i : i + columns], axis=1)
        for i in range(0, len(tiles), columns)
    ]
    write_image(root / 'samples.png', np.concatenate(rows, axis=0))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB (H, W, 3) or single-channel (H, W) picture."""
    if image.ndim == 3:
        image = image[..., ::-1]
    # cv2.imwrite would only return False where the disk is full.
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def write_json(path: Path, content: dict) -> None:
    """Write a dictionary, one line per entry."""
    lines = (
        f'{json.dumps(key)}: {json.dumps(value)}' for key, value in content.items()
    )
    path.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


# Smaller digits in larger pictures, so that six find a place.
_SCATTERED = dict(size=128, digit_eighths=(1, 3))
TASKS: Dict[str, Task] = {
    'classification': Task(
        compose_single,
        write_class_folders,
        draw_boxes,
        train=10000,
        val=2000,
        size=64,
        digit_eighths=(2, 4),
    ),
    'detection': Task(
        compose_several,
        write_coco,
        draw_boxes,
        train=6000,
        val=1000,
        format=2,
        **_SCATTERED,
    ),
    'segmentation': Task(
        compose_several,
        write_masks,
        draw_mask,
        # What two cores learn from, and are tested on, in 15 minutes.
        train=5200,
        val=500,
        columns=5,
        **_SCATTERED,
    ),
    'video': Task(
        compose_clip,
        write_clips,
        draw_strip,
        train=3200,
        val=800,
        size=52,
        digit_eighths=(2, 3),
        columns=2,
        samples=24,
        noun='clips',
        options=dict(frames=16, format='mp4'),
    ),
}
