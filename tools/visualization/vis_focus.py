"""Draw what a detector or segmentor finds and where its tokens look.

Writes one PNG per picture and ``sheet.png`` with all of them. Detection: the
boxes found, then for each sampling stage the RoIs and sampling points of the
tokens that detect, each in the colour of its box; other tokens' RoIs are grey,
true boxes dashed. Segmentation: picture, truth, prediction, and the RoIs of all
tokens at the last stage. Truth is shown for pictures of the config's test data.

Example:
    python tools/visualization/vis_focus.py CONFIG CHECKPOINT photo.jpg folder \
        --out pictures
"""

import argparse
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

import numpy as np
from recording import Truths, load_model, picture_stages, record, token_detections
from torch import nn

from sparseformer_mm.utils.draw import token_colors
from sparseformer_mm.utils.hosts import fail, load_config
from sparseformer_mm.utils.panels import (
    Frames,
    Legend,
    Panel,
    corners_of,
    draw_panels,
)

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
GREY, WHITE = (0.62,) * 3, (1.0,) * 3


class Row(NamedTuple):
    """One picture's part of a sheet.

    Attributes:
        panels: from left to right.
        legend: names and colours below them.
        summary: for the terminal.
    """

    panels: List[Panel]
    legend: Legend
    summary: str


def find_images(names: Sequence[str]) -> List[Path]:
    """Files as they are, and the pictures of folders in the order of their names."""
    found: List[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                fail(f'folder {path} has no picture ({", ".join(SUFFIXES)})')
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            fail(f'there is no picture or folder {path} (seen from {Path.cwd()})')
    return found


def read_image(path: Path) -> np.ndarray:
    """Read RGB (H, W, 3) uint8, turned as the libraries turn it."""
    import mmcv  # not there in every environment that asks for --help

    image = mmcv.imread(str(path))
    if image is None:
        fail(f'{path} is no image that can be decoded: replace or leave it out')
    return mmcv.bgr2rgb(image)


def name_of(classes: Optional[Sequence[str]], label: int) -> str:
    """The name of a class; its number if there is none."""
    return classes[label] if classes and label < len(classes) else str(label)


def light_colors(count: int) -> np.ndarray:
    """Token colours with some white: blue, too, stands out from a dark image."""
    return 0.2 + 0.8 * token_colors(count)


def detection_row(
    model: nn.Module, path: Path, image: np.ndarray, truths: Truths, threshold: float
) -> Row:
    """Boxes, then one panel per sampling stage."""
    from mmdet.apis import inference_detector

    with record(model) as recording:
        sample = inference_detector(model, str(path))
    (outputs,) = recording.head_outputs
    found = token_detections(model.bbox_head, outputs, threshold)
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
    return Row(panels, [], summary or f'nothing with a score of {threshold:g}')


def painted(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of classes over an image; labels without one stay bare."""
    result = image.copy()
    known = (labels >= 0) & (labels < len(palette))
    mixed = 0.35 * image[known] + 0.65 * palette[labels[known]]
    result[known] = mixed.round().astype(np.uint8)
    return result


def segmentation_row(
    model: nn.Module, path: Path, image: np.ndarray, truths: Truths, threshold: float
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
ROWS = dict(mmdet=detection_row, mmseg=segmentation_row)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config of a trained detector or segmentor')
    parser.add_argument('checkpoint', help='its weights, file or URL')
    parser.add_argument(
        'images', nargs='+', metavar='IMAGE|FOLDER', help='pictures, or folders of them'
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
        help='draw the first so many pictures (default: %(default)s)',
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
        help="auto: for pictures of the config's test data (default)",
    )
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args(argv)
    if not 1 <= args.max_images <= 100:  # a file has 65535 rows of pixels at most
        parser.error('--max-images must be between 1 and 100')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr must be between 0 and 1')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    paths = find_images(args.images)
    cfg = load_config(args.config)
    scope = cfg.get('default_scope')
    if scope not in ROWS:
        fail(
            f'{args.config} has default_scope={scope!r}; this tool draws the models '
            f'of {" and ".join(ROWS)}'
        )
    for key in ('model', 'test_dataloader', 'test_pipeline'):
        # mmdet takes the pipeline of the data set.
        if cfg.get(key) is None and (scope, key) != ('mmdet', 'test_pipeline'):
            fail(f'{args.config} has no {key}, which {scope} needs to read a picture')
    if len(paths) > args.max_images:
        print(f'drawing {args.max_images} of {len(paths)} pictures (--max-images)')
    paths = paths[: args.max_images]
    images = [read_image(path) for path in paths]
    model = load_model(cfg, args.checkpoint, args.device)
    truths = Truths(cfg, args.truth == 'auto')
    if truths.missing:
        print(f'no truth: {truths.missing}')
    else:
        known = sum(truths.info(path) is not None for path in paths)
        print(f"{known} of these {len(paths)} pictures are in the config's test data")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (path, image) in enumerate(zip(paths, images)):
        row = ROWS[scope](model, path, image, truths, args.score_thr)
        rows.append(row)
        # Pictures of several folders may have the same name.
        again = sum(other.stem == path.stem for other in paths[:i])
        name = f'{path.stem}_focus{again + 1 if again else ""}.png'
        draw_panels([row.panels], [path.name], [row.legend]).savefig(args.out / name)
        print(f'{args.out / name}: {row.summary}')
    sheet = args.out / 'sheet.png'
    draw_panels(
        [row.panels for row in rows],
        [path.name for path in paths],
        [row.legend for row in rows],
    ).savefig(sheet)
    print(f'all: {sheet}')


if __name__ == '__main__':
    main()
