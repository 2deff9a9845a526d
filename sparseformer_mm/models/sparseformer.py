"""The SparseFormer backbone (paper, section 3; Table 1)."""

import contextlib
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS, build_part
from .arch import PLAIN, resolve_arch
from .arguments import (
    check_choice,
    check_count,
    check_dims,
    check_drop_path,
    check_input,
    check_pretrained,
    check_stages,
)
from .assembly import BlockMaker, make_map_decoder
from .blocks import Block
from .elastic import ElasticTokens
from .gradient_limit import TellsLossScale
from .loading import load_into_backbone
from .ops import batch_norms_keep_nothing, is_tracing, make_linear, project
from .padding import make_map, noted_shapes
from .sampling import lay_out
from .tokens import (
    Embeddings,
    LatentTokens,
    SparseFormerOutput,
    StageRecord,
    leave_outputs,
)


@MMENGINE_MODELS.register_module()
@MODELS.register_module()
class SparseFormer(ElasticTokens, TellsLossScale, BaseModule):
    """SparseFormer for images (D = 2) and videos (D = 3).

    "SparseFormer: Sparse Visual Recognition via Limited Latent Tokens"
    (https://arxiv.org/abs/2304.03768). A stem makes a feature map; N latent tokens,
    each with a region of interest, sample P points of it per stage: in
    ``focusing_repeats`` runs of one shared block, and once more in the first of
    ``cortex_depth`` blocks of their own, which else run on tokens alone. The same class
    is the models of "Bootstrapping SparseFormers from Vision Foundation Models"
    (https://arxiv.org/abs/2312.01987), and whatever else its settings combine.

    Args:
        arch: 'tiny', 'small', 'base' (Table 1), 'nano' for small data sets on a CPU;
            'bootstrapped-base', 'bootstrapped-large', 'bootstrapped-clip-base',
            'bootstrapped-clip-large'; or a dict with any of the keys of
            :data:`~.arch.ARCHS`; missing keys come from 'tiny'.
        spatial_dims: 2 for (B, C, H, W) input, 3 for (B, C, T, H, W).
        token_inflation: n_t, copies of the ``num_tokens`` tokens along time (videos).
        time_offsets: where the points of a tube start in time. 'spread': over its
            whole length. 'middle': all at its middle instant, the authors' form, in
            which their first gradients are about 1e6 times as large (see
            :func:`~.rois.init_offsets`). An image checkpoint gets them too.
        in_channels: of the input.
        fixed_rois: RoIs and sampling points stay where they are initialised and do
            not learn (Table 3b, 'nil'; the paper's row has ``focusing_repeats=0``).
        drop_path_rate: of the last block; the rate rises linearly from 0 over the
            blocks in the order they run, repeats included. (The authors' recipe
            names the last rate only.)
        out_type: 'pooled', 'featmap', 'tokens' or 'maps', see Returns of
            :meth:`forward`.
        map_strides: of 'maps' (images only), in pixels of the input: each a multiple of
            the one before, the first of the stem's stride.
        map_channels: of 'maps', one number or one per stride. None is 256.
        map_decoder: what restores 'maps' from tokens: 'location_aware'
            (:class:`.LocationAwareMaps`), or dict(type=...).
        out_indices: cortex blocks (negative ones count from the last) whose tokens
            and RoIs 'tokens' gives as ``block_tokens`` and ``block_rois``, for heads
            with auxiliary losses.
        frozen_stages: -1 trains everything; 0 freezes the stem, 1 also the initial
            tokens, the focusing block and the transition, 1 + k also the first k
            cortex blocks (the class token with the first).
        with_cp: recompute blocks in the backward pass to save memory.
        norm_eval: keep batch norms of a custom stem and of what restores maps in
            evaluation mode (the built-in stems have none; a decoder's, untrained, then
            never learn their statistics).
        allow_partial_load: load a checkpoint that lacks tensors of this model with
            a warning instead of an error.
        train_tokens: each batch in training runs with a number of tokens drawn from
            these, e.g. ``range(4, 17)``; None: with all. See :mod:`~.elastic`.
        test_tokens: how many run in evaluation; None: all. Can be set at any time.
        init_cfg: as in mmengine, e.g. ``dict(type='Pretrained', checkpoint=...)``.
            A ``backbone.`` prefix and the authors' names are recognised.
        **settings: each overrides a key of ``arch``, whose meaning is on the page of
            :mod:`~.arch`. Sizes: num_tokens, num_points, focusing_dims,
            focusing_repeats, cortex_dims, cortex_depth, num_heads or head_dims,
            feat_channels, ffn_ratio. Parts: stem, decoding, sampling,
            limit_coord_grad, roi_adjust, position. How they are put together:
            roi_init, shared_embedding, focusing_steps, cortex_steps, cortex_looks,
            stage_embeddings, transition_norm, class_token, cortex_activation,
            norm_eps.

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
        spatial_dims: int = 2,
        token_inflation: int = 1,
        time_offsets: str = 'spread',
        in_channels: int = 3,
        fixed_rois: bool = False,
        drop_path_rate: float = 0.0,
        out_type: str = 'pooled',
        map_strides: Sequence[int] = (4, 8, 16, 32),
        map_channels: Union[int, Sequence[int], None] = None,
        map_decoder: Union[str, dict] = 'location_aware',
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_eval: bool = False,
        allow_partial_load: bool = False,
        train_tokens: Optional[Sequence[int]] = None,
        test_tokens: Optional[int] = None,
        init_cfg: Union[dict, List[dict], None] = None,
        **settings,
    ):
        super().__init__(init_cfg)
        check_pretrained(settings.pop('pretrained', None))
        arch = resolve_arch(arch, **settings)
        depth, repeats = arch['cortex_depth'], arch['focusing_repeats']
        looks = arch['cortex_looks']
        dims, eps = arch['cortex_dims'], arch['norm_eps']
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
        self.focusing_repeats = repeats
        self.embed_dims = dims

        self.stem = build_part(
            arch['stem'],
            in_channels=check_count('in_channels', in_channels),
            out_channels=arch['feat_channels'],
        )
        self.latent = LatentTokens(
            arch['num_tokens'],
            arch['focusing_dims'],
            arch['roi_init'],
            spatial_dims,
            token_inflation,
            learn_rois=not fixed_rois,
            shared_embedding=arch['shared_embedding'],
        )
        self.train_tokens, self.test_tokens = train_tokens, test_tokens
        make_block = BlockMaker(
            arch, self.stem.out_channels, spatial_dims, fixed_rois, time_offsets
        )
        self.focusing = self.stage_embeddings = self.class_token = None
        if repeats:
            self.focusing = make_block(arch['focusing_dims'], arch['focusing_steps'])
        if repeats and arch['stage_embeddings']:
            self.stage_embeddings = Embeddings(repeats, arch['focusing_dims'])
        self.transition = nn.Sequential(make_linear(arch['focusing_dims'], dims))
        if arch['transition_norm']:
            self.transition.append(nn.LayerNorm(dims, eps=eps))
        self.cortex = ModuleList(
            make_block(dims, steps, arch['cortex_activation'])
            for steps in [arch['cortex_steps']] * looks + [PLAIN] * (depth - looks)
        )
        if arch['class_token']:
            self.class_token = Embeddings(1, dims)
        self.norm = nn.LayerNorm(dims, eps=eps)
        maps = map_decoder, map_strides, map_channels
        self.map_decoder = make_map_decoder(
            out_type, *maps, self.stem, dims, spatial_dims
        )
        runs = range(repeats + depth)
        self.drop_path_rates = [drop_path_rate * i / max(1, runs[-1]) for i in runs]
        # False makes a loading that re-initialises tokens or points an error: right
        # where the checkpoint must be this model's (testing, resuming).
        self.allow_reinit = True
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
            ``(pooled,)`` with pooled (B, d_c), the LayerNorm of the mean over tokens
            or of the class token, for ``out_type='pooled'``; the same as a map of one
            pixel for 'featmap' (configs with a pooling neck or head), as ``(map,)``
            with map (B, d_c, 1, 1) for images, and for videos as the tensor
            (B, d_c, 1, 1, 1) itself, which is what mmaction2's heads take;
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
                maps = self._checkpoint(self.map_decoder, outputs)
            else:
                maps = self.map_decoder(outputs)
            if not is_tracing():  # compilers do not let such things out
                leave_outputs(maps, outputs)
            return maps
        pooled = outputs.pooled
        if self.out_type == 'featmap':
            pooled = pooled[(...,) + (None,) * self.spatial_dims]
            if self.spatial_dims == 3:
                return pooled
        return (pooled,)

    @staticmethod
    def _checkpoint(module: nn.Module, *args):
        """``module(*args)``, made again in the backward pass instead of kept."""
        contexts = {}
        if not is_tracing():  # compilers take no contexts
            contexts['context_fn'] = lambda: (
                contextlib.nullcontext(),
                batch_norms_keep_nothing(module),
            )
        return checkpoint(module, *args, use_reentrant=False, **contexts)

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
        self._check_loss_scale(inputs.device.type)
        if valid_shapes is None:
            valid_shapes = noted_shapes(inputs)
        feature, extents = make_map(self.stem, inputs, valid_shapes)
        feature = lay_out(feature)
        batch = inputs.shape[0]
        rates = iter(self.drop_path_rates)
        stages, block_tokens, block_rois = [], [], []

        def run(block: Block, name: str, tokens: Tensor, rois: Tensor):
            args = tokens, rois, feature, next(rates), extents
            if self.with_cp and torch.is_grad_enabled():
                tokens, rois, looked = self._checkpoint(block, *args)
            else:
                tokens, rois, looked = block(*args)
            if looked is not None:
                looked = [x.expand(batch, *x.shape[1:]) for x in looked]
                stages.append(StageRecord(name, *looked, tokens))
            return tokens, rois

        # All images start with the same tokens, so the first stage (which has drop
        # path rate 0) works on a batch of one until features come in.
        tokens, rois = self.latent(self._running_tokens())
        for i in range(self.focusing_repeats):
            if self.stage_embeddings is not None:
                tokens = tokens + self.stage_embeddings.weight[i]
            tokens, rois = run(self.focusing, f'focusing.{i}', tokens, rois)
        for layer in self.transition:
            tokens = project(tokens, layer)
        for i, block in enumerate(self.cortex):
            tokens, rois = run(block, f'cortex.{i}', tokens, rois)
            joined = i > 0 and self.class_token is not None
            block_tokens.append(tokens[:, 1:] if joined else tokens)
            block_rois.append(rois.expand(batch, -1, -1))
            if i == 0 and self.class_token is not None:
                first = self.class_token.weight.to(tokens.dtype).expand(batch, 1, -1)
                tokens = torch.cat([first, tokens], 1)

        last = len(self.cortex) - 1
        normed = {i: self.norm(block_tokens[i]) for i in {*self.out_indices, last}}
        pooled = tokens.mean(1) if self.class_token is None else tokens[:, 0]
        return SparseFormerOutput(
            tokens=normed[last],
            rois=block_rois[-1],
            image_feature=feature.movedim(feature.dim() - 1, 1),  # ONNX knows no -1
            map_extents=extents,
            block_tokens=tuple(normed[i] for i in self.out_indices),
            block_rois=tuple(block_rois[i] for i in self.out_indices),
            stages=tuple(stages),
            pooled=self.norm(pooled),
        )

    def _freeze(self):
        stages = [
            [self.stem],
            [self.latent, self.stage_embeddings, self.focusing, self.transition],
            [self.cortex[0], self.class_token],
            *([block] for block in self.cortex[1:]),
        ]
        for module in sum(stages[: self.frozen_stages + 1], []):
            if module is not None:
                module.eval()
                module.requires_grad_(False)

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

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay in mmpretrain.

        The stem and the initial tokens have depth 0, the focusing block with its stage
        embeddings and the transition 1, cortex block i 2 + i, the class token 2.

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
        depths = dict(stem=0, latent=0, class_token=2)
        depths.update(dict.fromkeys(('focusing', 'stage_embeddings', 'transition'), 1))
        return depths.get(first, num_layers - 1), num_layers

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # Every way of loading comes through here: Pretrained, load_from, resume and
        # load_state_dict. A method survives deepcopy and pickling, a hook does not.
        load_into_backbone(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
