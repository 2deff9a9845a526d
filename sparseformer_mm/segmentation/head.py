"""A decode head on latent tokens (paper, appendix A.2)."""

import math
from typing import List, Optional

import torch.nn as nn
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ..engine.problems import DatasetError
from ..models.location_attention import LocationAwareAttention
from ..models.ops import make_linear, project, reset_linear
from ..models.padding import inside_images, repeat_edges
from ..models.tokens import SparseFormerOutput, check_tokens
from .labels import Labels, check_batch

# Reading labels back from a GPU makes it wait: done for the first batches only.
_CHECKED_BATCHES = 20


@MODELS.register_module()
class LocationAwareHead(BaseDecodeHead):
    """Restores a map from latent tokens and classifies its pixels.

    Each pixel of the backbone's early-convolved map (stride 4) attends to the tokens,
    with a bias that favours near ones (:class:`.LocationAwareAttention`); convolutions
    and mmseg's classifier follow. Images of a padded batch do not see their padding if
    the segmentor says where it is (:class:`.SparseFormerSegmentor`). The defaults are
    the paper's form.

    Args:
        in_channels: width of the tokens, the backbone's ``cortex_dims``.
        channels: of the convolutions.
        feat_channels: of the map, the backbone's ``feat_channels``.
        embed_dims: width of the attention and of the restored map; None is
            ``in_channels``.
        num_heads: of the attention.
        num_convs: number of 3x3 convolutions with norm and activation.
        residual: add a projection of the map to the restored one.
        undo_class_weight: in evaluation, give the logits to which the loss would have
            led without its ``class_weight`` w: log w less. Where a common class counts
            little, rare ones are learnt early, but come out too large without this.
        kwargs: of mmseg's ``BaseDecodeHead``: ``num_classes``, ``dropout_ratio``,
            ``norm_cfg`` (batch norm if not given), ``act_cfg``, ``conv_cfg``,
            ``loss_decode``, ``ignore_index``, ``sampler``, ``align_corners`` ...

    Raises:
        ValueError: for arguments that do not fit each other.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        feat_channels: int = 96,
        embed_dims: Optional[int] = None,
        num_heads: int = 1,
        num_convs: int = 2,
        residual: bool = False,
        undo_class_weight: bool = False,
        **kwargs,
    ):
        kwargs.setdefault('norm_cfg', dict(type='BN'))
        super().__init__(in_channels, channels, **kwargs)
        if self.input_transform is not None:
            raise ValueError(
                f'input_transform={self.input_transform!r} selects among maps; '
                'LocationAwareHead takes what SparseFormer gives: leave it out'
            )
        embed_dims = in_channels if embed_dims is None else embed_dims
        if num_convs < 0 or (num_convs == 0 and channels != embed_dims):
            raise ValueError(
                f'num_convs={num_convs} must be at least 1, or 0 with channels='
                f'{channels} equal to the width of the attention, {embed_dims}'
            )
        self.feat_channels = feat_channels
        self.attention = LocationAwareAttention(
            feat_channels, in_channels, embed_dims, num_heads
        )
        self.shortcut = make_linear(feat_channels, embed_dims) if residual else None
        self.convs = nn.ModuleList(
            ConvModule(
                channels if i else embed_dims,
                channels,
                kernel_size=3,
                padding=1,
                conv_cfg=self.conv_cfg,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg,
            )
            for i in range(num_convs)
        )
        self._batches = 0
        self._log_weights = self._log_class_weights() if undo_class_weight else None

    def _log_class_weights(self) -> List[float]:
        loss = self.loss_decode
        weights = getattr(loss, 'class_weight', None)
        if (
            not isinstance(loss, CrossEntropyLoss)
            or weights is None
            or len(weights) != self.out_channels
            or min(weights) <= 0
        ):
            raise ValueError(
                'undo_class_weight=True is for a CrossEntropyLoss with a weight above '
                f'0 for each of the {self.out_channels} classes; loss_decode is '
                f'{type(loss).__name__} with class_weight={weights}: change it, or '
                'leave undo_class_weight out'
            )
        return [math.log(weight) for weight in weights]

    def init_weights(self):
        if self.shortcut is not None:
            reset_linear(self.shortcut)
        super().init_weights()  # an init_cfg of its own wins

    def forward(self, inputs: SparseFormerOutput) -> Tensor:
        """Class logits of each pixel of the map (see ``undo_class_weight``).

        Args:
            inputs: of a backbone with ``out_type='tokens'``.

        Returns:
            Tensor (B, num_classes, ceil(H / 4), ceil(W / 4)). Where a batch is padded,
            the padding repeats the logits at an image's edge.

        Raises:
            TypeError, ValueError: if the backbone gives something else.
        """
        logits = self._logits(inputs)
        if self._log_weights is None or self.training:
            return logits
        return logits - logits.new_tensor(self._log_weights).view(-1, 1, 1)

    def _logits(self, inputs: SparseFormerOutput) -> Tensor:
        self._check_inputs(inputs)
        feature = inputs.image_feature.permute(0, 2, 3, 1)
        extents = inputs.map_extents
        x = self.attention(feature, inputs.tokens, inputs.rois, extents)
        if self.shortcut is not None:
            x = x + project(feature.to(x.dtype), self.shortcut)
        x = x.permute(0, 3, 1, 2)
        if extents is None:
            for conv in self.convs:
                x = conv(x)
            return self.cls_seg(x)
        inside = inside_images(x, extents)
        for conv in self.convs:  # a convolution pads with zeros, here too
            x = conv(x * inside)
        return repeat_edges(self.cls_seg(x), extents)

    def loss(self, inputs, batch_data_samples: SampleList, train_cfg=None) -> dict:
        """mmseg's losses, of logits with the loss's class weights in any mode."""
        return self.loss_by_feat(self._logits(inputs), batch_data_samples)

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: SampleList) -> dict:
        """mmseg's losses, after a look at the labels.

        Raises:
            DatasetError: a ValueError, if a label is neither a class nor
                ``ignore_index``. On a GPU only the first batches are looked at
                (:class:`.CheckDatasetHook` looks at all); later ones end in torch's
                device-side assert.
        """
        self._check_labels(batch_data_samples)
        return super().loss_by_feat(seg_logits, batch_data_samples)

    def _check_inputs(self, inputs):
        check_tokens(inputs, 'LocationAwareHead', 'in_channels', self.in_channels)
        if inputs.image_feature.dim() != 4:
            raise ValueError(
                'LocationAwareHead is for images, got the map of a video, '
                f'{tuple(inputs.image_feature.shape)}: set spatial_dims=2 on the '
                'backbone'
            )
        channels = inputs.image_feature.shape[1]
        if channels != self.feat_channels:
            raise ValueError(
                f'feat_channels={self.feat_channels} of the head is not that of the '
                f"stem's map: set it to the backbone's feat_channels, {channels}"
            )

    def _check_labels(self, batch_data_samples: SampleList) -> None:
        if batch_data_samples[0].gt_sem_seg.data.device.type != 'cpu':
            if self._batches >= _CHECKED_BATCHES:
                return
            self._batches += 1
        for problem in check_batch(batch_data_samples, Labels.of(self)):
            raise DatasetError(problem.message)
