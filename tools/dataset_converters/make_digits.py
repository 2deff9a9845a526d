"""Build data sets of real handwritten digits scattered over clutter.

Needs no download: the digits ship inside scikit-learn. Training and
validation pictures show different source digits. The same arguments give the
same files, byte for byte (with the same NumPy and OpenCV).

Example:
    python tools/dataset_converters/make_digits.py data/digits --task cls

Layout of ``--task cls``::

    OUT/train/<class>/<number>.png    OUT/train_boxes.json
    OUT/val/<class>/<number>.png      OUT/val_boxes.json
    OUT/samples.png                   OUT/digits_manifest.json

A boxes file maps a picture's path, relative to the file, to its
``[[x1, y1, x2, y2, label], ...]``: pixel edges around the ink, x2 and y2
exclusive. They are for evaluation; training sees the classes only.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List

import cv2
import numpy as np
from digit_scenes import (
    NUM_CLASSES,
    Scene,
    SceneSampler,
    load_source_digits,
    split_sources,
)

# Raise it whenever the same arguments give other files than before.
FORMAT = 1
MANIFEST = 'digits_manifest.json'
SPLITS = ('train', 'val')
MIN_CANVAS = 32


# One entry per task: how a scene is composed and how scenes become files.
@dataclass
class Task:
    """How the scenes of one task are drawn and written.

    Args:
        compose (Callable): ``(sampler, rng, index) -> Scene``.
        write (Callable): ``(root, split, scenes) -> None``; consumes the
            scenes one by one, so that a split never has to fit in memory.
    """

    compose: Callable[[SceneSampler, np.random.Generator, int], Scene]
    write: Callable[[Path, str, Iterable[Scene]], None]


def compose_single(
    sampler: SceneSampler, rng: np.random.Generator, index: int
) -> Scene:
    """Draw a scene with one digit; classes and sources take turns."""
    label, turn = index % NUM_CLASSES, index // NUM_CLASSES
    return sampler.sample(rng, [sampler.nth_source(label, turn)])


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


TASKS: Dict[str, Task] = {'cls': Task(compose_single, write_class_folders)}


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


def make_scenes(
    task: Task, sampler: SceneSampler, seed: int, split: str, count: int
) -> Iterator[Scene]:
    """Draw the scenes of a split.

    Each has a generator of its own: a smaller set with the same seed is the
    beginning of a larger one.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        yield task.compose(sampler, rng, index)


def write_samples(root: Path, scenes: Iterable[Scene], columns: int) -> None:
    """Write a sheet of pictures with their boxes drawn."""
    tiles = []
    for scene in scenes:
        tile = scene.render()
        zoom = max(1, 128 // len(tile))
        tile = np.kron(tile, np.ones((zoom, zoom, 1), np.uint8))
        for *box, _ in scene.boxes():
            x1, y1, x2, y2 = (zoom * edge for edge in box)
            cv2.rectangle(tile, (x1 - 1, y1 - 1), (x2, y2), (255, 255, 0))
        tiles.append(tile)
    rows = [
        np.concatenate(tiles[i : i + columns], axis=1)
        for i in range(0, len(tiles), columns)
    ]
    write_image(root / 'samples.png', np.concatenate(rows, axis=0))


def show_progress(
    scenes: Iterable[Scene], count: int, name: str, used: List[int]
) -> Iterator[Scene]:
    """Pass scenes on and report how far they are.

    Args:
        scenes (Iterable[Scene]): The scenes.
        count (int): How many there will be.
        name (str): What they are, for the report.
        used (list[int]): Collects the source digits which the scenes show.
    """
    start = last = time.monotonic()
    live = sys.stdout.isatty()
    for done, scene in enumerate(scenes, start=1):
        yield scene
        used.extend(digit.source for digit in scene.digits)
        now = time.monotonic()
        if done == count or now - last >= (0.2 if live else 5):
            last = now
            left = (now - start) / done * (count - done)
            line = f'{name}: {done}/{count} pictures, {left:.0f} s left'
            print(
                f'\r{line} ' if live else line,
                end='\n' if done == count or not live else '',
                flush=True,
            )


def build(root: Path, arguments: dict) -> None:
    """Write the whole data set into an existing empty folder."""
    task = TASKS[arguments['task']]
    pixels, labels = load_source_digits()
    manifest = dict(
        format=FORMAT,
        arguments=arguments,
        versions=dict(numpy=np.__version__, opencv=cv2.__version__),
    )
    for split, sources in split_sources(labels).items():
        sampler = SceneSampler(
            pixels, labels, sources, arguments['size'], tuple(arguments['digit_size'])
        )
        count = arguments[split]
        scenes = make_scenes(task, sampler, arguments['seed'], split, count)
        used: List[int] = []
        task.write(root, split, show_progress(scenes, count, split, used))
        manifest[f'{split}_sources'] = sorted(set(used))
        if split == 'val':
            scenes = make_scenes(
                task, sampler, arguments['seed'], split, min(count, 40)
            )
            write_samples(root, scenes, columns=NUM_CLASSES)
    manifest['num_files'] = count_files(root)
    # The manifest comes last: without it the set counts as half written.
    write_json(root / MANIFEST, manifest)


def count_files(root: Path) -> int:
    """Count all files below a folder but the manifest."""
    total = sum(len(files) for _, _, files in os.walk(root))
    return total - (root / MANIFEST).exists()


def inspect(out: Path, arguments: dict) -> str:
    """Say what lies at ``out``.

    Returns:
        str: 'nothing', 'same' (complete, with these arguments), 'other'
        (with other arguments), 'broken' (incomplete) or 'foreign'.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return 'nothing'
    if not (out / MANIFEST).is_file():
        return 'foreign'
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding='utf-8'))
        found = manifest['format'], manifest['arguments']
        complete = manifest['num_files'] == count_files(out)
    except (ValueError, KeyError, TypeError):
        return 'broken'
    if found != (FORMAT, arguments):
        return 'other'
    return 'same' if complete else 'broken'


def make_dataset(out: Path, arguments: dict, force: bool = False) -> bool:
    """Build a data set unless it is there already.

    Args:
        out (Path): Where it goes; a folder of this tool or a new one.
        arguments (dict): task, train, val, size, digit_size, seed.
        force (bool): Build anew what this tool has built before.

    Returns:
        bool: Whether it was built, False if it was there.
    """
    # A link to a larger disk stays a link.
    out = out.resolve()
    state = inspect(out, arguments)
    if state == 'foreign':
        raise SystemExit(
            f'{out} exists and has no {MANIFEST}, so it was not made by this '
            'tool and is left alone, --force or not. Name another folder, or '
            'remove it yourself.'
        )
    if state == 'other' and not force:
        raise SystemExit(
            f'{out} holds a data set made with other arguments (see its '
            f'{MANIFEST}). Use --force to replace it, or name another '
            'folder.'
        )
    if state == 'same' and not force:
        print(f'{out} is complete; nothing to do.')
        return False
    if state == 'broken':
        print(f'{out} is incomplete; building it anew.')
    # Built beside and renamed, so that `out` is never half written.
    partial = out.with_name(f'.{out.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        build(partial, arguments)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', type=Path, help='folder of the data set')
    parser.add_argument('--task', choices=sorted(TASKS), default='cls')
    parser.add_argument(
        '--train', type=int, default=10000, help='number of training pictures'
    )
    parser.add_argument(
        '--val', type=int, default=2000, help='number of validation pictures'
    )
    parser.add_argument(
        '--size', type=int, default=64, help='side of the square pictures in pixels'
    )
    parser.add_argument(
        '--digit-size',
        type=int,
        nargs=2,
        metavar=('MIN', 'MAX'),
        help='height of the digits in pixels; a quarter and '
        'half of --size if not given',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--force', action='store_true', help='replace a data set with other arguments'
    )
    args = parser.parse_args()
    if args.digit_size is None:
        args.digit_size = [args.size // 4, args.size // 2]
    if args.train < 1 or args.val < 1:
        parser.error(
            f'--train and --val must be at least 1, got {args.train} and {args.val}'
        )
    if args.size < MIN_CANVAS:
        parser.error(f'--size must be at least {MIN_CANVAS}, got {args.size}')
    smallest, largest = args.digit_size
    # Rotated and stretched, a digit can get wider than its nominal height.
    if not 8 <= smallest <= largest <= args.size // 2:
        parser.error(
            '--digit-size must satisfy 8 <= MIN <= MAX <= --size / 2'
            f' = {args.size // 2}, got {smallest} {largest}'
        )
    if args.seed < 0:
        parser.error(f'--seed must not be negative, got {args.seed}')
    return args


def main() -> None:
    arguments = vars(parse_args())
    out, force = arguments.pop('out'), arguments.pop('force')
    start = time.monotonic()
    if make_dataset(out, arguments, force):
        print(
            f'Wrote {out}: {arguments["train"]} training and '
            f'{arguments["val"]} validation pictures of {arguments["size"]}x'
            f'{arguments["size"]} in {time.monotonic() - start:.0f} s; '
            f'{out / "samples.png"} shows some.'
        )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\nInterrupted; nothing was left half written.')
