"""An auxiliary loss that asks each token what is in its RoI."""

import math
from typing import Dict, Optional, Sequence

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ..models.arguments import check_count
from ..models.ops import at_least_float32, make_linear, reset_linear
from ..models.rois import init_offsets
from ..models.tokens import SparseFormerOutput, check_tokens, outputs_of


def count_labels(
    labels: Tensor,
    rois: Tensor,
    num_classes: int,
    grid: int = 16,
    shares: Optional[Tensor] = None,
) -> Tensor:
    """What a grid of points in each RoI lies on.

    Args:
        labels: (B, H, W), numbers of classes; other numbers count nowhere.
        rois: (B, N, 4) center and size in units of the image.
        num_classes: C.
        grid: points along each side of a RoI, at the centers of equal cells.
        shares: (B, 2), width and height of each image over those of ``labels``, where
            these are padded; None is 1.

    Returns:
        Tensor (B, N, C): how many points lie on each class. Points outside the image
        are left out.
    """
    batch, height, width = labels.shape
    offsets = init_offsets(grid * grid).to(rois)
    points = rois[:, :, None, :2] + offsets * rois[:, :, None, 2:]
    inside = ((points >= 0) & (points < 1)).all(-1)
    if shares is not None:
        points = points * shares.to(points)[:, None, None]
    x, y = points.nan_to_num(0.0).clamp(0, 1).unbind(-1)
    x = (x * width).long().clamp(max=width - 1)
    y = (y * height).long().clamp(max=height - 1)
    seen = labels.flatten(1).gather(1, (y * width + x).flatten(1)).view_as(x)
    known = inside & (seen >= 0) & (seen < num_classes)
    # Class by class: lean, and deterministic on a GPU.
    seen = seen.where(known, -1)
    return torch.stack([(seen == k).sum(2) for k in range(num_classes)], -1)


def _image_shares(samples: SampleList, like: Tensor) -> Tensor:
    """(B, 2) width and height of each image over those of its padded label."""
    shares = []
    for sample in samples:
        height, width = sample.gt_sem_seg.data.shape[-2:]
        if 'padding_size' in sample.metainfo:
            # mmseg pads a label by as many pixels as its picture, whatever its size.
            _, right, _, bottom = sample.metainfo['padding_size']
            shares.append([1 - right / width, 1 - bottom / height])
        else:
            rows, columns = sample.metainfo['img_shape'][:2]
            shares.append([min(1, columns / width), min(1, rows / height)])
    return like.new_tensor(shares)


@MODELS.register_module()
class TokenLabelHead(BaseModule):
    """Classifies tokens by the labels in their RoIs: an auxiliary head.

    Not the paper's. Trained on little data without it, tokens of a segmentor die:
    before they have learnt to say what they see, the loss on pixels has made them the
    same for every picture. Here each token is asked directly: of its class logits,
    ``Linear(token)``, the cross-entropy with the shares of the classes in its RoI. Used
    in training only, of a backbone with ``out_type='tokens'``, or 'maps' and no neck::

        auxiliary_head=dict(
            type='sparseformer_mm.segmentation.TokenLabelHead',
            in_channels=192, num_classes=11)

    It also holds RoIs at the picture: all tokens share the layers that move them, so
    one step too large takes all of them out, where they see nothing that leads back.

    Args:
        in_channels: width of the tokens, the backbone's ``cortex_dims``.
        num_classes: C, at least 2.
        class_weight: of each class, by which its share is multiplied before all are
            divided by their sum; a small one for a background that is nearly
            everywhere. None is 1.
        grid: labels are read at ``grid`` x ``grid`` points of a RoI.
        ignore_index: a label that counts nowhere, like all that are no class; None for
            none.
        loss_weight: of the loss.
        outside_weight: of how far centers of RoIs are outside the picture, in its
            widths and heights, the mean over all tokens. 0 to leave that out.

    Raises:
        ValueError: for a ``class_weight`` that is not one number of at least 0 for
            each class, or numbers that are too small.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        class_weight: Optional[Sequence[float]] = None,
        grid: int = 16,
        ignore_index: Optional[int] = 255,
        loss_weight: float = 1.0,
        outside_weight: float = 1.0,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        num_classes = check_count('num_classes', num_classes, 2)
        self.num_classes = self.out_channels = num_classes
        self.class_weight = self._check_weights(class_weight)
        self.grid = check_count('grid', grid)
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        self.outside_weight = outside_weight
        self.align_corners = False  # mmseg reads it of every head
        self.fc = make_linear(in_channels, num_classes)

    def _check_weights(self, weights: Optional[Sequence[float]]) -> Sequence[float]:
        if weights is None:
            return [1.0] * self.num_classes
        good = isinstance(weights, (list, tuple)) and len(weights) == self.num_classes
        good = good and all(isinstance(w, (int, float)) for w in weights)
        if not good or not all(0 <= w < math.inf for w in weights) or not any(weights):
            raise ValueError(
                f'class_weight={weights} must be a list of a number of at least 0 for '
                f'each of the {self.num_classes} classes, and not 0 for all'
            )
        return weights

    def init_weights(self):
        reset_linear(self.fc)
        super().init_weights()  # an init_cfg of its own wins

    def forward(self, inputs: SparseFormerOutput) -> Tensor:
        """Class logits (B, N, C) of the tokens.

        Raises:
            TypeError, ValueError: if the backbone gives something else.
        """
        inputs = outputs_of(inputs)
        check_tokens(
            inputs,
            'TokenLabelHead',
            'in_channels',
            self.in_channels,
            ' (maps have their tokens with them only where no neck, wrapper or '
            'torch.compile makes other tensors of them)',
        )
        if inputs.rois.shape[-1] != 4:
            raise ValueError(
                'TokenLabelHead is for images, got the tubes of a video: set '
                'spatial_dims=2 on the backbone'
            )
        return at_least_float32(self.fc(inputs.tokens))

    def loss(
        self, inputs: SparseFormerOutput, batch_data_samples: SampleList, train_cfg=None
    ) -> Dict[str, Tensor]:
        """The loss, and how often the likeliest class has the largest weighted share.

        Args:
            inputs: the backbone's outputs, or maps that it restored.
            batch_data_samples: with ``gt_sem_seg`` (1, H, W) each, all of one size.
            train_cfg: not used.

        Returns:
            dict: ``loss_tokens``, ``loss_outside`` and ``acc_tokens``, in percent. The
            first and the last are without tokens whose RoIs hold no class of a weight
            above 0.
        """
        inputs = outputs_of(inputs)
        logits = self(inputs)
        labels = torch.cat([x.gt_sem_seg.data for x in batch_data_samples])
        if self.ignore_index is not None:
            labels = labels.where(labels != self.ignore_index, -1)
        shares = None
        # (Where extents are not known, RoIs are relative to the padded batch.)
        if inputs.map_extents is not None:
            shares = _image_shares(batch_data_samples, inputs.rois)
        rois = inputs.rois.detach()
        counts = count_labels(labels, rois, self.num_classes, self.grid, shares)
        shares = counts * logits.new_tensor(self.class_weight)
        total = shares.sum(-1, keepdim=True)
        known = total[..., 0] > 0
        target = shares / total.where(total > 0, 1)
        # Softmax over all tokens, not the known ones: no shape depends on the data.
        losses = -(target * logits.log_softmax(-1)).sum(-1)
        count = known.sum().clamp(min=1)
        right = (logits.argmax(-1) == target.argmax(-1)) & known
        centers = at_least_float32(inputs.rois[..., :2])
        outside = (centers - centers.clamp(0, 1)).abs().sum(-1).mean()
        return dict(
            loss_tokens=self.loss_weight * losses.sum() / count,
            loss_outside=self.outside_weight * outside,
            acc_tokens=100 * right.sum() / count,
        )
