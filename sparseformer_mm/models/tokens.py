"""The latent tokens a model starts with, and the tuples it gives them back in."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from .ops import at_least_float32
from .rois import inflate_rois, init_rois


class StageRecord(NamedTuple):
    """What one sampling stage looked at.

    Attributes:
        name: 'focusing.0', ..., 'cortex.0' and on, if later blocks look too.
        rois: (B, N, 2D) center and size used by the stage, in units of the image.
        points: (B, N, P, D) sampling points in units of the image, x first.
        tokens: (B, N, d) after the stage's block, without LayerNorm; d is d_f in
            focusing stages, d_c in the cortex.
    """

    name: str
    rois: Tensor
    points: Tensor
    tokens: Tensor


class SparseFormerOutput(NamedTuple):
    """What a SparseFormer saw and made of it.

    That is :meth:`.SparseFormer.forward_intermediates`, and what dense heads get with
    ``out_type='tokens'`` (mmseg's heads find the map under ``in_index=2``). N counts
    all tokens, of all copies along time; a class token, which has no RoI, is not
    among them.

    Attributes:
        tokens: (B, N, d_c) last tokens, each through the final LayerNorm. A linear
            classifier takes them one by one too.
        rois: (B, N, 2D) final RoIs, center and size in units of the image: x, y, w, h,
            or x, y, t, w, h, l for videos.
        image_feature: (B, C, [T,] H', W'), the map that tokens sample from; zero where
            padded.
        map_extents: (B, D), x first: pixels of ``image_feature`` that belong to each
            image; None where nothing is padded.
        block_tokens: (B, N, d_c) each, after the cortex blocks of ``out_indices``,
            through the final LayerNorm.
        block_rois: (B, N, 2D) each, the RoIs after these blocks; all are ``rois``
            unless later blocks look too (``cortex_looks``).
        stages: a :class:`StageRecord` per sampling stage, in order.
        pooled: (B, d_c), the final LayerNorm of the mean over the last tokens, or of
            the class token where there is one: what classification heads take.
    """

    tokens: Tensor
    rois: Tensor
    image_feature: Tensor
    map_extents: Optional[Tensor]
    block_tokens: Tuple[Tensor, ...]
    block_rois: Tuple[Tensor, ...]
    stages: Tuple[StageRecord, ...]
    pooled: Tensor


def leave_outputs(maps: Sequence[Tensor], outputs: SparseFormerOutput) -> None:
    """Leave what maps were restored from on the first of them.

    Models hand their heads nothing but the backbone's maps; one of the heads may have
    to ask the tokens (:func:`outputs_of`). What stages looked at is not kept.
    """
    if maps[0] is not outputs.image_feature:  # it would keep itself alive
        maps[0].restored_from = outputs._replace(stages=())


def outputs_of(inputs):
    """What the maps were restored from that a head gets, or else what it gets."""
    first = inputs[0] if isinstance(inputs, (list, tuple)) and len(inputs) else None
    return getattr(first, 'restored_from', inputs)


def check_tokens(outputs, head: str, setting: str, width: int, hint: str = '') -> None:
    """What a head on tokens gets must be the tokens of a SparseFormer, of its width.

    Args:
        outputs: of the backbone.
        head: the head's name, for the messages.
        setting: its argument that says the width.
        width: d_c that it was built for.
        hint: what else may be the cause of anything but tokens.

    Raises:
        TypeError: for anything but a :class:`SparseFormerOutput`.
        ValueError: for tokens of another width.
    """
    if not isinstance(outputs, SparseFormerOutput):
        raise TypeError(
            f'{head} needs the tokens of a SparseFormer backbone, got '
            f"{type(outputs).__name__}: set out_type='tokens' on the backbone and "
            f'leave out the neck{hint}'
        )
    actual = outputs.tokens.shape[-1]
    if actual != width:
        raise ValueError(
            f'{setting}={width} of the head is not the width of the tokens: set it to '
            f"the backbone's cortex_dims, {actual}"
        )


class Embeddings(BaseModule):
    """Learnable vectors, which start truncated normal with deviation 0.02.

    Args:
        num: of them.
        dims: their width.

    Shape:
        weight (num, dims).
    """

    def __init__(self, num: int, dims: int, init_cfg=None):
        super().__init__(init_cfg)
        self.weight = nn.Parameter(torch.empty(num, dims))
        self._reset()

    def _reset(self):
        nn.init.trunc_normal_(self.weight, std=0.02)

    def init_weights(self):
        self._reset()
        super().init_weights()  # an init_cfg of its own wins


class LatentTokens(BaseModule):
    """Learnable initial embeddings and RoIs of the latent tokens (equation 1).

    Args:
        num_tokens: N of an image.
        dims: embedding width d_f.
        roi_init: see :func:`~.rois.init_rois`.
        spatial_dims: 2, or 3 for tubes.
        inflation: copies of the image's tokens along time (3 dims only).
        learn_rois: False freezes the RoIs.
        shared_embedding: all tokens start with the same embedding, and differ by
            their RoIs alone.

    Shape:
        token_embeddings (n_t * N, d_f), or (1, d_f) if shared; token_rois
        (n_t * N, 2D); copies in time are the outer index.
    """

    def __init__(
        self,
        num_tokens: int,
        dims: int,
        roi_init: str = 'half',
        spatial_dims: int = 2,
        inflation: int = 1,
        learn_rois: bool = True,
        shared_embedding: bool = False,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.roi_init = roi_init
        self.num_tokens = num_tokens
        self.inflation = inflation
        total = num_tokens * inflation
        self.token_embeddings = nn.Parameter(
            torch.empty(1 if shared_embedding else total, dims)
        )
        self.token_rois = nn.Parameter(
            torch.empty(total, 2 * spatial_dims), requires_grad=learn_rois
        )
        self._reset()

    @torch.no_grad()
    def _reset(self):
        embeddings = self.token_embeddings[: self.num_tokens]
        nn.init.trunc_normal_(embeddings)
        if len(embeddings) < len(self.token_embeddings):
            self.token_embeddings.copy_(embeddings.repeat(self.inflation, 1))
        rois = init_rois(self.num_tokens, self.roi_init)
        if self.token_rois.shape[1] == 6:
            rois = inflate_rois(rois, self.inflation)
        self.token_rois.copy_(rois)

    def init_weights(self):
        self._reset()
        super().init_weights()  # an init_cfg of its own wins

    def forward(self, running: Optional[List[int]] = None) -> Tuple[Tensor, Tensor]:
        """Return embeddings (1, N, d_f) and RoIs (1, N, 2D), shared by the batch.

        Args:
            running: which tokens; None is all. (The others get a gradient of zero.)
        """
        rois, embeddings = self.token_rois, self.token_embeddings
        if running is not None:
            index = torch.tensor(running, device=rois.device)
            rois = rois.index_select(0, index)
            if len(embeddings) > 1:
                embeddings = embeddings.index_select(0, index)
        rois = at_least_float32(rois)
        # Copies: a view of a parameter requires grad even under no_grad, where torch's
        # module tracker (of its FLOP counter) then looks for a graph that is not there.
        embeddings = embeddings[None].clone()
        return embeddings.expand(-1, len(rois), -1), rois[None].clone()
