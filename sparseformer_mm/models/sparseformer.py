"""The SparseFormer backbone (paper, section 3; Table 1)."""

import warnings
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS, build_part
from .arch import resolve_arch
from .arguments import (
    as_cfg,
    check_choice,
    check_count,
    check_dims,
    check_drop_path,
    check_input,
    check_maps,
    check_stages,
)
from .blocks import FFN, Attention, Block, RoIAdjust
from .loading import load_into_backbone
from .ops import autocast_dtype, is_tracing, make_linear, project
from .padding import make_map, noted_shapes
from .sampling import SparseSampling
from .tokens import LatentTokens, SparseFormerOutput, StageRecord

STEMS = dict(early_conv='EarlyConv', patch_embed='PatchEmbed', pixel='RawPixels')
DECODINGS = dict(
    adaptive='AdaptiveMixing', static='StaticMixing', linear='LinearDecoding'
)
MAP_DECODERS = dict(location_aware='LocationAwareMaps')


@MMENGINE_MODELS.register_module()
@MODELS.register_module()
class SparseFormer(BaseModule):
    """SparseFormer for images (D = 2) and videos (D = 3).

    "SparseFormer: Sparse Visual Recognition via Limited Latent Tokens"
    (https://arxiv.org/abs/2304.03768). A stem makes a feature map; N latent tokens,
    each with a region of interest, sample P points of it per stage: in
    ``focusing_repeats`` runs of one shared block, and once more in the first of
    ``cortex_depth`` blocks of their own, which run on tokens alone.

    Args:
        arch: 'tiny', 'small', 'base' (Table 1), 'nano' for small data sets on a CPU,
            or a dict with any of the keys of :data:`~.arch.ARCHS`; missing keys come
            from 'tiny'.
        num_tokens, num_points, focusing_dims, focusing_repeats, cortex_dims,
            cortex_depth, num_heads, feat_channels, ffn_ratio: each overrides the
            value of ``arch``. Any ``num_tokens >= 1`` and ``num_points >= 1`` go,
            squares or not (see :func:`~.rois.split_evenly`). The number of
            heads must divide both widths. ``focusing_repeats=0`` leaves only the
            sampling in the cortex.
        spatial_dims: 2 for (B, C, H, W) input, 3 for (B, C, T, H, W).
        token_inflation: n_t, copies of the ``num_tokens`` tokens along time (videos).
        time_offsets: where the points of a tube start in time. 'spread': over its
            whole length. 'middle': all at its middle instant, the authors' form, in
            which their first gradients are about 1e6 times as large (see
            :func:`~.rois.init_offsets`). An image checkpoint gets them too.
        in_channels: of the input.
        stem: 'early_conv', 'patch_embed' (ViT/8), 'pixel', or dict(type=...).
        decoding: 'adaptive', 'static', 'linear', or dict(type=...).
        roi_init: 'half', 'cell', 'whole' or 'random' (Table 9, appendix A.1).
        fixed_rois: RoIs and sampling points stay where they are initialised and do
            not learn (Table 3b, 'nil'; the paper's row has ``focusing_repeats=0``).
        drop_path_rate: of the last block; the rate rises linearly from 0 over the
            blocks in the order they run, repeats included. (The authors' recipe
            names the last rate only.)
        limit_coord_grad: clamp the gradient of every sampling coordinate to
            +-1 / (map height), as the authors do.
        out_type: 'pooled', 'featmap', 'tokens' or 'maps', see Returns of
            :meth:`forward`.
        map_strides: of 'maps' (images only), in pixels of the input: rising, each a
            multiple of the one before, the first of the stem's stride.
        map_channels: of 'maps', one number or one per stride. None is 256.
        map_decoder: what restores 'maps' from tokens: 'location_aware'
            (:class:`.LocationAwareMaps`), or dict(type=...).
        out_indices: cortex blocks (negative ones count from the last) whose tokens
            'tokens' gives as ``block_tokens``, for heads with auxiliary losses.
        frozen_stages: -1 trains everything; 0 freezes the stem, 1 also the initial
            tokens, the focusing block and the transition, 1 + k also the first k
            cortex blocks.
        with_cp: recompute blocks in the backward pass to save memory.
        norm_eval: keep batch norms of a custom stem in evaluation mode (the built-in
            stems have none).
        allow_partial_load: load a checkpoint that lacks tensors of this model with
            a warning instead of an error.
        init_cfg: as in mmengine, e.g. ``dict(type='Pretrained', checkpoint=...)``.
            A ``backbone.`` prefix and the authors' names are recognised.

    Raises:
        ValueError, TypeError: for a wrong argument, naming it and what is allowed.

    Example:
        >>> import torch
        >>> from sparseformer_mm import SparseFormer
        >>> model = SparseFormer('tiny', num_tokens=9, cortex_depth=1).eval()
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 64, 96))]
        [(1, 512)]
    """

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        num_tokens: Optional[int] = None,
        num_points: Optional[int] = None,
        focusing_dims: Optional[int] = None,
        focusing_repeats: Optional[int] = None,
        cortex_dims: Optional[int] = None,
        cortex_depth: Optional[int] = None,
        num_heads: Optional[int] = None,
        feat_channels: Optional[int] = None,
        ffn_ratio: Optional[float] = None,
        spatial_dims: int = 2,
        token_inflation: int = 1,
        time_offsets: str = 'spread',
        in_channels: int = 3,
        stem: Union[str, dict] = 'early_conv',
        decoding: Union[str, dict] = 'adaptive',
        roi_init: str = 'half',
        fixed_rois: bool = False,
        drop_path_rate: float = 0.0,
        limit_coord_grad: bool = True,
        out_type: str = 'pooled',
        map_strides: Sequence[int] = (4, 8, 16, 32),
        map_channels: Union[int, Sequence[int], None] = None,
        map_decoder: Union[str, dict] = 'location_aware',
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_eval: bool = False,
        allow_partial_load: bool = False,
        init_cfg: Union[dict, List[dict], None] = None,
    ):
        super().__init__(init_cfg)
        arch = resolve_arch(
            arch,
            num_tokens=num_tokens,
            num_points=num_points,
            focusing_dims=focusing_dims,
            focusing_repeats=focusing_repeats,
            cortex_dims=cortex_dims,
            cortex_depth=cortex_depth,
            num_heads=num_heads,
            feat_channels=feat_channels,
            ffn_ratio=ffn_ratio,
        )
        depth = arch['cortex_depth']
        check_choice('out_type', out_type, ('pooled', 'featmap', 'tokens', 'maps'))
        check_dims(spatial_dims, token_inflation)
        check_drop_path(drop_path_rate)
        check_stages(depth, frozen_stages, out_indices)
        self.out_indices = [i % depth for i in out_indices]
        self.arch = arch
        self.spatial_dims = spatial_dims
        self.token_inflation = token_inflation
        self.time_offsets = time_offsets
        self.out_type = out_type
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.norm_eval = norm_eval
        self.allow_partial_load = allow_partial_load
        self.focusing_repeats = arch['focusing_repeats']
        self.embed_dims = arch['cortex_dims']

        self.stem = build_part(
            as_cfg('stem', stem, STEMS),
            in_channels=check_count('in_channels', in_channels),
            out_channels=arch['feat_channels'],
        )
        self.latent = LatentTokens(
            arch['num_tokens'],
            arch['focusing_dims'],
            roi_init,
            spatial_dims,
            token_inflation,
            learn_rois=not fixed_rois,
        )
        decoding = as_cfg('decoding', decoding, DECODINGS)

        def make_block(dims: int, samples: bool) -> Block:
            # Parts are made, and draw their weights, in the order in which they run.
            attn, sampling = Attention(dims, arch['num_heads']), {}
            if samples:
                sampling = dict(
                    roi_adjust=None if fixed_rois else RoIAdjust(dims, spatial_dims),
                    sampler=SparseSampling(
                        dims,
                        arch['num_points'],
                        spatial_dims,
                        learnable=not fixed_rois,
                        limit_grad=limit_coord_grad,
                        time_offsets=time_offsets,
                    ),
                    decoder=build_part(
                        decoding,
                        dims=dims,
                        feat_channels=self.stem.out_channels,
                        num_points=arch['num_points'],
                    ),
                )
            return Block(dims, attn, FFN(dims, arch['ffn_ratio']), **sampling)

        self.focusing = (
            make_block(arch['focusing_dims'], True) if self.focusing_repeats else None
        )
        self.transition = nn.Sequential(
            make_linear(arch['focusing_dims'], arch['cortex_dims']),
            nn.LayerNorm(arch['cortex_dims'], eps=1e-6),
        )
        self.cortex = ModuleList(
            make_block(arch['cortex_dims'], samples=i == 0)
            for i in range(arch['cortex_depth'])
        )
        self.norm = nn.LayerNorm(arch['cortex_dims'], eps=1e-6)
        self.map_decoder = None
        if out_type == 'maps':
            self.map_decoder = build_part(
                as_cfg('map_decoder', map_decoder, MAP_DECODERS),
                feat_channels=self.stem.out_channels,
                token_dims=arch['cortex_dims'],
                in_stride=self.stem.stride,
                **check_maps(map_strides, map_channels, self.stem.stride, spatial_dims),
            )
        elif map_channels is not None:
            raise ValueError(
                f'map_channels={map_channels!r} belongs to out_type={"maps"!r}, not to '
                f'out_type={out_type!r}: set the former, or leave out map_channels'
            )

        num_runs = self.focusing_repeats + arch['cortex_depth']
        self.drop_path_rates = [
            drop_path_rate * i / max(1, num_runs - 1) for i in range(num_runs)
        ]
        # False makes a loading that re-initialises tokens or points an error: right
        # where the checkpoint must be this model's (testing, resuming).
        self.allow_reinit = True
        self._warned = False
        self._freeze()

    def forward(
        self,
        inputs: Tensor,
        valid_shapes: Optional[Sequence[Tuple[int, int]]] = None,
    ) -> Union[Tuple[Tensor], Tensor, SparseFormerOutput]:
        """Recognise a batch.

        Args:
            inputs: (B, C_in, H, W), or (B, C_in, T, H, W) with ``spatial_dims=3``;
                any size from 1 x 1 pixel up (the paper's is 224 x 224).
            valid_shapes: (height, width) in pixels of each image, where images were
                padded to the right and below to a common size. RoIs and points are in
                units of the image, and nothing depends on the padding or what it
                holds. None: those that a :class:`~.padding.NotesSizes` left on
                ``inputs``; else there is no padding.

        Returns:
            ``(pooled,)`` with pooled (B, d_c), the LayerNorm of the mean over tokens,
            for ``out_type='pooled'``; the same as a map of one pixel for 'featmap'
            (configs with a pooling neck or head), as ``(map,)`` with map
            (B, d_c, 1, 1) for images, and for videos as the tensor (B, d_c, 1, 1, 1)
            itself, which is what mmaction2's heads take;
            a :class:`SparseFormerOutput` for 'tokens';
            for 'maps' a tuple of maps (B, C_l, ceil(H / s_l), ceil(W / s_l)), one for
            each s_l of ``map_strides``, as the backbones of mmdet and mmseg give them,
            zero where padded.

        Raises:
            ValueError: for an input of another rank or number of channels or without
                pixels, or ``valid_shapes`` that do not fit it.
            TypeError: for an input that is no tensor of floating-point numbers.
        """
        outputs = self.forward_intermediates(inputs, valid_shapes)
        if self.out_type == 'tokens':
            return outputs
        if self.out_type == 'maps':
            if self.with_cp and torch.is_grad_enabled():
                return checkpoint(self.map_decoder, outputs, use_reentrant=False)
            return self.map_decoder(outputs)
        pooled = outputs.pooled
        if self.out_type == 'featmap':
            pooled = pooled[(...,) + (None,) * self.spatial_dims]
            if self.spatial_dims == 3:
                return pooled
        return (pooled,)

    def forward_intermediates(
        self,
        inputs: Tensor,
        valid_shapes: Optional[Sequence[Tuple[int, int]]] = None,
    ) -> SparseFormerOutput:
        """Recognise a batch, and tell where every stage looked.

        This is what :meth:`forward` runs, whatever the ``out_type``; arguments and
        errors are the same.

        Example:
            >>> import torch
            >>> from sparseformer_mm import SparseFormer
            >>> model = SparseFormer('tiny', num_tokens=9, cortex_depth=1).eval()
            >>> seen = model.forward_intermediates(torch.rand(1, 3, 64, 96))
            >>> [tuple(x.shape) for x in (seen.tokens, seen.rois, seen.image_feature)]
            [(1, 9, 512), (1, 9, 4), (1, 96, 16, 24)]
            >>> [stage.name for stage in seen.stages]
            ['focusing.0', 'focusing.1', 'focusing.2', 'focusing.3', 'cortex.0']
            >>> tuple(seen.stages[0].points.shape)
            (1, 9, 36, 2)
        """
        check_input(inputs, self.spatial_dims, self.stem.in_channels)
        if self.training and not is_tracing():
            self._check_loss_scale(inputs.device.type)
        if valid_shapes is None:
            valid_shapes = noted_shapes(inputs)
        feature, extents = make_map(self.stem, inputs, valid_shapes)
        batch = inputs.shape[0]
        rates = iter(self.drop_path_rates)
        stages, block_tokens = [], []

        def run(block: Block, name: str, tokens: Tensor, rois: Tensor):
            args = tokens, rois, feature, next(rates), extents
            if self.with_cp and torch.is_grad_enabled():
                tokens, rois, points = checkpoint(block, *args, use_reentrant=False)
            else:
                tokens, rois, points = block(*args)
            if points is not None:
                everywhere = (
                    rois.expand(batch, -1, -1),
                    points.expand(batch, -1, -1, -1),
                )
                stages.append(StageRecord(name, *everywhere, tokens))
            return tokens, rois

        # All images start with the same tokens, so the first stage (which has drop
        # path rate 0) works on a batch of one until features come in.
        tokens, rois = self.latent()
        for i in range(self.focusing_repeats):
            tokens, rois = run(self.focusing, f'focusing.{i}', tokens, rois)
        tokens = self.transition[1](project(tokens, self.transition[0]))
        for i, block in enumerate(self.cortex):
            tokens, rois = run(block, f'cortex.{i}', tokens, rois)
            block_tokens.append(tokens)

        last = len(self.cortex) - 1
        normed = {i: self.norm(block_tokens[i]) for i in {*self.out_indices, last}}
        return SparseFormerOutput(
            tokens=normed[last],
            rois=rois.expand(batch, -1, -1),
            image_feature=feature.movedim(feature.dim() - 1, 1),  # ONNX knows no -1
            map_extents=extents,
            block_tokens=tuple(normed[i] for i in self.out_indices),
            stages=tuple(stages),
            pooled=self.norm(tokens.mean(1)),
        )

    def _freeze(self):
        frozen = []
        if self.frozen_stages >= 0:
            frozen.append(self.stem)
        if self.frozen_stages >= 1:
            frozen += [self.latent, self.transition]
            frozen += [self.focusing] if self.focusing is not None else []
            frozen += self.cortex[: self.frozen_stages - 1]
        for module in frozen:
            module.eval()
            for param in module.parameters():
                param.requires_grad = False

    def train(self, mode: bool = True):
        """Switch mode; frozen stages (and batch norms, with norm_eval) stay put."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def set_loss_scale(self, scale: float):
        """Tell the gradient limit of sampling coordinates the current loss scale.

        :class:`sparseformer_mm.LossScaleHook` does so before every iteration.
        """
        for sampler in self._samplers():
            sampler.set_loss_scale(scale)

    def _samplers(self) -> List[SparseSampling]:
        return [m for m in self.modules() if isinstance(m, SparseSampling)]

    def _check_loss_scale(self, device_type: str):
        if self._warned or autocast_dtype(device_type) is not torch.float16:
            return
        if not all(sampler.knows_loss_scale for sampler in self._samplers()):
            self._warned = True
            warnings.warn(
                'SparseFormer trains under float16 autocast, but nothing tells it the '
                'loss scale: the limit on coordinate gradients would be off by that '
                "factor. Add dict(type='sparseformer_mm.LossScaleHook') to "
                'custom_hooks, or call set_loss_scale() if you scale the loss '
                'yourself. (bfloat16 needs neither.)',
                stacklevel=3,
            )

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay in mmpretrain.

        The stem and the initial tokens have depth 0, the focusing block and the
        transition 1, cortex block i has 2 + i.

        Args:
            param_name: full name, starting with ``prefix``.
            prefix: of the backbone, e.g. 'backbone.'.

        Returns:
            tuple: the parameter's depth, and the number of depths of a model with a
            head after the backbone (cortex_depth + 3).
        """
        num_layers = len(self.cortex) + 3
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        first, *rest = param_name[len(prefix) :].split('.')
        if first == 'cortex':
            return 2 + int(rest[0]), num_layers
        depth = dict(stem=0, latent=0, focusing=1, transition=1)
        return depth.get(first, num_layers - 1), num_layers

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # Every way of loading comes through here: Pretrained, load_from, resume and
        # load_state_dict. A method survives deepcopy and pickling, a hook does not.
        load_into_backbone(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
