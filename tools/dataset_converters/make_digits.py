"""Build data sets of real handwritten digits scattered over clutter.

Needs no download: the digits ship inside scikit-learn. Training and
validation pictures show different source digits. The same arguments give the
same files, byte for byte (with the same NumPy and OpenCV).

Example:
    python tools/dataset_converters/make_digits.py data/digits --task classification

Every folder holds ``samples.png``, which shows some validation pictures, and
``digits_manifest.json``, which says how it was made.

Layout of ``--task classification``, one digit per picture, mmpretrain's
``CustomDataset``::

    OUT/train/<class>/<number>.png    OUT/train_boxes.json
    OUT/val/<class>/<number>.png      OUT/val_boxes.json

A boxes file maps a picture's path, relative to the file, to its
``[[x1, y1, x2, y2, label], ...]``: pixel edges around the ink, x2 and y2
exclusive. They are for evaluation; training sees the classes only.

Layout of ``--task detection``, 1 to 6 digits per picture, COCO, mmdet's
``CocoDataset``::

    OUT/train/<number>.png    OUT/annotations/instances_train.json
    OUT/val/<number>.png      OUT/annotations/instances_val.json

The categories 1 to 10 are named '0' to '9'. A box lies around the ink of its
digit, its area is the number of ink pixels, and its ``segmentation`` is these
pixels, as run lengths without compression.

Layout of ``--task segmentation``, the same scenes as those of ``detection``,
mmseg's ``BaseSegDataset``::

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
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

from sparseformer_mm.digits.clips import UNREADABLE_WIDTHS
from sparseformer_mm.digits.dataset import make_dataset
from sparseformer_mm.digits.tasks import TASKS
from sparseformer_mm.utils.outputs import check_folder

MIN_CANVAS = 32
# Drawn from 8 x 8 pixels, and as a whole in memory.
MAX_CANVAS = 4096
MIN_DIGIT = 8
MIN_FRAMES = 4
MAX_FRAMES = 10000


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    def by_task(name: str) -> str:
        return ', '.join(f'{key} {getattr(task, name)}' for key, task in TASKS.items())

    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('out', type=Path, help='folder of the data set')
    parser.add_argument(
        '--task',
        choices=sorted(TASKS),
        default='classification',
        help='classification: one digit per picture, a folder per class; detection: 1 '
        'to 6 digits, boxes and masks of each as COCO has them; segmentation: 1 to 6 '
        'digits, a mask per picture; video: clips of one digit, classes are motions '
        '(default: %(default)s)',
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
    args = parser.parse_args(argv)
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
    if args.size > MAX_CANVAS:
        parser.error(f'--size must be at most {MAX_CANVAS}, got {args.size}')
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
        if args.frames > MAX_FRAMES:
            parser.error(f'--frames must be at most {MAX_FRAMES}, got {args.frames}')
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


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = vars(parse_args(argv))
    out, force = arguments.pop('out'), arguments.pop('force')
    check_folder(out.resolve().parent)
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
