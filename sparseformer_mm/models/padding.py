"""Padded batches: telling the backbone which part of the input is the image."""

from typing import List, Optional, Tuple


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

    Libraries pad the images of a batch to a common size on the right and below, and
    give the backbone nothing but the padded tensor. This passes the images' own sizes
    (``img_shape`` of the data samples) on to :meth:`.SparseFormer.forward`.

    Parts of the batch that a model cuts out by itself (sliding windows) are taken as
    images of their own.
    """

    _known = (None, None)

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """Same as the library's, in any mode."""
        self._known = inputs, valid_shapes_of(data_samples)
        try:
            return super().forward(inputs, data_samples, mode)
        finally:
            self._known = None, None

    def extract_feat(self, inputs):
        """Run the backbone (and neck) on the images without their padding."""
        batch, shapes = self._known
        shapes = shapes if inputs is batch else None
        outputs = self.backbone(inputs, valid_shapes=shapes)
        return self.neck(outputs) if self.with_neck else outputs
