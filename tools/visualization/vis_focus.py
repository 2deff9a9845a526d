"""Draw what a detector, segmentor or video recogniser finds, and where it looks.

Writes one PNG per picture and ``sheet.png`` with all of them. Detection: the
boxes found, then for each sampling stage the RoIs and sampling points of the
tokens that detect, each in the colour of its box; other tokens' RoIs are grey,
true boxes dashed. Segmentation: picture, truth, prediction, and the RoIs of all
tokens at the last stage. Truth is shown for pictures of the config's test data.

Videos (files, or folders of numbered frames): frames of a clip, one row per sampling
stage, with the tubes that are there at each frame's time and the sampling points
which are nearer to it in time than half the spacing of the drawn frames. The tokens
that answer to the predicted class the most have a colour each, the same everywhere.
``sheet.png`` holds the last stage of each video.

Example:
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg folder \
        --out pictures
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT clip.mp4 --out pictures
"""

import argparse
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np
from recording import (
    Truths,
    load_model,
    name_of,
    picture_stages,
    record,
    token_detections,
)
from torch import nn
from video_rows import GREY, WHITE, video_row
from videos import VIDEO_SUFFIXES, VideoTruths, find_videos, read_clip

from sparseformer_mm.utils.draw import light_colors, token_colors
from sparseformer_mm.utils.hosts import fail, load_config
from sparseformer_mm.utils.panels import (
    Frames,
    Panel,
    Row,
    corners_of,
    draw_panels,
)

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def check_paths(names: Sequence[str]) -> None:
    """Complain about what is not there before anything is loaded."""
    for path in map(Path, names):
        if not path.exists():
            kind = 'video' if path.suffix.lower() in VIDEO_SUFFIXES else 'picture'
            fail(f'there is no {kind} or folder {path} (seen from {Path.cwd()})')


def find_images(names: Sequence[str]) -> List[Path]:
    """Files as they are, and the pictures of folders in the order of their names."""
    found: List[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                fail(f'folder {path} has no picture ({", ".join(SUFFIXES)})')
            found += inside
        else:
            found.append(path)
    return found


def read_image(path: Path) -> np.ndarray:
    """Read RGB (H, W, 3) uint8, turned as the libraries turn it."""
    import mmcv  # not there in every environment that asks for --help

    image = mmcv.imread(str(path))
    if image is None:
        fail(f'{path} is no image that can be decoded: replace or leave it out')
    return mmcv.bgr2rgb(image)


def detection_row(
    model: nn.Module,
    path: Path,
    image: np.ndarray,
    truths: Truths,
    args: argparse.Namespace,
) -> Row:
    """Boxes, then one panel per sampling stage."""
    from mmdet.apis import inference_detector

    with record(model) as recording:
        sample = inference_detector(model, str(path))
    (outputs,) = recording.head_outputs
    found = token_detections(model.bbox_head, outputs, args.score_thr)
    names = [name_of(truths.classes, label) for label in found.labels]
    texts = [f'{name} {score:.2f}' for name, score in zip(names, found.scores)]
    # By rank, not by token: the first few of these colours differ the most.
    colors = light_colors(len(found.tokens))
    true_boxes = truths.boxes(path, image.shape)
    boxes = [
        Frames(found.boxes, colors, labels=texts),
        Frames(
            true_boxes,
            np.tile(WHITE, (len(true_boxes), 1)),
            width=1,
            dashed=True,
        ),
    ]
    panels = [Panel('detections', image, boxes)]
    for stage in picture_stages(recording.calls, sample.img_shape):
        others = np.setdiff1d(np.arange(len(stage.rois)), found.tokens)
        rois = corners_of(stage.rois)
        frames = [
            Frames(
                rois[others],
                np.tile(GREY, (len(others), 1)),
                width=1,
                alpha=0.5,
                halo=False,
            ),
            Frames(rois[found.tokens], colors),
        ]
        panels.append(
            Panel(
                stage.name,
                image,
                frames,
                points=stage.points[found.tokens],
                point_colors=colors,
            )
        )
    summary = ', '.join(
        f'{text} (token {token})' for text, token in zip(texts, found.tokens)
    )
    return Row(panels, [], summary or f'nothing with a score of {args.score_thr:g}')


def painted(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of classes over an image; labels without one stay bare."""
    result = image.copy()
    known = (labels >= 0) & (labels < len(palette))
    mixed = 0.35 * image[known] + 0.65 * palette[labels[known]]
    result[known] = mixed.round().astype(np.uint8)
    return result


def segmentation_row(
    model: nn.Module,
    path: Path,
    image: np.ndarray,
    truths: Truths,
    args: argparse.Namespace,
) -> Row:
    """Picture, truth if known, prediction, RoIs of the last sampling stage."""
    from mmseg.apis import inference_model

    with record(model) as recording:
        sample = inference_model(model, str(path))
    prediction = sample.pred_sem_seg.data[0].cpu().numpy()
    palette = np.array(truths.palette or [], dtype=np.uint8).reshape(-1, 3)
    if not len(palette):
        palette = (token_colors(model.decode_head.num_classes) * 255).astype(np.uint8)
    masks = dict(truth=truths.mask(path), prediction=prediction)
    masks = {title: mask for title, mask in masks.items() if mask is not None}
    panels = [Panel('image', image)]
    panels += [
        Panel(title, painted(image, mask, palette)) for title, mask in masks.items()
    ]
    stage = picture_stages(recording.calls, sample.img_shape)[-1]
    frames = Frames(
        corners_of(stage.rois), light_colors(len(stage.rois)), width=1, halo=False
    )
    panels.append(Panel(f'token RoIs ({stage.name})', image, [frames]))
    shown = np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))
    shown = shown[shown < len(palette)]
    legend = [(name_of(truths.classes, i), palette[i] / 255) for i in shown]
    largest = np.bincount(prediction.ravel()).argsort()[::-1]
    shares = [(i, (prediction == i).mean()) for i in largest[:5]]
    summary = ', '.join(
        f'{name_of(truths.classes, i)} {share:.0%}' for i, share in shares if share
    )
    return Row(panels, legend, summary)


# default_scope -> what makes a row
ROWS = dict(mmdet=detection_row, mmseg=segmentation_row, mmaction=video_row)


def indices(text: str) -> List[int]:
    """'3,17' -> [3, 17]."""
    return [int(part) for part in text.split(',')]


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config of a trained model')
    parser.add_argument('checkpoint', help='its weights, file or URL')
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE|VIDEO|FOLDER',
        help='pictures or videos, or folders of them; a folder of pictures is one '
        "video's frames for a video model",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('vis_focus'),
        help='folder for the PNG files (default: %(default)s)',
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=4,
        help='draw the first so many pictures or videos (default: %(default)s)',
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
        help="auto: for pictures and videos of the config's test data (default)",
    )
    parser.add_argument('--device', default='cpu')
    video = parser.add_argument_group('videos')
    video.add_argument(
        '--view',
        type=int,
        default=0,
        help='which of the clips and crops that the test pipeline makes, clips of the '
        'first crop first (default: %(default)s)',
    )
    video.add_argument(
        '--num-frames',
        type=int,
        default=6,
        help='draw so many frames of the clip (default: %(default)s)',
    )
    video.add_argument(
        '--tokens',
        type=indices,
        metavar='I,J,...',
        help='tokens to draw in colour, instead of --top-tokens',
    )
    video.add_argument(
        '--top-tokens',
        type=int,
        default=4,
        help='of each of the token_inflation copies in time, draw so many tokens in '
        'colour: those that answer to the predicted class the most (default: '
        '%(default)s)',
    )
    args = parser.parse_args(argv)
    if not 1 <= args.max_images <= 100:  # a file has 65535 rows of pixels at most
        parser.error('--max-images must be between 1 and 100')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr must be between 0 and 1')
    for name, least, most in (
        ('view', 0, 10**6),
        ('num_frames', 1, 64),
        ('top_tokens', 0, 10**6),
    ):
        if not least <= getattr(args, name) <= most:
            flag = name.replace('_', '-')
            parser.error(f'--{flag} must be between {least} and {most}')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    check_paths(args.images)
    cfg = load_config(args.config)
    scope = cfg.get('default_scope')
    if scope not in ROWS:
        fail(
            f'{args.config} has default_scope={scope!r}; this tool draws the models '
            f'of {" and ".join(ROWS)}'
        )
    moving = scope == 'mmaction'
    files = 'videos' if moving else 'pictures'
    for key in ('model', 'test_dataloader', 'test_pipeline'):
        # mmdet takes the pipeline of the data set.
        if cfg.get(key) is None and (scope, key) != ('mmdet', 'test_pipeline'):
            fail(f'{args.config} has no {key}, which {scope} needs to read {files}')
    paths = (find_videos if moving else find_images)(args.images)
    if len(paths) > args.max_images:
        print(f'drawing {args.max_images} of {len(paths)} {files} (--max-images)')
    paths = paths[: args.max_images]
    sources = [
        read_clip(path, cfg, args.view) if moving else read_image(path)
        for path in paths
    ]
    model = load_model(cfg, args.checkpoint, args.device)
    truths = (VideoTruths if moving else Truths)(cfg, args.truth == 'auto')
    if truths.missing:
        print(f'no truth: {truths.missing}')
    else:
        known = sum(truths.info(path) is not None for path in paths)
        print(f"{known} of these {len(paths)} {files} are in the config's test data")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (path, source) in enumerate(zip(paths, sources)):
        row = ROWS[scope](model, path, source, truths, args)
        rows.append(row)
        # Pictures of several folders may have the same name.
        again = sum(other.stem == path.stem for other in paths[:i])
        name = f'{path.stem}_focus{again + 1 if again else ""}.png'
        own = row.more or [(path.name, row.panels)]
        figure = draw_panels(
            [panels for _, panels in own],
            [title for title, _ in own],
            # Below the last of them.
            [*[[]] * (len(own) - 1), row.legend],
            row.title,
        )
        figure.savefig(args.out / name)
        print(f'{args.out / name}: {row.summary}')
    sheet = args.out / 'sheet.png'
    draw_panels(
        [row.panels for row in rows],
        [row.title or path.name for row, path in zip(rows, paths)],
        [row.legend for row in rows],
    ).savefig(sheet)
    print(f'all: {sheet}')


if __name__ == '__main__':
    main()
