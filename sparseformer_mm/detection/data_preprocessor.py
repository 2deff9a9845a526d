"""mmdet's data preprocessor, for a SparseFormer that sees no padding."""

from mmdet.models import data_preprocessors as mmdet

from ..models.padding import NotesSizes


class DetDataPreprocessor(NotesSizes, mmdet.DetDataPreprocessor):
    """mmdet's, which also tells a SparseFormer how much of the batch is image.

    In any config of mmdet, with any model; all arguments stay mmdet's::

        model = dict(
            data_preprocessor=dict(type='sparseformer_mm.detection.DetDataPreprocessor')
        )
    """
