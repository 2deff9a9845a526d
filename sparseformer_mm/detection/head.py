"""A DETR-style head on latent tokens (paper, section 4, object detection)."""

from typing import List, Optional, Tuple

import torch
import torch.nn as nn
from mmdet.models.dense_heads import DETRHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.model import bias_init_with_prob
from torch import Tensor

from ..models.ops import at_least_float32, make_linear, no_autocast, reset_linear
from ..models.rois import adjust_rois
from ..models.tokens import SparseFormerOutput, check_tokens
from ..registry import build_part
from .map_evidence import MapEvidence


class BoxRefine(nn.Sequential):
    """Two linear layers with ReLU between: a token's deltas for its RoI.

    The last layer starts at zero, so a box starts as its token's RoI.

    Shape:
        (..., d) -> (..., 4), always float32 or better.
    """

    def __init__(self, dims: int):
        super().__init__(make_linear(dims, dims), nn.ReLU(), make_linear(dims, 4))

    def init_weights(self):
        for layer in (self[0], self[2]):
            reset_linear(layer)
        nn.init.zeros_(self[2].weight)

    def forward(self, tokens: Tensor) -> Tensor:
        with no_autocast(tokens):
            return at_least_float32(super().forward(tokens.to(self[0].weight.dtype)))


@MODELS.register_module()
class SparseFormerHead(DETRHead):
    """Detections from the first ``num_queries`` tokens of SparseFormer.

    A linear layer classifies a token, a two-layer MLP gives the deltas by which its
    RoI becomes its box, as in RoI adjusting (equations 7 and 8). Matching, losses and
    results are those of mmdet's :class:`DETRHead`. The defaults are the paper's:
    softmax with a no-object class of weight 0.1, losses on the last block only.

    Args:
        num_classes: without the no-object class.
        embed_dims: width of the tokens, the backbone's ``cortex_dims``.
        num_queries: tokens that detect; the others only enrich the latent space.
        num_levels: cortex blocks whose tokens get losses, counted from the last. More
            than 1 needs as many ``out_indices`` on the backbone.
        share_predictors: all levels use the same layers, or each its own.
        refine_boxes: a level refines the box of the level before (whose gradient is
            cut) instead of the RoI that its block left. Not where later blocks look
            too (the backbone's ``cortex_looks``): those refine RoIs themselves.
        map_evidence: arguments of :class:`.MapEvidence`, at least the backbone's
            ``feat_channels``, for one level more: it reads what a map restored from
            the tokens shows in the boxes of the last block, and refines these (whose
            gradient is cut) with predictors of its own. None for no such level.
        loss_cls: softmax ``CrossEntropyLoss`` with ``bg_cls_weight``, the weight of
            the no-object class (``class_weight`` if not given), or a sigmoid loss such
            as ``FocalLoss``.
        loss_bbox, loss_iou, sync_cls_avg_factor, train_cfg, init_cfg: see
            :class:`DETRHead`.
        test_cfg: ``dict(max_per_img=100)``, the most detections of an image.

    Raises:
        ValueError: for a wrong number of queries or levels, or weights of classes.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 640,
        num_queries: int = 100,
        num_levels: int = 1,
        share_predictors: bool = True,
        refine_boxes: bool = False,
        map_evidence: Optional[dict] = None,
        loss_cls: Optional[dict] = None,
        test_cfg: Optional[dict] = None,
        **kwargs,
    ):
        for name, value in (('num_queries', num_queries), ('num_levels', num_levels)):
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        self.num_queries = num_queries
        self.num_levels = num_levels
        self.share_predictors = share_predictors
        self.refine_boxes = refine_boxes
        if map_evidence is not None and not isinstance(map_evidence, dict):
            raise ValueError(
                f'map_evidence={map_evidence!r} must be a dict with at least the '
                'feat_channels of the backbone: map_evidence=dict(feat_channels=96)'
            )
        self._evidence_cfg = map_evidence
        loss_cls = dict(
            loss_cls or dict(type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1)
        )
        background = self._weigh_background(loss_cls, num_classes)
        super().__init__(num_classes, embed_dims, loss_cls=loss_cls, **kwargs)
        self.bg_cls_weight = background
        # A token has one answer with softmax, one per class with sigmoid.
        most = num_queries * (num_classes if self.loss_cls.use_sigmoid else 1)
        self.test_cfg = dict(test_cfg or {})
        self.test_cfg['max_per_img'] = min(self.test_cfg.get('max_per_img', 100), most)

    @staticmethod
    def _weigh_background(loss_cls: dict, num_classes: int) -> float:
        """Give a softmax loss the weights of all its classes, as DETRHead does for
        itself but not for heads made from it; return that of the no-object class."""
        weight = loss_cls.get('class_weight')
        background = loss_cls.pop('bg_cls_weight', weight)
        if background is None:
            return 0
        weight = 1.0 if weight is None else weight
        if not all(isinstance(w, (int, float)) for w in (weight, background)):
            raise ValueError(
                f'class_weight={weight} and bg_cls_weight={background} of loss_cls '
                'must be numbers: the weights of every class and of no object'
            )
        loss_cls['class_weight'] = [float(weight)] * num_classes + [float(background)]
        return float(background)

    def _init_layers(self):
        count = 1 if self.share_predictors else self.num_levels
        dims = self.embed_dims
        self.fc_cls = nn.ModuleList(
            make_linear(dims, self.cls_out_channels) for _ in range(count)
        )
        self.box_refine = nn.ModuleList(BoxRefine(dims) for _ in range(count))
        self.map_evidence = None
        if self._evidence_cfg is not None:
            self.map_evidence = self._build_evidence(self._evidence_cfg)
            self.map_cls = make_linear(dims, self.cls_out_channels)
            self.map_refine = BoxRefine(dims)

    def _build_evidence(self, cfg: dict) -> nn.Module:
        cfg = {'type': MapEvidence.__name__, **cfg}
        if cfg['type'] in (MapEvidence, MapEvidence.__name__) and (
            'feat_channels' not in cfg
        ):
            raise ValueError(
                f'map_evidence={self._evidence_cfg} needs the feat_channels of the '
                "backbone: feat_channels=96, or what the backbone's arch has"
            )
        return build_part(cfg, token_dims=self.embed_dims)

    def _predictors(self) -> List[Tuple[nn.Module, nn.Module]]:
        """(classifier, box refinement) of the blocks, and of the map."""
        pairs = list(zip(self.fc_cls, self.box_refine))
        if self.map_evidence is not None:
            pairs.append((self.map_cls, self.map_refine))
        return pairs

    def init_weights(self):
        for classify, refine in self._predictors():
            reset_linear(classify)
            if self.loss_cls.use_sigmoid:
                nn.init.constant_(classify.bias, bias_init_with_prob(0.01))
            refine.init_weights()
        super().init_weights()  # an init_cfg of its own wins

    def forward(self, outputs: SparseFormerOutput) -> Tuple[Tensor, Tensor]:
        """Classify and locate.

        Args:
            outputs: of a backbone with ``out_type='tokens'``.

        Returns:
            tuple: class logits (L, B, num_queries, num_classes, + 1 with softmax) and
            boxes (L, B, num_queries, 4) as x, y, w, h, center and size, in units of
            the image. L is ``num_levels``, the last block last, and one more with
            ``map_evidence``.

        Raises:
            TypeError, ValueError: if the backbone gives something else, or too few
                tokens or levels, or another width.
        """
        levels = self._levels(outputs)
        branches = [0] * len(levels)
        if not self.share_predictors:
            branches = range(self.num_levels - len(levels), self.num_levels)
        all_rois = outputs.block_rois[-len(levels) :]
        all_scores, all_boxes = [], []
        for tokens, rois, branch in zip(levels, all_rois, branches):
            tokens, rois = tokens[:, : self.num_queries], rois[:, : self.num_queries]
            if self.refine_boxes and all_boxes:
                rois = all_boxes[-1].detach()
            all_boxes.append(adjust_rois(rois, self.box_refine[branch](tokens)))
            all_scores.append(at_least_float32(self.fc_cls[branch](tokens)))
        if self.map_evidence is not None:
            rois = all_boxes[-1].detach()
            tokens = self.map_evidence(outputs, rois)
            all_boxes.append(adjust_rois(rois, self.map_refine(tokens)))
            all_scores.append(at_least_float32(self.map_cls(tokens)))
        return torch.stack(all_scores), torch.stack(all_boxes)

    def _levels(self, outputs) -> List[Tensor]:
        check_tokens(outputs, 'SparseFormerHead', 'embed_dims', self.embed_dims)
        num_tokens = outputs.tokens.shape[1]
        if num_tokens < self.num_queries:
            raise ValueError(
                f'num_queries={self.num_queries} of the head exceeds the '
                f"{num_tokens} tokens of the backbone: raise the backbone's num_tokens "
                '(or test_tokens and train_tokens, if set) or lower num_queries'
            )
        levels = outputs.block_tokens[-self.num_levels :]
        if self.training and len(levels) < self.num_levels:
            raise ValueError(
                f'num_levels={self.num_levels} of the head needs the tokens of as many '
                f"blocks, got {len(levels)}: name them in the backbone's out_indices"
            )
        return list(levels)

    def predict(
        self,
        hidden_states: SparseFormerOutput,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> InstanceList:
        """Detections of each image: ``bboxes`` (n, 4) as x1, y1, x2, y2 in pixels,
        ``scores``, ``labels``, best first.

        Args:
            hidden_states: the backbone's outputs.
            batch_data_samples: with the images' ``img_shape`` and ``scale_factor``.
            rescale: boxes in the original image instead of the network's input.
        """
        if not self.refine_boxes:  # then the earlier levels are for training only
            hidden_states = hidden_states._replace(
                block_tokens=hidden_states.block_tokens[-1:]
            )
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(
            *self(hidden_states), batch_img_metas=metas, rescale=rescale
        )
