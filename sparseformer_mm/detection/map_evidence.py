"""Evidence for the boxes of tokens from a map that is restored from all tokens."""

from typing import Union

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from ..models.arguments import as_cfg, check_count
from ..models.assembly import MAP_DECODERS
from ..models.ops import make_linear, no_autocast
from ..models.padding import map_extent
from ..models.rois import init_offsets
from ..models.sampling import sample_image
from ..models.tokens import SparseFormerOutput
from ..registry import build_part

# Points along each side of a cell, of which a mean is taken, as RoIAlign does.
_POINTS = 2


class MapEvidence(BaseModule):
    """What a restored map shows inside the box of each token.

    Not the paper's. A token has looked at some dozens of points; a map restored from
    all tokens (:class:`.LocationAwareMaps`) has the stem's detail everywhere. Cells
    of a grid in each box, as RoIAlign reads them (zero outside the image), go through
    two linear layers and onto the token::

        token <- LayerNorm(token + Linear(ReLU(Linear(cells))))

    Args:
        token_dims: d_c, the width of the tokens.
        feat_channels: of the stem's map, the backbone's ``feat_channels``.
        in_stride: of the stem's map.
        stride: of the restored map, a multiple of ``in_stride``.
        channels: of the restored map.
        map_decoder: what restores it, as of :class:`.SparseFormer`; None is
            ``dict(type='LocationAwareMaps', num_blocks=1)``.
        cells: along each side of a box.
        margin: boxes are read as so many times their size.

    Raises:
        ValueError: for numbers that are too small, or a stride that cannot be had.
    """

    def __init__(
        self,
        token_dims: int,
        feat_channels: int = 96,
        in_stride: int = 4,
        stride: int = 8,
        channels: int = 64,
        map_decoder: Union[str, dict, None] = None,
        cells: int = 5,
        margin: float = 1.2,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        if check_count('stride', stride) % check_count('in_stride', in_stride):
            raise ValueError(
                f'stride={stride} of the map evidence must be a multiple of '
                f'in_stride={in_stride}, the stride of the stem'
            )
        if not margin > 0:
            raise ValueError(f'margin={margin} of the map evidence must be above 0')
        self.feat_channels = check_count('feat_channels', feat_channels)
        self.in_stride, self.scale = in_stride, stride // in_stride
        self.cells = check_count('cells', cells)
        self.margin = margin
        if map_decoder is None:
            map_decoder = dict(type='LocationAwareMaps', num_blocks=1)
        self.map_decoder = build_part(
            as_cfg('map_decoder', map_decoder, MAP_DECODERS),
            feat_channels=feat_channels,
            token_dims=token_dims,
            in_stride=in_stride,
            strides=[stride],
            channels=[check_count('channels', channels)],
        )
        self.mlp = nn.Sequential(
            make_linear(channels * cells**2, token_dims),
            nn.ReLU(),
            make_linear(token_dims, token_dims),
        )
        self.norm = nn.LayerNorm(token_dims, eps=1e-6)
        self._reset()

    def _reset(self):
        # As torch initializes linear layers: with a deviation of 0.02 the cells would
        # say next to nothing beside a token for the first epochs.
        for layer in (self.mlp[0], self.mlp[2]):
            nn.Linear.reset_parameters(layer)

    def init_weights(self):
        self._reset()
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
        """Means over the cells of each box, (B, n, cells ** 2, channels)."""
        feature = outputs.image_feature
        if feature.shape[1] != self.feat_channels:
            raise ValueError(
                f'feat_channels={self.feat_channels} of map_evidence is not that of '
                f'the backbone: set it to {feature.shape[1]}'
            )
        extents = outputs.map_extents
        if extents is None:
            extents = map_extent(feature.shape[-2:], boxes)[None]
        (restored,) = self.map_decoder(outputs)
        side = self.cells * _POINTS
        offsets = init_offsets(side**2).to(boxes)
        points = boxes[:, :, None, :2] + offsets * (boxes[:, :, None, 2:] * self.margin)
        with no_autocast(restored):
            read = sample_image(
                restored.permute(0, 2, 3, 1),
                points,
                extents.to(boxes) / self.scale,  # with fractions, as it was restored
            )
        grid = read.unflatten(2, (self.cells, _POINTS, self.cells, _POINTS))
        return grid.mean((3, 5)).flatten(2, 3)
