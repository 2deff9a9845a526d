"""The detector: backbone and head, and images without their padding."""

from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS

from ..models import SparseFormer
from ..models.padding import PaddingAware, check_backbone
from .head import SparseFormerHead
from .map_evidence import MapEvidence


@MODELS.register_module()
class SparseFormerDetector(PaddingAware, SingleStageDetector):
    """SparseFormer with a DETR-style head on its tokens (paper, Table 8).

    mmdet's single-stage detector, in which RoIs are relative to each image instead
    of the padded batch: an image has the same detections alone and beside others.

    Args:
        backbone: a SparseFormer with ``out_type='tokens'``.
        bbox_head: usually a :class:`SparseFormerHead`.
        neck, train_cfg, test_cfg, data_preprocessor, init_cfg: as in mmdet.

    Raises:
        ValueError: if backbone and head do not fit each other.
    """

    def __init__(self, backbone: dict, *args, **kwargs):
        super().__init__(backbone, *args, **kwargs)
        check_backbone(self.backbone, type(self).__name__, 'mmdet')
        if isinstance(self.bbox_head, SparseFormerHead):
            self._check_fit(self.backbone, self.bbox_head)

    @staticmethod
    def _check_fit(backbone: SparseFormer, head: SparseFormerHead):
        num_tokens = len(backbone.latent.token_rois)
        if head.num_queries > num_tokens:
            raise ValueError(
                f'num_queries={head.num_queries} of bbox_head exceeds '
                f'num_tokens={num_tokens} of the backbone: raise the latter or lower '
                'the former'
            )
        least = min(
            [*(backbone.train_tokens or ()), backbone.test_tokens or num_tokens]
        )
        if head.num_queries > least:
            raise ValueError(
                f'num_queries={head.num_queries} of bbox_head exceeds the {least} '
                'tokens that may run: raise train_tokens and test_tokens of the '
                'backbone to that number at least, or lower num_queries'
            )
        if head.embed_dims != backbone.embed_dims:
            raise ValueError(
                f'embed_dims={head.embed_dims} of bbox_head must be the cortex_dims of '
                f'the backbone, {backbone.embed_dims}'
            )
        depth, indices = len(backbone.cortex), backbone.out_indices
        if head.num_levels != len(indices) or indices != sorted(indices):
            raise ValueError(
                f'bbox_head has num_levels={head.num_levels}, the backbone '
                f'out_indices={indices}: give as many rising ones as levels, for '
                f'instance out_indices={list(range(depth))[-head.num_levels :]}'
            )
        looks = backbone.arch['cortex_looks']
        if head.refine_boxes and looks > 1:
            raise ValueError(
                'refine_boxes=True of bbox_head starts from the box of the block '
                f'before, not from the RoIs that cortex_looks={looks} of the backbone '
                'moves: set refine_boxes=False, or cortex_looks=1'
            )
        if isinstance(head.map_evidence, MapEvidence):
            stem = backbone.stem
            head.map_evidence.check_stem(stem.out_channels, stem.stride)
        if indices[-1] != depth - 1:
            raise ValueError(
                f'out_indices={indices} of the backbone must end with its last '
                f'block, {depth - 1}: that is where detections come from'
            )
