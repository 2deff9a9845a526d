"""Measure where a trained SparseFormer looks, stage by stage.

For every picture of a config's validation set whose object has a known box,
counts the sampling points inside the box at each sampling stage. The boxes
serve this measurement only; the classifier never sees them.

Example:
    python tools/analysis_tools/focus_gain.py CONFIG CHECKPOINT --out pictures
"""

import argparse
import json
import math
from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor, nn

from sparseformer_mm.utils.checkpoints import check_checkpoint
from sparseformer_mm.utils.configs import CfgOptions, load_config
from sparseformer_mm.utils.errors import explain_errors, fail
from sparseformer_mm.utils.outputs import check_folder, check_writable
from sparseformer_mm.visualization.draw import draw_stages
from sparseformer_mm.visualization.statistics import FocusGain, focus_gain, focus_share


class Looked(NamedTuple):
    """One batch and where the model looked.

    Attributes:
        images (list[np.ndarray]): B pictures, (H, W, 3) RGB uint8.
        boxes (Tensor): Corners relative to the image, (B, 4).
        labels (list[str]): The true class of each picture.
        stages (list[StageRecord]): RoIs and points of each stage.
    """

    images: List[np.ndarray]
    boxes: Tensor
    labels: List[str]
    stages: list


def default_boxes_file(cfg: Config) -> Path:
    """Return ``<data_root>/<split>_boxes.json`` of the validation set."""
    dataset = cfg.val_dataloader.dataset
    split = dataset.get('data_prefix') or 'val'
    split = split if isinstance(split, str) else next(iter(split.values()))
    name = f'{Path(split).name}_boxes.json'
    return Path(dataset.get('data_root') or '.') / name


def read_boxes(path: Path) -> Dict[Path, List[float]]:
    """Read a boxes file of ``make_digits.py``.

    Returns:
        dict[Path, list]: Absolute picture path -> ``[x1, y1, x2, y2, label]``
        in pixels; pictures with several objects are left out.
    """
    if not path.is_file():
        fail(
            f'there is no boxes file {path}; name one with --boxes. '
            'tools/dataset_converters/make_digits.py writes them'
        )
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        return {
            (path.parent / name).resolve(): boxes[0]
            for name, boxes in content.items()
            if len(boxes) == 1
        }
    except (ValueError, AttributeError, TypeError) as error:
        fail(
            f'{path} is not a boxes file, that is a JSON dictionary of '
            f'picture -> [[x1, y1, x2, y2, label]]: {error}'
        )


def relative_box(sample, box: Sequence[float]) -> List[float]:
    """Scale a box from pixels of the file to 0..1 of the model's input."""
    height, width = sample.ori_shape[:2]
    wanted = sample.get('scale_factor', (1.0, 1.0))
    size = sample.img_shape[1] / width, sample.img_shape[0] / height
    if sample.get('flip', False) or not np.allclose(size, wanted, rtol=0.02):
        fail(
            'the validation pipeline crops, pads or flips '
            f'{sample.img_path}, so that its box does not fit any more; use '
            'a pipeline which only resizes'
        )
    return [box[0] / width, box[1] / height, box[2] / width, box[3] / height]


def rgb_images(inputs: Tensor, preprocessor: nn.Module) -> List[np.ndarray]:
    """Undo the normalisation: (B, 3, H, W) -> B times (H, W, 3) uint8."""
    mean = getattr(preprocessor, 'mean', torch.zeros(1)).to(inputs.device)
    std = getattr(preprocessor, 'std', torch.ones(1)).to(inputs.device)
    pixels = (inputs * std + mean).clamp(0, 255).round().byte()
    # OpenMMLab reads pictures as BGR; a preprocessor may turn them around.
    if not getattr(preprocessor, 'to_rgb', False):
        pixels = pixels.flip(1)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


@torch.no_grad()
def look(
    model: nn.Module,
    loader,
    boxes: Dict[Path, List[float]],
    classes: Optional[Sequence[str]] = None,
) -> Iterator[Looked]:
    """Run a model over a data loader and record its sampling stages.

    Args:
        model (nn.Module): An OpenMMLab model with a SparseFormer backbone.
        loader (DataLoader): Gives ``inputs`` and ``data_samples``.
        boxes (dict): From :func:`read_boxes`; pictures without are skipped.
        classes (Sequence[str], optional): Names for the labels.
    """
    model.eval()
    for batch in loader:
        # Needed before the preprocessor, which may replace the samples.
        kept = [
            i
            for i, sample in enumerate(batch['data_samples'])
            if Path(sample.img_path).resolve() in boxes
        ]
        if not kept:
            continue
        batch = {key: [value[i] for i in kept] for key, value in batch.items()}
        data = model.data_preprocessor(batch, False)
        found = [
            boxes[Path(sample.img_path).resolve()] for sample in data['data_samples']
        ]
        names = [
            str(box[4]) if classes is None else classes[int(box[4])] for box in found
        ]
        relative = [
            relative_box(sample, box)
            for sample, box in zip(data['data_samples'], found)
        ]
        stages = model.backbone.forward_intermediates(data['inputs']).stages
        yield Looked(
            rgb_images(data['inputs'], model.data_preprocessor),
            torch.tensor(relative),
            names,
            stages,
        )


def table(gain: FocusGain, names: Sequence[str], area: float, num_images: int) -> str:
    """Format the result for reading."""
    lines = [
        f'Share of sampling points inside the object, mean over {num_images} images:',
        f'  {"(share of the picture it covers)":34s}{area:7.1%}',
    ]
    lines += [
        f'  {f"stage {i}: {name}":34s}{float(share):7.1%}'
        for i, (name, share) in enumerate(zip(names, gain.shares), 1)
    ]
    lines.append(
        f'First to last stage: {gain.first:.1%} -> {gain.last:.1%} ({gain.ratio:.2f}x)'
    )
    return '\n'.join(lines)


def draw(looked: Looked, path: Path, num_images: int) -> None:
    """Write a picture, images x stages, of the first of a batch."""
    num_images = min(num_images, len(looked.images))
    shares = [focus_share(stage.points, looked.boxes) for stage in looked.stages]
    titles = [
        f'{stage.name}: {float(share[:num_images].mean()):.0%} inside'
        for stage, share in zip(looked.stages, shares)
    ]
    figure = draw_stages(
        looked.images[:num_images],
        looked.stages,
        boxes=looked.boxes[:num_images].tolist(),
        row_titles=looked.labels[:num_images],
        column_titles=titles,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config of a trained SparseFormer')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument(
        '--boxes',
        type=Path,
        help='boxes file; <data_root>/<split>_boxes.json of '
        'the validation set if not given',
    )
    parser.add_argument(
        '--out', type=Path, help='folder for the picture focus_gain.png'
    )
    parser.add_argument(
        '--num',
        type=int,
        default=1000,
        help='measure at most so many images (default 1000)',
    )
    parser.add_argument(
        '--num-drawn', type=int, default=4, help='rows of the picture (default 4)'
    )
    parser.add_argument('--json', type=Path, help='write the numbers there')
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='overrides for the config, key=value',
    )
    args = parser.parse_args()
    if args.num < 1 or args.num_drawn < 1:
        parser.error('--num and --num-drawn must be at least 1')
    return args


def load_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """Build the config's model with the weights of a checkpoint."""
    check_checkpoint(checkpoint)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    with explain_errors():
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    return model.to(device)


def main() -> None:
    args = parse_args()
    if args.out:
        check_folder(args.out)
    if args.json:
        check_writable(args.json)
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    boxes = read_boxes(args.boxes or default_boxes_file(cfg))
    model = load_model(cfg, args.checkpoint, args.device)
    # Class folders are read in order; this takes images from all of them.
    cfg.val_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    loader = Runner.build_dataloader(cfg.val_dataloader, seed=0)
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes')

    shares: List[Tensor] = []
    areas: List[Tensor] = []
    names: List[str] = []
    num_batches = math.ceil(args.num / loader.batch_size)
    for looked in islice(look(model, loader, boxes, classes), num_batches):
        if args.out and not areas:
            draw(looked, args.out / 'focus_gain.png', args.num_drawn)
        names = [stage.name for stage in looked.stages]
        shares.append(
            torch.stack(
                [
                    focus_share(stage.points, looked.boxes).cpu()
                    for stage in looked.stages
                ]
            )
        )
        size = looked.boxes[:, 2:] - looked.boxes[:, :2]
        areas.append(size.prod(dim=1))
    if not areas:
        fail(
            'no validation image has exactly one box in the boxes file; '
            'does it belong to this data set?'
        )
    all_shares = torch.cat(shares, dim=1)[:, : args.num]
    area = float(torch.cat(areas)[: args.num].mean())
    gain = focus_gain(all_shares)
    print(table(gain, names, area, all_shares.shape[1]))
    if args.out:
        print(f'Picture: {args.out / "focus_gain.png"}')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps(
                dict(
                    num_images=all_shares.shape[1],
                    box_area=area,
                    stages={
                        name: float(share) for name, share in zip(names, gain.shares)
                    },
                    first=gain.first,
                    last=gain.last,
                    gain=gain.gain,
                    ratio=gain.ratio,
                ),
                indent=2,
            )
            + '\n'
        )


if __name__ == '__main__':
    main()
