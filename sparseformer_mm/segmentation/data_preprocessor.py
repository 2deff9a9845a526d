"""mmseg's data preprocessor, for a SparseFormer that sees no padding."""

from mmseg.models import data_preprocessor as mmseg

from ..models.padding import NotesSizes


class SegDataPreProcessor(NotesSizes, mmseg.SegDataPreProcessor):
    """mmseg's, which also tells a SparseFormer how much of the batch is image.

    In any config of mmseg, with any model; all arguments stay mmseg's::

        model = dict(
            data_preprocessor=dict(
                type='sparseformer_mm.segmentation.SegDataPreProcessor'
            )
        )
    """
