"""Padded batches: telling the backbone which part of the input is the image."""

from contextlib import contextmanager
from typing import List, Optional, Tuple

from .sparseformer import SparseFormer


def valid_shapes_of(data_samples) -> Optional[List[Tuple[int, int]]]:
    """(height, width) of each image inside a padded batch, from its data samples.

    Args:
        data_samples: of mmdet or mmseg, or None.

    Returns:
        list, or None if a sample does not know its ``img_shape``.
    """
    shapes = [sample.metainfo.get('img_shape') for sample in data_samples or ()]
    if not shapes or any(shape is None for shape in shapes):
        return None
    return [tuple(shape[:2]) for shape in shapes]


class PaddingAware:
    """Mix-in in front of a detector or segmentor: padding does not exist for it.

    The libraries' data preprocessors pad the images of a batch to a common size on
    the right and below, and the models give their backbone nothing but the padded
    tensor. This passes the images' own sizes (``img_shape`` of the data samples) on to
    :meth:`.SparseFormer.forward`. (A ``Pad`` step of a pipeline overwrites
    ``img_shape``: what it adds counts as image.)

    Parts of the batch that a model cuts out by itself (sliding windows) are taken as
    images of their own.
    """

    _known = (None, None)

    @contextmanager
    def _knowing(self, inputs, data_samples):
        self._known = inputs, valid_shapes_of(data_samples)
        try:
            yield
        finally:
            self._known = None, None

    def loss(self, inputs, data_samples, *args, **kwargs):
        """Same as the library's."""
        with self._knowing(inputs, data_samples):
            return super().loss(inputs, data_samples, *args, **kwargs)

    def predict(self, inputs, data_samples=None, *args, **kwargs):
        """Same as the library's."""
        with self._knowing(inputs, data_samples):
            return super().predict(inputs, data_samples, *args, **kwargs)

    def _forward(self, inputs, data_samples=None):
        with self._knowing(inputs, data_samples):
            return super()._forward(inputs, data_samples)

    def extract_feat(self, inputs):
        """Run the backbone (and neck) on the images without their padding."""
        batch, shapes = self._known
        shapes = shapes if inputs is batch else None
        outputs = self.backbone(inputs, valid_shapes=shapes)
        return self.neck(outputs) if self.with_neck else outputs


def check_backbone(backbone, host: str, host_library: str):
    """Raise unless a model's backbone is a SparseFormer that gives its tokens.

    Args:
        backbone: the module.
        host: name of the model, for the message.
        host_library: where other backbones find a model.

    Raises:
        ValueError: naming the cause and the cure.
    """
    if not isinstance(backbone, SparseFormer):
        raise ValueError(
            f'{host} needs a sparseformer_mm.SparseFormer backbone, got '
            f'{type(backbone).__name__}; other backbones go with the models of '
            f'{host_library}'
        )
    if backbone.out_type != 'tokens':
        raise ValueError(
            f'the backbone has out_type={backbone.out_type!r}; {host} needs '
            "out_type='tokens'"
        )
