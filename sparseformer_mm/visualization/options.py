"""The command line of vis_focus.py."""

import argparse
from pathlib import Path
from typing import List, Optional, Sequence

from . import disturb
from .density import BANDWIDTH, GRID
from .figures import KINDS


def indices(text: str) -> List[int]:
    """'3,17' -> [3, 17]."""
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} are no indices; give numbers such as 3,17'
        ) from None


def parse_args(
    description: str, argv: Optional[Sequence[str]] = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config of a trained model')
    parser.add_argument('checkpoint', help='its weights, file or URL')
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE|VIDEO|FOLDER',
        help='pictures or videos, or folders of them; a folder of pictures is one '
        "video's frames for a video model; of a folder of folders, one picture of "
        'each in turn',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('vis_focus'),
        help='folder for the PNG files and the page (default: %(default)s)',
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=4,
        help='take the first so many pictures or videos (default: %(default)s)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='least score of a detection (default: %(default)s)',
    )
    parser.add_argument(
        '--truth',
        choices=['auto', 'none'],
        default='auto',
        help="auto: for pictures and videos of the config's test data, and boxes of a "
        "file FOLDER_boxes.json beside the pictures' folder (default)",
    )
    parser.add_argument('--device', default='cpu')
    _add_choices(parser)
    _add_disturbances(parser)
    _add_video(parser)
    args = parser.parse_args(argv)
    if args.what and 'none' in args.what:
        if len(args.what) > 1 or not args.json:
            parser.error('--what none is for --json FILE alone, without any picture')
    elif args.max_images > 100:  # a file has 65535 rows of pixels at most
        parser.error('--max-images must be between 1 and 100')
    if args.max_images < 1:
        parser.error('--max-images must be at least 1')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr must be between 0 and 1')
    if not 0 < args.bandwidth <= 1:
        parser.error('--bandwidth must be above 0 and at most 1')
    for name, least, most in (
        ('view', 0, 10**6),
        ('num_frames', 1, 64),
        ('top_tokens', 0, 10**6),
        ('top_k_class', 1, 10**6),
        ('seed', 0, 2**32 - 1),
    ):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            flag = name.replace('_', '-')
            parser.error(f'--{flag} must be between {least} and {most}')
    if args.tokens is not None:
        for value, flag in (
            (args.class_name, '--class'),
            (args.top_k_class, '--top-k-class'),
        ):
            if value is not None:
                parser.error(
                    f'{flag} chooses tokens, and so does --tokens; give one of them'
                )
    given = dict(share='disturb_share', fill='erase_fill', seed='seed')
    for kind, name in given.items():
        if getattr(args, name) is not None and not args.disturb:
            flag = name.replace('_', '-')
            parser.error(f'--{flag} is the {kind} of --disturb, which is not given')
    args.erase_fill = args.erase_fill or 'grey'
    args.seed = args.seed or 0
    return args


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--what',
        nargs='+',
        choices=[*KINDS, 'none'],
        help='pictures: also write a figure of each kind, NAME_points.png ..., and '
        'the page index.html; none: numbers alone (default: all kinds for '
        'classifiers, no more than NAME_focus.png for others)',
    )
    parser.add_argument(
        '--stages',
        nargs='+',
        metavar='NAME|INDEX',
        help='sampling stages, e.g. focusing.0 or -1 (default: all)',
    )
    parser.add_argument(
        '--tokens',
        type=indices,
        metavar='I,J,...',
        help='tokens to draw; of videos, those in colour, instead of --top-tokens. '
        'Density and numbers are always those of all tokens',
    )
    parser.add_argument(
        '--top-k-class',
        type=int,
        nargs='?',
        const=5,
        metavar='K',
        help='draw the K tokens of a picture (5 without a number) that answer most to '
        'its class: the true one where known, else the predicted one; of detectors, '
        'that of the best detection',
    )
    parser.add_argument(
        '--class',
        dest='class_name',
        metavar='NAME|INDEX',
        help='this class instead, for --top-k-class and --top-tokens',
    )
    parser.add_argument(
        '--bandwidth',
        type=float,
        default=BANDWIDTH,
        help="radius of the density's top-hat kernel in units of the picture's shorter "
        'side (default: %(default)s, 11 of 224 pixels)',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='FILE',
        help='write numbers of each picture and stage, and their means: points, share '
        'in true boxes and on the disturbed area, RoIs, and the entropy of the density '
        f'map in bits on {GRID[0]} x {GRID[1]} cells',
    )


def _add_disturbances(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('disturbed pictures')
    group.add_argument(
        '--disturb',
        choices=disturb.KINDS,
        help='erase: one rectangle; *-pad: wide margins, black or mirrored. Done '
        "before the config's test pipeline, whose resizing follows",
    )
    group.add_argument(
        '--disturb-share',
        type=float,
        help='erase: share of the picture (default: 0.25); pad: width of a margin in '
        "units of the picture's (default: 0.5, a quarter is left)",
    )
    group.add_argument(
        '--erase-fill',
        choices=disturb.FILLS,
        help='what is there instead (default: grey, 128)',
    )
    group.add_argument('--seed', type=int, help='of what is erased (default: 0)')


def _add_video(parser: argparse.ArgumentParser) -> None:
    video = parser.add_argument_group('videos')
    video.add_argument(
        '--view',
        type=int,
        help='which of the clips and crops that the test pipeline makes, clips of the '
        'first crop first (default: 0)',
    )
    video.add_argument(
        '--num-frames',
        type=int,
        help='draw so many frames of the clip (default: 6)',
    )
    video.add_argument(
        '--top-tokens',
        type=int,
        help='of each of the token_inflation copies in time, draw so many tokens in '
        'colour: those that answer to the predicted class the most (default: 4)',
    )
