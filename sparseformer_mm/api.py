"""SparseFormer in plain PyTorch: no config, no registry, no runner.

import torch, sparseformer_mm

model = sparseformer_mm.build('tiny', checkpoint='sparseformer_t_imagenet1k.pth')
logits = model.eval()(torch.rand(1, 3, 224, 224))  # (1, 1000)
seen = model.features(torch.rand(1, 3, 224, 224))  # tokens, RoIs, points
"""

import logging
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Tuple, Union

from mmengine.logging import print_log
from torch import Tensor, nn

from .models import SparseFormer, SparseFormerOutput
from .models.arch import ARCHS
from .models.arguments import check_count
from .models.files import load_checkpoint
from .models.finding import CheckpointError, find_weights, split_classifier


class SparseFormerClassifier(nn.Module):
    """A SparseFormer and a linear layer on the mean of its tokens, or its class token.

    Its state dict has the names of mmpretrain's models (``backbone.*``, ``head.fc.*``),
    so files go both ways.

    Args:
        arch: 'tiny', 'bootstrapped-base', ..., or a dict, see :class:`SparseFormer`.
        num_classes: K; 0 for no classifier. Of a CLIP model, the embedding's width.
        head_bias: False leaves out the classifier's bias, as CLIP models do.
        **kwargs: of :class:`SparseFormer`, except ``out_type`` and ``init_cfg``.
            ``drop_path_rate`` is 0 if not given; the paper trains the three with 0.2,
            0.3 and 0.4.

    Raises:
        ValueError, TypeError: for a wrong argument, naming it and what is allowed.
    """

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        num_classes: int = 1000,
        head_bias: bool = True,
        **kwargs,
    ):
        super().__init__()
        cures = dict(
            out_type='call features() for tokens and RoIs, or build a SparseFormer',
            init_cfg='give build() a checkpoint',
        )
        for name in cures.keys() & kwargs.keys():
            raise ValueError(f'{name} is no argument of a classifier: {cures[name]}')
        num_classes = check_count('num_classes', num_classes, least=0)
        self.backbone = SparseFormer(arch, **kwargs)
        self.num_classes = num_classes
        self.head = nn.Sequential()
        if num_classes:
            linear = nn.Linear(self.backbone.embed_dims, num_classes, head_bias)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if head_bias:
                nn.init.zeros_(linear.bias)
            self.head.add_module('fc', linear)

    def forward(
        self, inputs: Tensor, valid_shapes: Optional[Sequence[Tuple[int, int]]] = None
    ) -> Tensor:
        """Classify a batch.

        Args:
            inputs: (B, 3, H, W) of any size, or (B, 3, T, H, W) with
                ``spatial_dims=3``, as RGB from which a mean was taken and which was
                divided by a deviation, as the authors' weights want it:
                (123.675, 116.28, 103.53) and (58.395, 57.12, 57.375); bootstrapped
                from AugReg's ViTs 127.5 and 127.5; from CLIP's (122.771, 116.746,
                104.094) and (68.501, 66.632, 70.323).
            valid_shapes: (height, width) of each image in a padded batch.

        Returns:
            Tensor: (B, K) logits, or (B, d_c) if there is no classifier.
        """
        return self.head(self.backbone(inputs, valid_shapes=valid_shapes)[-1])

    def features(
        self, inputs: Tensor, valid_shapes: Optional[Sequence[Tuple[int, int]]] = None
    ) -> SparseFormerOutput:
        """What the model looked at and made of it; arguments as of :meth:`forward`.

        ``head(seen.pooled)`` are the logits, ``head(seen.tokens)`` those of each token.

        Example:
            >>> import torch
            >>> from sparseformer_mm import build
            >>> model = build('tiny', num_tokens=9, cortex_depth=1).eval()
            >>> seen = model.features(torch.rand(1, 3, 64, 96))
            >>> [stage.name for stage in seen.stages]
            ['focusing.0', 'focusing.1', 'focusing.2', 'focusing.3', 'cortex.0']
        """
        return self.backbone.forward_intermediates(inputs, valid_shapes)


def build(
    arch: Union[str, dict] = 'tiny',
    num_classes: Optional[int] = None,
    checkpoint: Union[str, Path, Mapping, None] = None,
    **kwargs,
) -> SparseFormerClassifier:
    """Make a model that takes images and returns logits.

    The log says what was loaded from the checkpoint. The backbone's part has to be
    complete, except for what another number of tokens or points re-initialises
    (``allow_partial_load=True`` loads less on purpose).

    Args:
        arch: 'tiny', 'bootstrapped-base', ..., or a dict, see :class:`SparseFormer`.
        num_classes: K. None takes the classifier of the checkpoint as it is, which
            may be CLIP's projection (1000 classes without a checkpoint); a number
            which that one does not have, or a checkpoint without one, gives a new
            classifier. 0: none.
        checkpoint: a file, a URL or what is in one: the authors' files in any
            layout, or those of a training with mmpretrain, mmaction2, mmdet or
            mmseg. Reading a file can run code in it: only those you trust.
        **kwargs: of :class:`SparseFormer`, e.g. ``num_tokens``, ``drop_path_rate``,
            or ``spatial_dims=3, token_inflation=8`` for videos (an image model's
            checkpoint is inflated).

    Raises:
        ValueError: for an unknown name, or a checkpoint that is no SparseFormer or
            has no classifier where ``num_classes`` is not given.
        RuntimeError: for a checkpoint that is not of this model, listing missing,
            mismatched and unexpected keys.

    Example:
        >>> import torch
        >>> from sparseformer_mm import build
        >>> model = build('tiny', num_classes=10, cortex_depth=1)
        >>> tuple(model(torch.rand(2, 3, 64, 96)).shape)
        (2, 10)
    """
    if isinstance(arch, str) and arch not in ARCHS:
        raise ValueError(
            f'there is no model {arch!r}; build() knows '
            f'{", ".join(ARCHS)}, or a dict with sizes. (What a '
            'config describes is built by its library, e.g. '
            'mmpretrain.get_model(sparseformer_mm.config_path(NAME)).)'
        )
    if checkpoint is None:
        return SparseFormerClassifier(
            arch, 1000 if num_classes is None else num_classes, **kwargs
        )
    if not isinstance(checkpoint, Mapping):
        checkpoint = load_checkpoint(str(checkpoint))
    weights, classifier = _split(checkpoint)
    if num_classes is None:
        if not classifier:
            raise ValueError(
                'the checkpoint has no classifier; give num_classes for a new one, or '
                'num_classes=0 for a model without'
            )
        num_classes = len(classifier['weight'])
    if classifier and num_classes == len(classifier['weight']):
        kwargs.setdefault('head_bias', 'bias' in classifier)
    model = SparseFormerClassifier(arch, num_classes, **kwargs)
    model.backbone.load_state_dict(weights)
    if num_classes:
        _load_classifier(model.head.fc, classifier)
    return model


def _split(checkpoint: Mapping) -> Tuple[dict, Dict[str, Tensor]]:
    """A file's backbone, as it is loaded; 'weight' and 'bias' of its classifier."""
    weights = find_weights(checkpoint)
    if not weights.layout:
        raise CheckpointError(
            'the checkpoint holds no SparseFormer in a known layout; its keys begin '
            f'with: {", ".join(list(map(str, weights.state))[:5])}'
        )
    backbone, classifier = split_classifier(weights)
    if weights.wrapper:
        backbone = {weights.wrapper: backbone}  # the backbone's report names it
    return backbone, classifier


def _load_classifier(layer: nn.Linear, state: Dict[str, Tensor]):
    num_classes = len(state['weight']) if state else 'none'
    if num_classes == layer.out_features:
        layer.load_state_dict(state)
        message, level = f'classifier of {num_classes} classes loaded', logging.INFO
    else:
        message = (
            f'classifier re-initialised: {layer.out_features} classes here, '
            f'{num_classes} in the checkpoint'
        )
        level = logging.WARNING
    print_log(f'SparseFormer: {message}', logger='current', level=level)
