"""The segmentor: backbone and head, and images without their padding."""

from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS

from ..models.padding import PaddingAware, check_backbone
from .head import LocationAwareHead
from .labels import Labels, heads_of
from .token_head import TokenLabelHead


@MODELS.register_module()
class SparseFormerSegmentor(PaddingAware, EncoderDecoder):
    """SparseFormer with a decode head on its tokens (paper, appendix A.2).

    mmseg's encoder-decoder, in which RoIs are relative to each image instead of the
    padded batch: in evaluation, an image has the same logits on the stem's map alone
    and beside others, and the same at full size if its sides and the batch's are
    multiples of 4 (else mmseg resizes the maps by slightly different factors). In
    training, batch norms see the padding, as mmseg's do. The windows of sliding
    inference count as images.

    Args:
        backbone: a SparseFormer with ``out_type='tokens'``.
        decode_head: usually a :class:`LocationAwareHead`.
        auxiliary_head: a :class:`TokenLabelHead`, or for instance mmseg's ``FCNHead``
            on the stem's map, with ``in_index=2`` and ``in_channels`` the backbone's
            ``feat_channels``.
        neck, train_cfg, test_cfg, data_preprocessor, init_cfg: as in mmseg.

    Raises:
        ValueError: if backbone and head do not fit each other.
    """

    def __init__(self, backbone: dict, decode_head: dict, *args, **kwargs):
        super().__init__(backbone, decode_head, *args, **kwargs)
        backbone, head = self.backbone, self.decode_head
        check_backbone(backbone, type(self).__name__, 'mmseg')
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
        for name, other in heads_of(self).items():
            if isinstance(other, TokenLabelHead):
                self._check_token_head(name, other)

    def _check_token_head(self, name: str, head: TokenLabelHead):
        labels = Labels.of(self.decode_head)
        for setting, here, there, source in (
            ('in_channels', head.in_channels, self.backbone.embed_dims, 'cortex_dims'),
            ('num_classes', head.num_classes, labels.count, 'decode_head'),
            ('ignore_index', head.ignore_index, labels.ignore, 'decode_head'),
        ):
            if here != there:
                raise ValueError(
                    f'{setting}={here} of {name} must be {there}, as {source} says'
                )
