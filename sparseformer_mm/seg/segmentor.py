"""The segmentor: backbone and head, and images without their padding."""

from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS

from ..models import SparseFormer
from ..models.padding import PaddingAware
from .head import LocationAwareHead


@MODELS.register_module()
class SparseFormerSegmentor(PaddingAware, EncoderDecoder):
    """SparseFormer with a decode head on its tokens (paper, appendix A.2).

    mmseg's encoder-decoder, in which RoIs are relative to each image instead of the
    padded batch: an image has the same logits alone and beside others. The windows
    of sliding inference count as images.

    Args:
        backbone: a SparseFormer with ``out_type='tokens'``.
        decode_head: usually a :class:`LocationAwareHead`.
        auxiliary_head: for instance mmseg's ``FCNHead`` on the stem's map, with
            ``in_index=2`` and ``in_channels`` the backbone's ``feat_channels``.
        neck, train_cfg, test_cfg, data_preprocessor, init_cfg: as in mmseg.

    Raises:
        ValueError: if backbone and head do not fit each other.
    """

    def __init__(self, backbone: dict, decode_head: dict, *args, **kwargs):
        super().__init__(backbone, decode_head, *args, **kwargs)
        backbone, head = self.backbone, self.decode_head
        if not isinstance(backbone, SparseFormer):
            raise ValueError(
                'SparseFormerSegmentor needs a sparseformer_mm.SparseFormer backbone, '
                f'got {type(backbone).__name__}; other backbones go with the '
                'segmentors of mmseg'
            )
        if backbone.out_type != 'tokens':
            raise ValueError(
                f'the backbone has out_type={backbone.out_type!r}; a segmentor needs '
                "out_type='tokens'"
            )
        if isinstance(head, LocationAwareHead):
            for name, here, there in (
                ('in_channels', head.in_channels, backbone.embed_dims),
                ('feat_channels', head.feat_channels, backbone.stem.out_channels),
            ):
                if here != there:
                    theirs = 'cortex_dims' if name == 'in_channels' else name
                    raise ValueError(
                        f'{name}={here} of decode_head must be the {theirs} of the '
                        f'backbone, {there}'
                    )
