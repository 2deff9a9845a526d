"""Making a SparseFormer out of a trained vision transformer, without labels."""

from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..models.ops import at_least_float32
from .inheritance import Inherited, check_student, inherit_backbone, inherit_head
from .teacher import build_teacher, load_teacher

Size = Union[int, Sequence[int], None]


class _Aside:
    """Holds a module that is no part of the one which uses it.

    Its parameters are not trained, wrapped, averaged or saved, and its mode is left
    alone. A copy of the user shares it.
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __deepcopy__(self, memo):
        return self


@MODELS.register_module()
class BootstrapSparseFormer(BaseSelfSupervisor):
    """A SparseFormer that learns to answer as a frozen vision transformer does.

    "Bootstrapping SparseFormers from Vision Foundation Models"
    (https://arxiv.org/abs/2312.01987). It starts with the last two thirds of the
    transformer's blocks, its class token, final norm and head. The middle third and all
    that is SparseFormer's own are trained; what else is inherited is frozen. The loss
    is one minus the cosine between the two final representations of an image: the class
    token after the last norm, and after CLIP's projection where there is one. No label
    is read.

    The transformer is not in checkpoints. What is has the names of an
    ``ImageClassifier`` with the same backbone, neck and head, so such a config takes
    the file as it is.

    Args:
        backbone: the SparseFormer; :func:`~.inheritance.student_settings` says what it
            must be like.
        teacher: a model of mmpretrain with a ``VisionTransformer``: an
            ``ImageClassifier``, a CLIP (of which the visual tower is taken), or the
            backbone alone. Its ``init_cfg=dict(type='Pretrained', checkpoint=...)``
            names its weights, which have to be complete.
        neck: a ``LinearNeck`` with ``norm_cfg=None`` for a teacher with a
            ``CLIPProjection``, which is the same.
        head: a ``LinearClsHead`` of the teacher's classes; None for a teacher without
            head, or to learn without. It has no part in the loss: it is for validation,
            and for the checkpoint.
        student_size, teacher_size: resize images to so many pixels, one number or
            (height, width); None takes them as they come.
        data_preprocessor: by default mmpretrain's ``SelfSupDataPreprocessor``. Images
            have to be normalised as the teacher expects them.
        init_cfg: as in mmengine.

    Raises:
        ValueError: if the backbone cannot inherit from the teacher, naming why.
        CheckpointError: from :meth:`init_weights`, if the teacher's weights are not
            complete.
    """

    def __init__(
        self,
        backbone: dict,
        teacher: dict,
        neck: Optional[dict] = None,
        head: Optional[dict] = None,
        student_size: Size = None,
        teacher_size: Size = None,
        data_preprocessor: Union[dict, nn.Module, None] = None,
        init_cfg: Optional[dict] = None,
    ):
        super().__init__(
            backbone,
            neck=neck,
            head=head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.student_size, self.teacher_size = student_size, teacher_size
        teacher, self._teacher_weights = build_teacher(teacher)
        self._knows = False  # whether the teacher has its weights
        self._teacher = _Aside(teacher.requires_grad_(False).eval())
        check_student(self.backbone, teacher.backbone)
        self._check_ends(teacher)
        # Now: wrappers for several processes ask what is trained when they are made.
        inherited = self._inherited()
        for name, parameter in self.named_parameters():
            if name in inherited and inherited[name].frozen:
                parameter.requires_grad = False

    @property
    def teacher(self) -> nn.Module:
        """The frozen transformer, an ``ImageClassifier``; no part of this module."""
        return self._teacher.module

    def _check_ends(self, teacher: nn.Module):
        kinds = [type(neck).__name__ for neck in (self.neck, teacher.neck)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f'neck is {kinds[0]}, the teacher has {kinds[1]}: give the same '
                "(for CLIP's projection a LinearNeck with norm_cfg=None)"
            )
        if self.head is not None and teacher.head is None:
            raise ValueError(
                'the teacher has no head, so there is none to inherit: give head=None '
                '(and learn without validation), or a teacher with its head'
            )
        own, theirs = self.state_dict(), self._inherited()
        for name, inherited in theirs.items():
            shape = tuple(own[name].shape) if name in own else 'nothing'
            if shape != tuple(inherited.value.shape):
                raise ValueError(
                    f'{name} cannot be inherited: the teacher has '
                    f'{tuple(inherited.value.shape)}, under {inherited.source}, the '
                    f'student {shape}'
                )

    def _inherited(self) -> Dict[str, Inherited]:
        """What is taken from the teacher, by names of this module."""
        teacher, result = self.teacher, {}
        for name, value in inherit_backbone(teacher.backbone).items():
            result[f'backbone.{name}'] = value
        if self.neck is not None:
            for name, value in teacher.neck.state_dict().items():
                result[f'neck.{name}'] = Inherited(value, f'neck.{name}', True)
        if self.head is not None:
            for name, value in inherit_head(teacher.head).items():
                result[f'head.{name}'] = value
        return result

    @torch.no_grad()
    def init_weights(self):
        """Load the teacher's weights and inherit; the log says what, name by name."""
        super().init_weights()
        if self._teacher_weights is not None:
            load_teacher(self.teacher, self._teacher_weights)
            self._knows = True
        own, inherited = self.state_dict(), self._inherited()
        logger = MMLogger.get_current_instance()
        for name, (value, source, frozen) in inherited.items():
            own[name].copy_(value)
            kind = 'frozen' if frozen else 'tuned'
            logger.info(f'inherited, {kind}: {name} <- {source} {tuple(value.shape)}')
        names = [name for name in own if name not in inherited]
        logger.info(
            f'BootstrapSparseFormer: {len(inherited)} tensors inherited from the '
            f'teacher, {sum(x.frozen for x in inherited.values())} of them frozen; '
            f'{len(names)} start anew: {", ".join(names)}'
        )

    def train(self, mode: bool = True):
        """Switch mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        third = len(self.backbone.cortex) // 2
        for module in (*self.backbone.cortex[-third:], self.backbone.norm):
            module.eval()
        for module in (self.neck, self.head):
            if module is not None:
                module.eval()
        return self

    def _apply(self, fn, *args, **kwargs):
        # Devices and number formats are changed through here.
        self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def forward(
        self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor'
    ):
        """As in mmpretrain; mode 'predict', with a head, is that of a classifier."""
        if mode == 'predict':
            if self.head is None:
                raise ValueError(
                    'without a head nothing can be validated: leave it out '
                    '(--no-validate), or give the head of the teacher'
                )
            return self.head.predict(self.extract_feat(inputs), data_samples)
        return super().forward(inputs, data_samples, mode)

    def extract_feat(self, inputs: Tensor) -> Tuple[Tensor]:
        """The student's final representation, (B, d), in a tuple as heads take it."""
        features = self.backbone(_resize(inputs, self.student_size))
        return features if self.neck is None else self.neck(features)

    def loss(self, inputs: Tensor, data_samples: Optional[list] = None) -> dict:
        """One minus the cosine to the teacher's answer; samples are not read.

        Raises:
            ValueError: if the teacher was not given its weights.
        """
        if not self._knows:
            raise ValueError(
                'the teacher has no weights: give it '
                "init_cfg=dict(type='Pretrained', checkpoint=PATH), and call "
                'init_weights() if no runner does'
            )
        with torch.no_grad():
            target = self.teacher.extract_feat(_resize(inputs, self.teacher_size))[-1]
        answer = self.extract_feat(inputs)[-1]
        pair = at_least_float32(answer), at_least_float32(target)
        return dict(loss=1 - F.cosine_similarity(*pair).mean())


def _resize(images: Tensor, size: Size) -> Tensor:
    size = (size, size) if isinstance(size, int) else tuple(size or images.shape[-2:])
    if size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode='bicubic', antialias=True)
