"""Whether an ONNX file answers as the model it was made from."""

import copy
from typing import Callable, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .export import Exportable, need

# Relative to the largest value of an output, for values above 1.
TOLERANCE = 1e-4


def random_images(module: Exportable, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Smooth random pictures or clips as the module takes them.

    In white noise a point a hair's breadth away reads another value, which no picture
    is like: rounding errors would show a thousandfold.

    Args:
        module: the model.
        shape: (B, C, [T,] H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = [max(2, side // 16) for side in shape[-2:]]
    frames = shape[2] if len(shape) == 5 else 1
    noise = torch.rand(shape[0] * frames, shape[1], *coarse, generator=generator) * 255
    pixels = F.interpolate(noise, shape[-2:], mode='bicubic').clamp(0, 255)
    if len(shape) == 5:
        pixels = pixels.unflatten(0, (shape[0], frames)).transpose(1, 2)
    pixels = pixels.reshape(tuple(shape))
    return pixels if module.preprocess else module.normalisation.apply(pixels)


class Difference(NamedTuple):
    """How far two answers are apart.

    Attributes:
        name: of the output.
        shape: of the input.
        largest: absolute difference.
        scale: largest absolute value in torch's answer.
    """

    name: str
    shape: Tuple[int, ...]
    largest: float
    scale: float

    @property
    def share(self) -> float:
        """The difference, relative to the scale where that is above 1."""
        return self.largest / max(1.0, self.scale)

    @property
    def is_fine(self) -> bool:
        return self.share <= TOLERANCE


# From a batch of images to the arrays of Exportable.output_names.
Runner = Callable[[Tensor], List[np.ndarray]]


def onnx_runner(module: Exportable, onnx_model: bytes, threads: int = 0) -> Runner:
    """An ONNX file in onnxruntime on CPU; 0 threads are as many as it likes."""
    ort = need('onnxruntime')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = ['CPUExecutionProvider']
    session = ort.InferenceSession(onnx_model, options, providers=providers)
    names = module.output_names
    return lambda images: session.run(names, {'input': images.numpy()})


def float64_runner(module: Exportable) -> Runner:
    """The model itself in double precision: what rounding alone does to it."""
    double = copy.deepcopy(module).double()
    return lambda images: [x.numpy() for x in double(images.double())]


@torch.no_grad()
def compare(
    module: Exportable, run: Runner, shapes: Sequence[Sequence[int]]
) -> List[Difference]:
    """Run a model and another form of it on :func:`random_images`.

    Detections whose scores are nearer to each other than the two answers are may
    change places, or with one that was cut off: their boxes and labels do not count.

    Args:
        module: the model.
        run: the other one.
        shapes: (B, 3, [T,] H, W) each.

    Raises:
        ValueError: if an output has another shape.
    """
    names, differences = module.output_names, []
    for seed, shape in enumerate(shapes):
        images = random_images(module, shape, seed)
        expected, actual = [x.numpy() for x in module(images)], run(images)
        for name, x, y in zip(names, expected, actual):
            if x.shape != y.shape:
                raise ValueError(f'{name} has shape {y.shape}, in torch {x.shape}')
        if 'scores' in names:  # in the order of which detections come
            actual = _settle_ties(expected, actual)
        for name, x, y in zip(names, expected, actual):
            gap = np.abs(x.astype(np.float64) - y).max(initial=0)
            scale = np.abs(x).max(initial=0)
            differences.append(Difference(name, tuple(shape), float(gap), float(scale)))
    return differences


def _settle_ties(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]):
    """Take over boxes and labels where scores do not tell whose place it is."""
    _, scores, _ = expected
    near = 2 * np.abs(scores - actual[1]).max()
    apart = -np.diff(scores, append=-np.inf) > near  # from the next one
    apart[:, -1] = False
    clear = apart.copy()
    clear[:, 1:] &= apart[:, :-1]
    boxes = np.where(clear[..., None], actual[0], expected[0])
    return boxes, actual[1], np.where(clear, actual[2], expected[2])
