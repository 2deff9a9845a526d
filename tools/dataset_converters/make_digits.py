"""Build data sets of real handwritten digits scattered over clutter.

Needs no download: the digits ship inside scikit-learn. Training and
validation pictures show different source digits. The same arguments give the
same files, byte for byte (with the same NumPy and OpenCV).

Example:
    python tools/dataset_converters/make_digits.py data/digits --task cls

Every folder holds ``samples.png``, which shows some validation pictures, and
``digits_manifest.json``, which says how it was made.

Layout of ``--task cls``, one digit per picture, mmpretrain's
``CustomDataset``::

    OUT/train/<class>/<number>.png    OUT/train_boxes.json
    OUT/val/<class>/<number>.png      OUT/val_boxes.json

A boxes file maps a picture's path, relative to the file, to its
``[[x1, y1, x2, y2, label], ...]``: pixel edges around the ink, x2 and y2
exclusive. They are for evaluation; training sees the classes only.

Layout of ``--task det``, 1 to 6 digits per picture, COCO, mmdet's
``CocoDataset``::

    OUT/train/<number>.png    OUT/annotations/instances_train.json
    OUT/val/<number>.png      OUT/annotations/instances_val.json

The categories 1 to 10 are named '0' to '9'. A box lies around the ink of its
digit, its area is the number of ink pixels.

Layout of ``--task seg``, the same scenes as those of ``det``, mmseg's
``BaseSegDataset``::

    OUT/img_dir/train/<number>.png    OUT/ann_dir/train/<number>.png
    OUT/img_dir/val/<number>.png      OUT/ann_dir/val/<number>.png

A mask has a single channel: 0 is background, 1 to 10 the ink of digit 0 to 9.

Layout of ``--task video``, clips of one moving digit, mmaction2's
``VideoDataset``; the class is the motion, ``classes.txt`` names all 8::

    OUT/videos/train/<number>.mp4    OUT/train.txt    OUT/train_boxes.json
    OUT/videos/val/<number>.mp4      OUT/val.txt      OUT/val_boxes.json

With ``--format frames`` for ``RawframeDataset``, whose lists name a folder
and its number of frames in place of a file::

    OUT/frames/train/<number>/img_00001.png    (the lists and boxes as above)

A boxes file maps a clip, named as in the list, to one
``[x1, y1, x2, y2, label]`` per frame. The middle of a clip does not tell its
class: the digit's place and size there are drawn alike for all. mp4 files
need PyAV.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Iterable, Iterator, List

import cv2
import numpy as np

from sparseformer_mm.digits.clips import UNREADABLE_WIDTHS, check_encoder
from sparseformer_mm.digits.scenes import (
    Scene,
    SceneSampler,
    load_source_digits,
    split_sources,
)
from sparseformer_mm.digits.tasks import TASKS, Task, write_json, write_samples

# Raise it whenever the same arguments give other files than before.
FORMAT = 1
MANIFEST = 'digits_manifest.json'
SPLITS = ('train', 'val')
MIN_CANVAS = 32
MIN_DIGIT = 8
MIN_FRAMES = 4


def make_scenes(
    task: Task,
    sampler: SceneSampler,
    seed: int,
    split: str,
    count: int,
    options: dict,
) -> Iterator[Scene]:
    """Draw the scenes (or clips) of a split.

    Each has a generator of its own: a smaller set with the same seed is the
    beginning of a larger one.
    """
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        yield task.compose(sampler, rng, index, **options)


def show_progress(
    scenes: Iterable[Scene], count: int, name: str, noun: str, used: List[int]
) -> Iterator[Scene]:
    """Pass scenes on and report how far they are.

    Args:
        scenes (Iterable[Scene]): The scenes.
        count (int): How many there will be.
        name (str): The split, for the report.
        noun (str): What the scenes are, for the report.
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
            line = f'{name}: {done}/{count} {noun}, {left:.0f} s left'
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
    options = {name: arguments[name] for name in task.options}
    if options.get('format') == 'mp4':
        manifest['versions']['av'] = check_encoder()
    for split, sources in split_sources(labels).items():
        sampler = SceneSampler(
            pixels, labels, sources, arguments['size'], tuple(arguments['digit_size'])
        )
        count = arguments[split]
        scenes = make_scenes(task, sampler, arguments['seed'], split, count, options)
        used: List[int] = []
        scenes = show_progress(scenes, count, split, task.noun, used)
        task.write(root, split, scenes, **options)
        manifest[f'{split}_sources'] = sorted(set(used))
        if split == 'val':
            scenes = make_scenes(
                task,
                sampler,
                arguments['seed'],
                split,
                min(count, task.samples),
                options,
            )
            write_samples(root, map(task.draw, scenes), task.columns)
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
        arguments (dict): task, train, val, size, digit_size, seed and those
            which only this task has.
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
    def by_task(name: str) -> str:
        return ', '.join(f'{key} {getattr(task, name)}' for key, task in TASKS.items())

    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('out', type=Path, help='folder of the data set')
    parser.add_argument(
        '--task',
        choices=sorted(TASKS),
        default='cls',
        help='cls: one digit per picture, a folder per class; det: 1 to 6 digits, '
        'COCO boxes; seg: 1 to 6 digits, masks; video: clips of one digit, '
        'classes are motions (default: %(default)s)',
    )
    parser.add_argument(
        '--train',
        type=int,
        help=f'number of training pictures (default: {by_task("train")})',
    )
    parser.add_argument(
        '--val',
        type=int,
        help=f'number of validation pictures (default: {by_task("val")})',
    )
    parser.add_argument(
        '--size',
        type=int,
        help=f'side of the square pictures in pixels (default: {by_task("size")})',
    )
    parser.add_argument(
        '--digit-size',
        type=int,
        nargs=2,
        metavar=('MIN', 'MAX'),
        help='least and greatest height of the digits in pixels, for video at the '
        'middle of the clip (default, in eighths of --size: '
        f'{by_task("digit_eighths")})',
    )
    parser.add_argument(
        '--frames',
        type=int,
        help='video: frames of each clip (default: '
        f'{TASKS["video"].options["frames"]})',
    )
    parser.add_argument(
        '--format',
        choices=['mp4', 'frames'],
        help='video: an mp4 file or a folder of png files per clip (default: '
        f'{TASKS["video"].options["format"]})',
    )
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    parser.add_argument(
        '--force', action='store_true', help='replace a data set with other arguments'
    )
    args = parser.parse_args()
    task = TASKS[args.task]
    for name in ('train', 'val', 'size'):
        if getattr(args, name) is None:
            setattr(args, name, getattr(task, name))
    for name in TASKS['video'].options:
        if name in task.options:
            if getattr(args, name) is None:
                setattr(args, name, task.options[name])
        elif getattr(args, name) is not None:
            parser.error(f'--{name} is for --task video, not {args.task}')
        else:
            delattr(args, name)
    if args.digit_size is None:
        args.digit_size = [
            max(MIN_DIGIT, args.size * eighths // 8) for eighths in task.digit_eighths
        ]
    if args.train < 1 or args.val < 1:
        parser.error(
            f'--train and --val must be at least 1, got {args.train} and {args.val}'
        )
    if args.size < MIN_CANVAS:
        parser.error(f'--size must be at least {MIN_CANVAS}, got {args.size}')
    smallest, largest = args.digit_size
    # Rotated and stretched, a digit can get wider than its nominal height.
    if not MIN_DIGIT <= smallest <= largest <= args.size // 2:
        parser.error(
            f'--digit-size must satisfy {MIN_DIGIT} <= MIN <= MAX <= --size / 2'
            f' = {args.size // 2}, got {smallest} {largest}'
        )
    if args.seed < 0:
        parser.error(f'--seed must not be negative, got {args.seed}')
    if args.task == 'video':
        if args.frames < MIN_FRAMES:
            parser.error(f'--frames must be at least {MIN_FRAMES}, got {args.frames}')
        if args.format == 'mp4' and args.size % 2:
            parser.error(
                f'mp4 files need an even --size, got {args.size}; --format frames '
                'takes any'
            )
        if args.format == 'mp4' and args.size in UNREADABLE_WIDTHS:
            parser.error(
                'decord, with which mmaction2 reads videos, fails at a width of '
                f'{args.size}; take another --size or --format frames'
            )
    return args


def main() -> None:
    arguments = vars(parse_args())
    out, force = arguments.pop('out'), arguments.pop('force')
    start = time.monotonic()
    if make_dataset(out, arguments, force):
        print(
            f'Wrote {out}: {arguments["train"]} training and '
            f'{arguments["val"]} validation {TASKS[arguments["task"]].noun} of '
            f'{arguments["size"]}x'
            f'{arguments["size"]} in {time.monotonic() - start:.0f} s; '
            f'{out / "samples.png"} shows some.'
        )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\nInterrupted; nothing was left half written.')
