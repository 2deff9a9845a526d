"""A model of any of the four libraries as an ONNX file.

:class:`Exportable` is the model with tensors in and out, :func:`to_onnx` writes it
down; ``check.py`` runs both. ``tools/deployment/export_onnx.py`` is the command.
"""

import inspect
import io
import json
import warnings
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..host import host_of
from ..models import ops
from ..version import __version__

#: GridSample came with opset 16, for volumes with 20.
GRID_SAMPLE_OPSETS = {2: 16, 3: 20}

# The exporter of both supported stacks. It gives LayerNormalization from 17 on.
DEFAULT_OPSET = 17
# It writes fused attention from here on.
LEAST_OPSET = 14


class Exportable(nn.Module):
    """A model with one input tensor and its library's answer as tensors.

    Args:
        model: of mmpretrain, mmdet (with a :class:`SparseFormerHead`), mmseg or
            mmaction2 (``Recognizer3D``).
        scope: 'mmpretrain', 'mmdet', 'mmseg' or 'mmaction'.
        raw: what the head gives: of a detector the class logits and boxes of all
            its tokens, of a segmentor logits at the head's size.
        preprocess: take RGB in 0..255 and normalise it here.

    Shape:
        (B, C, H, W), for videos (B, C, T, H, W), C of the backbone ->

        - classification, video: logits (B, classes).
        - detection: boxes (B, n, 4) as x1, y1, x2, y2 in pixels of the input, scores
          (B, n) from high to low, labels (B, n), with n the head's ``max_per_img``;
          raw: logits (B, N, classes, + 1 with softmax), boxes (B, N, 4) as center and
          size relative to the input.
        - segmentation: logits (B, classes, H, W); raw: (B, classes, H / 4, W / 4).

    The model itself is put into evaluation mode, its parameters without gradients.

    Raises:
        ValueError: for a model that cannot be exported.
    """

    def __init__(
        self, model: nn.Module, scope: str, raw: bool = False, preprocess: bool = False
    ):
        super().__init__()
        self.host = host_of(scope)
        self.host.check_answer(model)
        self.model = model
        self.task = self.host.task
        self.raw = raw
        self.channels = model.backbone.stem.in_channels
        self.normalisation = self.host.read_normalisation(
            model.data_preprocessor, self.channels
        )
        self.preprocess = preprocess
        # Of all of it: the exporter gives every part the mode of the whole.
        self.eval().requires_grad_(False)

    @property
    def rank(self) -> int:
        """Of the input without its batch and channels: 2 for images, 3 for videos."""
        return self.model.backbone.spatial_dims

    @property
    def output_names(self) -> List[str]:
        return list(self.host.answer_axes(self.raw))

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """See the class."""
        if self.preprocess:
            images = self.normalisation.apply(images)
        return self.host.answer(self.model, images, self.raw)


@contextmanager
def _sampling(gather: bool) -> Iterator[None]:
    before, ops.TRACE_GATHER = ops.TRACE_GATHER, gather
    try:
        yield
    finally:
        ops.TRACE_GATHER = before


def to_onnx(
    module: Exportable,
    size: Sequence[int],
    opset: int = DEFAULT_OPSET,
    batch: Optional[int] = None,
    dynamic_size: bool = False,
    sampler: str = 'auto',
    classes: Optional[Sequence[str]] = None,
):
    """Write a model down as ONNX.

    Args:
        module: the model.
        size: H, W or T, H, W of the input.
        opset: of ONNX.
        batch: of the input; None leaves it open.
        dynamic_size: leave height and width open too.
        sampler: 'grid' samples the map by GridSample, which ONNX has for images from
            opset 16 and for videos from 20; 'gather' by gathering rows, which goes
            everywhere; 'auto' is 'grid' for images from opset 16, else 'gather'
            (for videos no slower, and known to more runtimes).
        classes: names for the file's metadata.

    Returns:
        onnx.ModelProto: with ``metadata_props`` that describe input and output.

    Raises:
        ModuleNotFoundError: without onnx.
        ValueError: if the opset lacks an operator, or torch the opset.
    """
    onnx = need('onnx')
    if opset < LEAST_OPSET:
        raise ValueError(f'opset {opset} is too old: give {LEAST_OPSET} or more')
    least = GRID_SAMPLE_OPSETS[module.rank]
    if sampler == 'auto':
        sampler = 'grid' if module.rank == 2 and opset >= least else 'gather'
    if sampler == 'grid' and opset < least:
        raise ValueError(
            f'opset {opset} has no GridSample for {module.rank} dimensions: raise it '
            f"to {least} or use the sampler 'gather'"
        )
    names = module.output_names
    axes = {name: {} for name in ['input', *names]}
    if batch is None:
        axes = {name: {0: 'batch'} for name in axes}
    if dynamic_size:
        axes['input'].update({module.rank: 'height', module.rank + 1: 'width'})
        for name, sides in module.host.answer_axes(module.raw).items():
            axes[name].update(sides)
    kwargs = {}
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        kwargs['dynamo'] = False  # torch before 2.5 has but this exporter
    file = io.BytesIO()
    # Of an open batch an example of two: one would hide what is not expanded.
    example = torch.zeros(batch or 2, module.channels, *size)
    with _sampling(sampler == 'gather'), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of tracing, and of the exporter's age
        try:
            torch.onnx.export(
                module,
                (example,),
                file,
                input_names=['input'],
                output_names=names,
                dynamic_axes=axes,
                opset_version=opset,
                **kwargs,
            )
        except (ValueError, RuntimeError) as error:
            if 'opset' not in str(error):
                raise
            raise ValueError(
                f'torch {torch.__version__} cannot write opset {opset}; take '
                f'{DEFAULT_OPSET}: {str(error).strip().splitlines()[0]}'
            ) from error
    proto = onnx.load_model_from_string(file.getvalue())
    _complete_norms(proto, onnx)
    onnx.helper.set_model_props(
        proto, describe(module, size, batch, dynamic_size, sampler, classes)
    )
    onnx.checker.check_model(proto)
    return proto


def _complete_norms(proto, onnx):
    """Give each LayerNormalization its optional bias.

    Of one without, onnxruntime 1.31 crashes while it optimises.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    constants = {
        node.output[0]: node.attribute[0].t
        for node in proto.graph.node
        if node.op_type == 'Constant' and node.attribute[0].name == 'value'
    }
    for node in proto.graph.node:
        lacks = len(node.input) < 3 or not node.input[2]
        if node.op_type == 'LayerNormalization' and lacks:
            scale = {**constants, **initializers}[node.input[1]]
            zeros = np.zeros_like(onnx.numpy_helper.to_array(scale))
            name = f'{node.output[0]}_no_bias'
            proto.graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
            del node.input[2:]
            node.input.append(name)


def describe(
    module: Exportable,
    size: Sequence[int],
    batch: Optional[int],
    dynamic_size: bool,
    sampler: str,
    classes: Optional[Sequence[str]],
) -> Dict[str, str]:
    """What a program needs to feed the file and read its answer.

    Every value but ``task``, ``channel_order``, ``activation``, ``sampler`` and
    ``version`` is JSON.
    """
    normalisation = module.normalisation
    reading = module.host.reading(module.model, module.raw)
    order = normalisation.channel_order
    if module.preprocess and module.channels == 3:
        order = 'RGB'
    props = dict(
        task=module.task,
        input_size=json.dumps(list(size)),  # (T,) H, W
        dynamic_batch=json.dumps(batch is None),
        dynamic_size=json.dumps(dynamic_size),
        # False: the input is (pixels - mean) / std in channel_order.
        # True: it is RGB in 0..255, and the file does that.
        preprocess_included=json.dumps(module.preprocess),
        mean=json.dumps(normalisation.mean),
        std=json.dumps(normalisation.std),
        channel_order=order,
        sampler=sampler,
        # How classes come from the answer: 'softmax', 'sigmoid', or 'none' where it is
        # probabilities; where several may be there, above which probability.
        activation=reading['activation'],
        threshold=json.dumps(reading.get('threshold')),
        version=f'sparseformer_mm {__version__}',
    )
    if classes:
        props['classes'] = json.dumps(list(classes), ensure_ascii=False)
    return props


def need(name: str):
    """Import onnx or onnxruntime, or say how to get them.

    Raises:
        ModuleNotFoundError: naming the packages.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise ModuleNotFoundError(
            f'{name} cannot be imported ({error}): pip install onnx onnxruntime'
        ) from error
