"""Draw what a model finds and where it looks.

Writes one PNG per picture, NAME_focus.png, and ``sheet.png`` with all of them.
Classification: what the network sees of the picture, then for each sampling stage the
RoIs and sampling points of the tokens, one colour a token. Detection: the boxes found,
then for each sampling stage the RoIs and sampling points of the tokens that detect,
each in the colour of its box; other tokens' RoIs are grey, true boxes dashed.
Segmentation: picture, truth, prediction, and the RoIs of all tokens at the last stage.
Truth is shown for pictures of the config's test data.

Figures of the paper, for pictures: ``--what points rois density`` adds one file of each
kind (figures 3 to 5), ``--top-k-class 5`` draws the tokens that answer most to a class
(figure 6), ``--disturb`` erases or pads before the model looks (figure 7). They come
with ``index.html``: a page to step through the stages and switch tokens on and off,
which needs no network. ``--json FILE`` writes numbers.

Videos (files, or folders of numbered frames): frames of a clip, one row per sampling
stage, with the tubes that are there at each frame's time and the sampling points
which are nearer to it in time than half the spacing of the drawn frames. The tokens
that answer to the predicted class the most have a colour each, the same everywhere.
``sheet.png`` holds the last stage of each video; the page shows no videos.

Example:
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg folder \
        --out pictures
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg \
        --what rois --top-k-class 5 --class 'golden retriever'
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT folder --max-images 200 \
        --what none --disturb zero-pad --json numbers.json
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT clip.mp4 --out pictures
"""

import argparse
from itertools import chain, zip_longest
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np

from sparseformer_mm.host import host_of
from sparseformer_mm.utils.checkpoints import load_model
from sparseformer_mm.utils.configs import load_config
from sparseformer_mm.utils.errors import fail
from sparseformer_mm.utils.outputs import check_folder, check_writable
from sparseformer_mm.visualization import options
from sparseformer_mm.visualization.classification import classification_row
from sparseformer_mm.visualization.density import GRID
from sparseformer_mm.visualization.figures import (
    KINDS,
    kind_panels,
    picture_numbers,
    table,
    write_numbers,
)
from sparseformer_mm.visualization.page import write_page
from sparseformer_mm.visualization.panels import Row, draw_panels
from sparseformer_mm.visualization.pictures import detection_row, segmentation_row
from sparseformer_mm.visualization.recording import Look
from sparseformer_mm.visualization.sources import make_source
from sparseformer_mm.visualization.truths import Truths
from sparseformer_mm.visualization.video_strips import video_row
from sparseformer_mm.visualization.videos import (
    VIDEO_SUFFIXES,
    VideoTruths,
    find_videos,
    read_clip,
)

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# A page with more would take long to open.
PAGE_PICTURES = 24

# default_scope -> what makes a row
ROWS = dict(
    mmpretrain=classification_row,
    mmdet=detection_row,
    mmseg=segmentation_row,
    mmaction=video_row,
)


def check_paths(names: Sequence[str]) -> None:
    """Complain about what is not there before anything is loaded."""
    for path in map(Path, names):
        if not path.exists():
            kind = 'video' if path.suffix.lower() in VIDEO_SUFFIXES else 'picture'
            fail(f'there is no {kind} or folder {path} (seen from {Path.cwd()})')


def _pictures_in(folder: Path) -> List[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def find_images(names: Sequence[str]) -> List[Path]:
    """Files as they are, and the pictures of folders in the order of their names.

    Of a folder which holds only folders, the first picture of each, the second of
    each and so on: classes take turns.
    """
    found: List[Path] = []
    for path in map(Path, names):
        if not path.is_dir():
            found.append(path)
            continue
        inside = _pictures_in(path)
        if not inside:
            folders = sorted(p for p in path.iterdir() if p.is_dir())
            turns = zip_longest(*map(_pictures_in, folders))
            inside = [p for p in chain.from_iterable(turns) if p is not None]
        if not inside:
            fail(f'folder {path} has no picture ({", ".join(SUFFIXES)})')
        found += inside
    return found


def read_image(path: Path) -> np.ndarray:
    """Read RGB (H, W, 3) uint8, turned as the libraries turn it."""
    import mmcv  # not there in every environment that asks for --help

    image = mmcv.imread(str(path))
    if image is None:
        fail(f'{path} is no image that can be decoded: replace or leave it out')
    return mmcv.bgr2rgb(image)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    return options.parse_args(__doc__.split('\n\n')[0], argv)


VIDEO_DEFAULTS = dict(view=0, num_frames=6, top_tokens=4)


def wanted_kinds(scope: str, args: argparse.Namespace) -> List[str]:
    """The figures to write beside NAME_focus.png."""
    if scope == 'mmaction':
        for value, flag in (
            (args.what not in (None, ['none']), '--what'),
            (args.disturb, '--disturb'),
            (args.top_k_class, '--top-k-class'),
        ):
            if value:
                fail(
                    f'{flag} is for pictures; videos are drawn as a strip of frames, '
                    'with --top-tokens or --tokens in colour'
                )
        for name, default in VIDEO_DEFAULTS.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
        return []
    for name in VIDEO_DEFAULTS:
        if getattr(args, name) is not None:
            fail(f'--{name.replace("_", "-")} is for videos, not for pictures')
    if args.class_name is not None and args.top_k_class is None:
        fail('--class is the class of --top-k-class, which is not given')
    if args.what is None:
        return list(KINDS) if scope == 'mmpretrain' else []
    return [kind for kind in KINDS if kind in args.what]


def save_figures(
    name: str, row: Row, look: Look, kinds: Sequence[str], args: argparse.Namespace
) -> None:
    """Write the files of one picture or video; ``name`` is without _focus.png."""
    own = row.more or [('', row.panels)]
    title = row.title
    figure = draw_panels(
        [panels for _, panels in own],
        [part or look.name for part, _ in own],
        # Below the last of them.
        [*[[]] * (len(own) - 1), row.legend],
        title,
    )
    figure.savefig(args.out / f'{name.format("focus")}.png')
    print(f'{args.out / name.format("focus")}.png: {row.summary}')
    for kind in kinds:
        title = look.title
        if look.answer and kind != 'density':
            title = f'tokens that answer most to {look.answer}; {title}'
        panels = kind_panels(look, kind, args.bandwidth)
        figure = draw_panels([panels], [look.name], title=title)
        figure.savefig(args.out / f'{name.format(kind)}.png')


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    check_paths(args.images)
    draws = args.what != ['none']
    if draws:
        check_folder(args.out)
    if args.json:
        check_writable(args.json, *args.images)
    cfg = load_config(args.config)
    scope = cfg.get('default_scope')
    if scope not in ROWS:
        fail(
            f'{args.config} has default_scope={scope!r}; this tool draws the models '
            f'of {" and ".join(ROWS)}'
        )
    moving = scope == 'mmaction'
    kinds = wanted_kinds(scope, args)
    files = 'videos' if moving else 'pictures'
    for key in ('model', 'test_dataloader', 'test_pipeline'):
        # The others take the pipeline of the data set.
        own = key != 'test_pipeline' or scope in ('mmseg', 'mmaction')
        if own and cfg.get(key) is None:
            fail(f'{args.config} has no {key}, which {scope} needs to read {files}')
    paths = (find_videos if moving else find_images)(args.images)
    if len(paths) > args.max_images:
        print(f'taking {args.max_images} of {len(paths)} {files} (--max-images)')
    paths = paths[: args.max_images]
    sources = [
        read_clip(path, cfg, args.view)
        if moving
        else make_source(path, read_image(path), args)
        for path in paths
    ]
    check = host_of(cfg).check_model
    model = load_model(cfg, args.checkpoint, args.device, check)
    truths = (VideoTruths if moving else Truths)(cfg, args.truth == 'auto')
    if truths.missing:
        print(f'no truth: {truths.missing}')
    else:
        known = sum(truths.info(path) is not None for path in paths)
        print(f"{known} of these {len(paths)} {files} are in the config's test data")
    rows: List[Row] = []
    looks: List[Look] = []
    numbers = []
    for i, (path, source) in enumerate(zip(paths, sources)):
        if moving:
            row, found = video_row(model, path, source, truths, args)
            look = Look(path.name, None, [])
        else:
            row, look = ROWS[scope](model, source, truths, args)
            found = args.json and picture_numbers(look, path, args.bandwidth)
        numbers.append(found)
        if draws:
            rows.append(row)
            looks.append(look)
            # Pictures of several folders may have the same name.
            again = sum(other.stem == path.stem for other in paths[:i])
            stem = path.stem.replace('{', '{{').replace('}', '}}')
            name = f'{stem}_{{}}{again + 1 if again else ""}'
            save_figures(name, row, look, kinds, args)
    if draws:
        sheet = args.out / 'sheet.png'
        draw_panels(
            [row.panels for row in rows],
            [row.title or path.name for row, path in zip(rows, paths)],
            [row.legend for row in rows],
        ).savefig(sheet)
        print(f'all: {sheet}')
    if kinds:
        page = args.out / 'index.html'
        title = f'Where {Path(args.config).stem} looks'
        if args.disturb:
            title += f' ({args.disturb})'
        write_page(
            page,
            looks[:PAGE_PICTURES],
            title=title,
            # The map hides much of the picture: a person switches it on.
            shown=[kind for kind in kinds if kind != 'density'] or kinds,
            bandwidth=args.bandwidth,
        )
        more = f', the first {PAGE_PICTURES}' if len(looks) > PAGE_PICTURES else ''
        print(f'page to step through: {page}{more}')
    if args.json:
        settings = dict(
            config=args.config,
            checkpoint=args.checkpoint,
            disturb=args.disturb,
            disturb_share=args.disturb_share,
            erase_fill=args.erase_fill,
            seed=args.seed,
            bandwidth=args.bandwidth,
            grid=list(GRID),
        )
        print(table(write_numbers(args.json, settings, numbers), len(numbers)))
        print(f'numbers: {args.json}')


if __name__ == '__main__':
    main()
