"""Draw what a model finds and where it looks.

Writes NAME_focus.png for each picture or video, and ``sheet.png`` with all of them.
Pictures: what the model finds, then for each sampling stage RoIs and sampling points
(segmentation: RoIs of the last stage). ``--what`` adds a file of each kind (figures 3
to 5 of the paper) and ``index.html``, a page to step through the stages,
``--top-k-class`` draws the tokens that answer most to a class (figure 6), ``--disturb``
erases or pads before the model looks (figure 7), ``--json FILE`` writes numbers and
prints their means, such as the share of points in true boxes. Videos, or folders of
numbered frames: frames of a clip, a row for each stage. Colours and lines:
sparseformer_mm/docs/looking.md.

Example:
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg folder
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg \
        --what rois --top-k-class 5 --class 'golden retriever'
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT folder --max-images 200 \
        --what none --disturb zero-pad --json numbers.json
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT clip.mp4 --out pictures
"""

import argparse
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from mmengine.config import Config, DictAction
from mmengine.dataset import DefaultSampler

from sparseformer_mm.engine.files import find_pictures, read_picture
from sparseformer_mm.host import LIBRARIES, Host, host_of
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.utils.configs import load_config
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_folder, check_writable
from sparseformer_mm.visualization import disturb
from sparseformer_mm.visualization.focus import draw_looks
from sparseformer_mm.visualization.looks import Choice, Picture, look_at
from sparseformer_mm.visualization.recording import KINDS, Look
from sparseformer_mm.visualization.report import look_numbers, table, write_numbers
from sparseformer_mm.visualization.statistics import BANDWIDTH, GRID
from sparseformer_mm.visualization.truth import Truth

MOST_DRAWN = 100  # a file has 65535 rows of pixels at most
# Option -> least and most.
RANGES = dict(
    max_images=(1, 10**9),
    num_drawn=(1, MOST_DRAWN),
    score_thr=(0, 1),
    view=(0, 10**9),
    num_frames=(1, 64),
    top_k_class=(1, 10**9),
    seed=(0, 2**32 - 1),
)


def flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def indices(text: str) -> List[int]:
    """'3,17' -> [3, 17]."""
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} are no indices; give numbers such as 3,17'
        ) from None


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # fmt: off
    add = parser.add_argument
    add('config', help='config of a trained model')
    add('checkpoint', help='its weights, file or URL')
    add('images', nargs='+', metavar='IMAGE|VIDEO|FOLDER',
        help='pictures or videos, or folders of them; a folder of pictures is one '
        "video's frames for a video model; of a folder of folders, one picture of "
        'each in turn')
    add('--out', type=Path, default=Path('vis_focus'),
        help='folder for the PNG files and the page (default: %(default)s)')
    add('--max-images', type=int, default=4,
        help='take the first so many pictures or videos (default: %(default)s)')
    add('--shuffle', action='store_true',
        help='take them at random, the same ones each time')
    add('--num-drawn', type=int,
        help=f'draw the first so many of them, at most {MOST_DRAWN} (default: all)')
    add('--score-thr', type=float, default=0.3,
        help='least score of a detection (default: %(default)s)')
    add('--truth', default='auto', metavar='auto|none|FILE',
        help="auto: for pictures and videos of the config's test data, and boxes of a "
        "file FOLDER_boxes.json beside the pictures' folder (default); FILE: another "
        'file of boxes')
    add('--device', default='cpu')
    add('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config')
    add('--what', nargs='+', choices=[*KINDS, 'none'],
        help='pictures: also write a figure of each kind, NAME_points.png ..., and '
        'the page index.html; none: numbers alone (default: all kinds for '
        'classifiers, no more than NAME_focus.png for others)')
    add('--stages', nargs='+', metavar='NAME|INDEX',
        help='sampling stages, e.g. focusing.0 or -1 (default: all)')
    add('--tokens', type=indices, metavar='I,J,...',
        help='tokens to draw; of videos, those in colour. Density and numbers are '
        'always those of all tokens')
    add('--top-k-class', '--top-tokens', type=int, nargs='?', const=5, metavar='K',
        help='draw the K tokens (5 without a number) that answer most to the class of '
        'the picture: the true one where known, else the predicted one; of detectors, '
        'that of the best detection; of videos, the K in colour of each of the '
        'token_inflation copies in time, for the predicted class (default: 4)')
    add('--class', dest='class_name', metavar='NAME|INDEX',
        help='this class instead')
    add('--bandwidth', type=float, default=BANDWIDTH,
        help="radius of the density's top-hat kernel in units of the picture's shorter "
        'side (default: %(default)s, 11 of 224 pixels)')
    add('--json', type=Path, metavar='FILE',
        help='write numbers of each picture and stage, and their means: points, share '
        'in true boxes and on the disturbed area, RoIs, and the entropy of the density '
        f'map in bits on {GRID[0]} x {GRID[1]} cells')
    add = parser.add_argument_group('disturbed pictures').add_argument
    add('--disturb', choices=disturb.KINDS,
        help='erase: one rectangle; *-pad: wide margins, black or mirrored. Done '
        "before the config's test pipeline, whose resizing follows")
    add('--disturb-share', type=float,
        help='erase: share of the picture (default: 0.25); pad: width of a margin in '
        "units of the picture's (default: 0.5, a quarter is left)")
    add('--erase-fill', choices=disturb.FILLS,
        help='what is there instead (default: grey, 128)')
    add('--seed', type=int, help='of what is erased (default: 0)')
    add = parser.add_argument_group('videos').add_argument
    add('--view', type=int,
        help='which of the clips and crops that the test pipeline makes, clips of the '
        'first crop first (default: 0)')
    add('--num-frames', type=int,
        help='draw so many frames of the clip (default: 6)')
    # fmt: on
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what is out of range, and options that would be ignored."""
    if args.what and 'none' in args.what and (len(args.what) > 1 or not args.json):
        parser.error('--what none is for --json FILE alone, without any picture')
    for name, (least, most) in RANGES.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            parser.error(f'{flag(name)} must be between {least} and {most}')
    if not 0 < args.bandwidth <= 1:
        parser.error('--bandwidth must be above 0 and at most 1')
    if args.what != ['none'] and (args.num_drawn or args.max_images) > MOST_DRAWN:
        parser.error(f'--max-images above {MOST_DRAWN} needs --num-drawn')
    for value, name in ((args.class_name, 'class'), (args.top_k_class, 'top_k_class')):
        if args.tokens is not None and value is not None:
            parser.error(f'{flag(name)} and --tokens both choose tokens; give one')
    for name in ('disturb_share', 'erase_fill', 'seed'):
        if getattr(args, name) is not None and not args.disturb:
            parser.error(f'{flag(name)} belongs to --disturb, which is not given')
    args.erase_fill = args.erase_fill or 'grey'
    args.seed = args.seed or 0


def check_for_host(args: argparse.Namespace, host: Host, cfg: Config) -> None:
    """Refuse what the models of a library cannot do."""
    if host.task is None:
        fail(
            f'{args.config} has default_scope={cfg.get("default_scope")!r}; this tool '
            f'draws the models of {" and ".join(LIBRARIES)}'
        )
    kind, other = (
        ('videos', 'pictures') if host.takes_videos else ('pictures', 'videos')
    )
    for key in host.reading_keys:
        if cfg.get(key) is None:
            fail(f'{args.config} has no {key}, which {host.scope} needs to read {kind}')
    what = None if args.what == ['none'] else args.what
    given = dict(view=args.view, num_frames=args.num_frames)
    if host.takes_videos:
        given = dict(what=what, disturb=args.disturb)
    for name, value in given.items():
        if value is not None:
            fail(f'{flag(name)} is for {other}, and this model takes {kind}')
    if not host.takes_videos and args.class_name and args.top_k_class is None:
        fail('--class is the class of --top-k-class, which is not given')
    if args.what is None:
        args.what = host.default_figures


def read_sources(paths: Sequence[Path], cfg: Config, host: Host, args) -> list:
    """Pictures, disturbed if wanted, or clips."""
    if host.takes_videos:
        return [host.read_clip(path, cfg, args.view or 0) for path in paths]
    pictures = [Picture(path, read_picture(path)) for path in paths]
    if args.disturb is None:
        return pictures
    how = args.disturb, args.disturb_share, args.seed, args.erase_fill
    return [x._replace(disturbed=disturb.disturb(x.original, *how)) for x in pictures]


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    for path in map(Path, args.images):
        if not path.exists():
            fail(f'there is no file or folder {path} (seen from {Path.cwd()})')
    if args.what != ['none']:
        check_folder(args.out)
    if args.json:
        check_writable(args.json, *args.images)
    cfg = load_config(args.config, args.cfg_options)
    host = host_of(cfg)
    check_for_host(args, host, cfg)
    try:
        find = host.find_videos if host.takes_videos else find_pictures
        paths = find(args.images)
        if args.shuffle:
            paths = sorted(paths)
            paths = [paths[i] for i in DefaultSampler(paths, shuffle=True, seed=0)]
        if len(paths) > args.max_images:
            print(f'taking {args.max_images} of {len(paths)} (--max-images)')
        paths = paths[: args.max_images]
        sources = read_sources(paths, cfg, host, args)
    except ValueError as error:
        fail(str(error))
    model = load_model(cfg, args.checkpoint, args.device, host.check_model)
    truth = Truth(cfg, args.truth)
    if truth.missing:
        print(f'no truth: {truth.missing}')
    else:
        known = sum(truth.info(path) is not None for path in paths)
        print(f"{known} of these {len(paths)} are in the config's test data")
    keys = 'stages tokens top_k_class class_name score_thr num_frames'
    choice = Choice(**{key: getattr(args, key) for key in keys.split()})
    numbers = []

    def looks() -> Iterator[Look]:
        for path, source in zip(paths, sources):
            look = look_at(model, host, source, truth, choice)
            if args.json:
                one = look_numbers(look, args.bandwidth)
                numbers.append(dict(file=str(path), **one))
            yield look

    every = looks()
    if args.what != ['none']:
        title = f'Where {Path(args.config).stem} looks'
        title += f' ({args.disturb})' if args.disturb else ''
        kinds = [kind for kind in KINDS if kind in args.what]
        drawn = islice(every, args.num_drawn)
        draw_looks(drawn, args.out, kinds, args.bandwidth, title)
    if args.json:
        deque(every, maxlen=0)  # the rest are measured alone
        keys = 'config checkpoint disturb disturb_share erase_fill seed bandwidth'
        settings = {key: getattr(args, key) for key in keys.split()}
        settings['grid'] = list(GRID)
        print(table(write_numbers(args.json, settings, numbers), len(numbers)))
        print(f'numbers: {args.json}')


if __name__ == '__main__':
    main()
