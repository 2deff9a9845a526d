"""A few fixed samples of a data set, and where a model looks at them in training."""

import copy
from pathlib import Path
from typing import List, NamedTuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..models import SparseFormer
from ..models.padding import PaddingAware, note_sizes, noted_shapes
from ..utils.modes import evaluating
from .recording import Call, Frame, Look, picture_stages, spread
from .truth import own_boxes, path_of, read_boxes


class Sample(NamedTuple):
    """One picture or clip.

    Attributes:
        name: of its file.
        batch: that holds it alone, as the data loader would give it.
        image: (H, W, 3) RGB uint8; of a clip, its middle frame.
        boxes: (n, 4) true boxes in pixels of the network's input.
    """

    name: str
    batch: dict
    image: np.ndarray
    boxes: np.ndarray


def load_samples(
    loader, count: int, boxes: Union[str, Path, bool, None]
) -> List[Sample]:
    """Load samples, evenly spread over a data set: the same ones every time.

    Args:
        loader: whose ``dataset`` and ``collate_fn`` are used; the data set packs
            dictionaries with one tensor as ``inputs``.
        count: at most so many.
        boxes: a boxes file, None for the data set's own boxes, False for none.

    Raises:
        ValueError: for other data sets, or boxes that do not fit.
    """
    dataset, total = loader.dataset, len(loader.dataset)
    if not total:
        raise ValueError(
            'FocusHook takes its samples from the validation set: it is empty'
        )
    is_file = boxes is not None and boxes is not False
    known = read_boxes(boxes) if is_file else {}
    samples, paths = [], []
    for index in spread(total, count).tolist():
        packed = dataset[index]
        inputs = packed.get('inputs') if isinstance(packed, dict) else None
        if not torch.is_tensor(inputs):
            raise ValueError(
                'FocusHook needs a validation set that gives a dictionary with a '
                f'tensor as inputs, and {type(dataset).__name__} does not: end its '
                'pipeline with PackInputs (or PackDetInputs, ...)'
            )
        get_info = getattr(dataset, 'get_data_info', lambda index: {})
        info = get_info(index)
        path = path_of(info) or Path(f'sample {index}')
        paths.append(path.resolve())
        true = known.get(paths[-1]) if is_file else None
        if boxes is None:
            true = own_boxes(info)
        if true is None:
            true = np.zeros((0, 4))
        elif inputs.dim() != 3:
            raise ValueError(
                'FocusHook knows no boxes that move with time: leave out boxes '
                '(tools/visualization/vis_focus.py measures videos with theirs)'
            )
        else:
            true = true * _scale(packed.get('data_samples'), path)
        batch = loader.collate_fn([packed])
        samples.append(Sample(path.name, batch, _picture(inputs), true))
    if is_file and not any(path in known for path in paths):
        raise ValueError(
            f'boxes={str(boxes)!r} has none of the samples, for instance {paths[-1]}; '
            'does it belong to the validation set?'
        )
    return samples


def backbone_of(model: nn.Module) -> SparseFormer:
    """The SparseFormer in a model; a ValueError names the cure if there is none."""
    for module in model.modules():
        if isinstance(module, SparseFormer):
            return module
    backbone = getattr(model, 'backbone', model)
    raise ValueError(
        'FocusHook found no SparseFormer in the model, whose backbone is a '
        f'{type(backbone).__name__} and has no tokens to show: remove the hook, or '
        "give backbone=dict(type='sparseformer_mm.SparseFormer', ...)"
    )


def _picture(inputs: Tensor) -> np.ndarray:
    """A packed sample as (H, W, 3) RGB uint8; of a clip, the middle frame."""
    if inputs.dim() == 5:  # mmaction2: views, channels, frames
        inputs = inputs[0, :, inputs.shape[2] // 2]
    elif inputs.dim() == 4:  # mmaction2: frames, channels
        inputs = inputs[len(inputs) // 2]
    elif len(inputs) == 3:  # OpenMMLab loads pictures as BGR, but videos as RGB
        inputs = inputs.flip(0)
    pixels = inputs if len(inputs) == 3 else inputs[:1].expand(3, -1, -1)
    if pixels.dtype != torch.uint8:  # the pipeline has normalised them
        least, most = pixels.min(), pixels.max()
        pixels = (pixels - least) / (most - least).clamp(min=1e-6) * 255
    return pixels.permute(1, 2, 0).round().byte().cpu().numpy()


def _scale(sample, path: Path) -> np.ndarray:
    """What turns pixels of the file, x1, y1, x2, y2, into those of the input."""
    meta = getattr(sample, 'metainfo', {})
    if 'ori_shape' not in meta or 'img_shape' not in meta:
        return np.ones(4)
    shape, before = (np.array(meta[k][1::-1]) for k in ('img_shape', 'ori_shape'))
    scale = np.broadcast_to(meta.get('scale_factor', 1.0), 2)  # set by what resizes
    if meta.get('flip') or (shape < 0.98 * before * scale).any():
        raise ValueError(
            f'the validation pipeline crops or flips {path}, so that its boxes do not '
            'fit any more: give FocusHook boxes=False, or use a pipeline which only '
            'resizes'
        )
    return np.tile(scale, 2)


@torch.no_grad()
def look_at_sample(model: nn.Module, sample: Sample) -> Look:
    """Run a model's backbone on one sample, in evaluation mode."""
    # Preprocessors change what they get.
    data = model.data_preprocessor(copy.deepcopy(sample.batch), False)
    backbone, inputs = backbone_of(model), data['inputs']
    if inputs.dim() == 6:  # mmaction2: views first
        inputs = inputs[:, 0]
    elif inputs.dim() == 5 and backbone.spatial_dims == 2:  # frames first
        inputs = inputs[:, inputs.shape[1] // 2]
    if isinstance(model, PaddingAware):
        note_sizes(inputs, data.get('data_samples'))
    shapes = noted_shapes(inputs)
    with evaluating(backbone):
        outputs = backbone.forward_intermediates(inputs, shapes)
    shape = height, width = shapes[0] if shapes else inputs.shape[-2:]
    image = np.zeros((height, width, 3), np.uint8)  # padding, if any, is black
    shown = sample.image[:height, :width]
    image[: shown.shape[0], : shown.shape[1]] = shown
    boxes = sample.boxes / [width, height, width, height]
    time = None
    if backbone.spatial_dims == 3:
        frames = inputs.shape[2]
        time = (frames // 2 + 0.5) / frames
    stages = picture_stages([Call((0, 0), (width, height), outputs)], shape)
    frame = Frame(sample.name, image, boxes, time)
    return Look(sample.name, [frame], stages, boxes=boxes)
