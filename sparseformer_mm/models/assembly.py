"""Blocks, and what restores maps, made of the parts that a model's settings name."""

from typing import Optional, Sequence, Union

import torch.nn as nn

from ..registry import build_part
from .arguments import as_cfg, check_maps
from .blocks import FFN, Attention, Block


class BlockMaker:
    """Makes the blocks of one model.

    Args:
        settings: see :func:`~.arch.resolve_arch`.
        feat_channels: C of the stem.
        spatial_dims: D, 2 or 3.
        fixed_rois: RoIs and points do not move: no block adjusts.
        time_offsets: see :func:`~.rois.init_offsets`.
    """

    def __init__(
        self,
        settings: dict,
        feat_channels: int,
        spatial_dims: int,
        fixed_rois: bool,
        time_offsets: str,
    ):
        self.settings = settings
        self.feat_channels = feat_channels
        self.spatial_dims = spatial_dims
        self.fixed_rois = fixed_rois
        self.time_offsets = time_offsets

    def __call__(
        self, dims: int, steps: Sequence[str], activation: str = 'gelu'
    ) -> Block:
        """Make a block of width ``dims`` that takes ``steps``."""
        make = dict(
            attention=lambda: dict(attn=self._attention(dims)),
            adjust=lambda: dict(roi_adjust=self._part('roi_adjust', dims)),
            look=lambda: dict(sampler=self._sampler(dims), decoder=self._decoder(dims)),
            position=lambda: dict(position=self._part('position', dims)),
            ffn=lambda: dict(ffn=FFN(dims, self.settings['ffn_ratio'], activation)),
        )
        if self.fixed_rois:
            steps = [step for step in steps if step != 'adjust']
        parts = {}
        # Parts are made, and draw their weights, in the order in which they run.
        for step in steps:
            parts.update(make[step]())
        return Block(dims, steps, self.settings['norm_eps'], **parts)

    def _attention(self, dims: int) -> Attention:
        num_heads = self.settings['num_heads']
        return Attention(dims, num_heads or dims // self.settings['head_dims'])

    def _sampler(self, dims: int) -> nn.Module:
        return self._part(
            'sampling',
            dims,
            num_points=self.settings['num_points'],
            learnable=not self.fixed_rois,
            limit_grad=self.settings['limit_coord_grad'],
            time_offsets=self.time_offsets,
        )

    def _decoder(self, dims: int) -> nn.Module:
        return build_part(
            self.settings['decoding'],
            dims=dims,
            feat_channels=self.feat_channels,
            num_points=self.settings['num_points'],
        )

    def _part(self, name: str, dims: int, **kwargs) -> nn.Module:
        return build_part(
            self.settings[name], dims=dims, spatial_dims=self.spatial_dims, **kwargs
        )


MAP_DECODERS = dict(location_aware='LocationAwareMaps')


def make_map_decoder(
    out_type: str,
    decoder: Union[str, dict],
    strides: Sequence[int],
    channels: Union[int, Sequence[int], None],
    stem: nn.Module,
    token_dims: int,
    spatial_dims: int,
) -> Optional[nn.Module]:
    """What gives the maps of a model with ``out_type='maps'``; None for other types.

    ``decoder``, ``strides`` and ``channels`` are ``map_*`` of :class:`.SparseFormer`.

    Raises:
        ValueError: for maps that cannot be had, or are described but not asked for.
    """
    if out_type == 'maps':
        return build_part(
            as_cfg('map_decoder', decoder, MAP_DECODERS),
            feat_channels=stem.out_channels,
            token_dims=token_dims,
            in_stride=stem.stride,
            **check_maps(strides, channels, stem.stride, spatial_dims),
        )
    if channels is not None:
        raise ValueError(
            f'map_channels={channels!r} belongs to out_type={"maps"!r}, not to '
            f'out_type={out_type!r}: set the former, or leave out map_channels'
        )
    return None
