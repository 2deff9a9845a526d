"""Evidence for the boxes of tokens from a map that is restored from all tokens."""

from typing import Union

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from ..models.arguments import as_cfg, check_count, check_positive
from ..models.assembly import MAP_DECODERS
from ..models.ops import at_least_float32, no_autocast
from ..models.padding import map_extent
from ..models.rois import init_offsets
from ..models.sampling import sample_image
from ..models.tokens import SparseFormerOutput
from ..registry import MODELS, build_part

# Points along each side of a cell, of which a mean is taken.
_POINTS = 2


@MODELS.register_module()
class MapEvidence(BaseModule):
    """What a restored map shows inside the box of each token.

    Not the paper's. A token has looked at some dozens of points; a map restored from
    all tokens (:class:`.LocationAwareMaps`) has the stem's detail everywhere. Cells
    of a grid in each box go through two linear layers and onto the token::

        token <- LayerNorm(token + Linear(ReLU(Linear(cells))))

    A cell is the mean of 2 x 2 points, zero outside the image: mmcv's ``RoIAlign``
    with ``sampling_ratio=2``, in boxes that are relative to each image of a padded
    batch. Another module of the same form is named by
    ``map_evidence=dict(type=...)`` of the head, and built with ``token_dims``.

    Args:
        token_dims: d_c, the width of the tokens.
        feat_channels: of the stem's map, the backbone's ``feat_channels``.
        in_stride: of the stem's map.
        stride: of the restored map, a multiple of ``in_stride``.
        channels: of the restored map.
        map_decoder: what restores it, as of :class:`.SparseFormer`; None is
            ``dict(type='LocationAwareMaps', num_blocks=1)``.
        cells: along each side of a box.
        enlarge: boxes are read at so many times their size.

    Raises:
        ValueError: for numbers that are too small, or a stride that cannot be had.
    """

    def __init__(
        self,
        token_dims: int,
        feat_channels: int,
        in_stride: int = 4,
        stride: int = 8,
        channels: int = 64,
        map_decoder: Union[str, dict, None] = None,
        cells: int = 5,
        enlarge: float = 1.2,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.feat_channels = check_count('map_evidence.feat_channels', feat_channels)
        self.in_stride = check_count('map_evidence.in_stride', in_stride)
        if check_count('map_evidence.stride', stride) % in_stride:
            raise ValueError(
                f'stride={stride} of map_evidence must be a multiple of '
                f'in_stride={in_stride}, the stride of the stem'
            )
        self.ratio = stride // in_stride
        check_count('map_evidence.channels', channels)
        self.cells = check_count('map_evidence.cells', cells)
        check_positive('map_evidence.enlarge', enlarge)
        self.enlarge = enlarge
        if map_decoder is None:
            map_decoder = dict(type='LocationAwareMaps', num_blocks=1)
        self.map_decoder = build_part(
            as_cfg('map_decoder', map_decoder, MAP_DECODERS),
            feat_channels=feat_channels,
            token_dims=token_dims,
            in_stride=in_stride,
            strides=[stride],
            channels=[channels],
        )
        # They start as torch's: with a deviation of 0.02, as the paper's layers have,
        # cells would say next to nothing beside a token for the first epochs.
        self.mlp = nn.Sequential(
            nn.Linear(channels * cells**2, token_dims),
            nn.ReLU(),
            nn.Linear(token_dims, token_dims),
        )
        self.norm = nn.LayerNorm(token_dims, eps=1e-6)

    def init_weights(self):
        for layer in (self.mlp[0], self.mlp[2], self.norm):
            layer.reset_parameters()
        super().init_weights()  # an init_cfg of its own wins

    def forward(self, outputs: SparseFormerOutput, boxes: Tensor) -> Tensor:
        """Add what the map shows to the tokens of the boxes.

        Args:
            outputs: of the backbone, for images.
            boxes: (B, n, 4) of the first n tokens, center and size in units of the
                image. No gradient goes into them.

        Returns:
            Tensor (B, n, d_c).

        Raises:
            ValueError: if the stem's map has another number of channels.
        """
        cells = self.read_cells(outputs, boxes.detach())
        tokens = outputs.tokens[:, : boxes.shape[1]]
        evidence = self.mlp(cells.flatten(2).to(self.mlp[0].weight.dtype))
        return self.norm(tokens + evidence)

    def read_cells(self, outputs: SparseFormerOutput, boxes: Tensor) -> Tensor:
        """Means over the cells of each box, (B, n, cells ** 2, channels), row by row,
        in float32 or better."""
        feature, extents = outputs.image_feature, outputs.map_extents
        self.check_stem(feature.shape[1])
        if extents is None:
            extents = map_extent(feature.shape[-2:], boxes)[None]
        (restored,) = self.map_decoder(outputs)
        side = self.cells * _POINTS
        offsets = init_offsets(side**2).to(boxes)
        sizes = boxes[:, :, None, 2:] * self.enlarge
        with no_autocast(restored):
            # (A half map would round the points.)
            read = sample_image(
                at_least_float32(restored).permute(0, 2, 3, 1),
                boxes[:, :, None, :2] + offsets * sizes,
                extents.to(boxes) / self.ratio,  # with fractions, as it was restored
            )
        grid = read.unflatten(2, (self.cells, _POINTS, self.cells, _POINTS))
        return grid.mean((3, 5)).flatten(2, 3)

    def check_stem(self, channels: int, stride: Union[int, None] = None):
        """Raise ValueError unless the stem's map has these channels (and stride)."""
        for name, given, actual in (
            ('feat_channels', self.feat_channels, channels),
            ('in_stride', self.in_stride, stride or self.in_stride),
        ):
            if given != actual:
                raise ValueError(
                    f'{name}={given} of map_evidence in bbox_head is not that of the '
                    f"backbone's stem: set it to {actual}"
                )
