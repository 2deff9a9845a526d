"""Models with their weights, what their tokens find, and what the test data knows.

Nothing here draws.
"""

import copy
import json
import warnings
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ..models import SparseFormer
from ..models.rois import rois_to_corners
from ..utils.configs import fail
from ..utils.launch import (
    check_checkpoint,
    explain_errors,
    forbid_reinit,
)
from .recording import (  # noqa: F401
    Call,
    Recording,
    Stage,
    _position,
    picture_stages,
    record,
)


class Detections(NamedTuple):
    """Detections of one picture, one per token, best first.

    Attributes:
        tokens: (n,) indices.
        labels: (n,) class indices.
        scores: (n,).
        boxes: (n, 4) x1, y1, x2, y2 relative to the picture.
    """

    tokens: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


def token_detections(
    head, outputs: Tuple[Tensor, Tensor], threshold: float
) -> Detections:
    """Find the detecting tokens of one picture.

    Args:
        head: a :class:`SparseFormerHead`.
        outputs: of its ``forward``; the last level counts.
        threshold: least score of a token's best class.

    Returns:
        Detections: mmdet's own, except that a token counts once, with its best
        class.
    """
    logits, boxes = (levels[-1, 0] for levels in outputs)
    if head.loss_cls.use_sigmoid:
        probabilities = logits.sigmoid()
    else:
        probabilities = logits.softmax(-1)[:, :-1]  # the last is no object
    scores, labels = probabilities.max(-1)
    tokens = (scores >= threshold).nonzero()[:, 0]
    tokens = tokens[scores[tokens].argsort(descending=True, stable=True)]
    corners = rois_to_corners(boxes[tokens]).clamp(0, 1)
    found = (tokens, labels[tokens], scores[tokens], corners)
    return Detections(*(x.detach().cpu().numpy() for x in found))


def _check_parts(model: nn.Module, cfg: Config) -> None:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, SparseFormer):
        fail(
            f'the backbone of {cfg.filename} is a {type(backbone).__name__} and has no '
            'tokens to show; give a config with sparseformer_mm.SparseFormer'
        )
    if cfg.default_scope == 'mmaction' and backbone.spatial_dims != 3:
        fail(
            f'the backbone of {cfg.filename} sees single frames (spatial_dims='
            f'{backbone.spatial_dims}) and has no tubes to show; give a config with '
            'spatial_dims=3'
        )
    if cfg.default_scope == 'mmdet':
        from sparseformer_mm.detection import SparseFormerHead

        head = getattr(model, 'bbox_head', None)
        if not isinstance(head, SparseFormerHead):
            fail(
                f'the head of {cfg.filename} is a {type(head).__name__}, whose boxes '
                'belong to no token; give a config with sparseformer_mm.detection.'
                'SparseFormerHead'
            )


def load_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """Build the config's model by its library's own function, weights complete."""
    check_checkpoint(checkpoint)
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import init_detector as init
    elif cfg.default_scope == 'mmaction':
        from mmaction.apis import init_recognizer as init
    elif cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import init_model as init
    else:
        from mmseg.apis import init_model as init
    # Without weights, and what the libraries say about that: with weights, they would
    # only warn about those that were not found.
    with warnings.catch_warnings(record=True):
        model = init(cfg, None, device=device)
    _check_parts(model, cfg)
    forbid_reinit(model)
    try:
        with explain_errors():
            loaded = load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        if not any(
            mark in str(error)
            for mark in ('state_dict', 'state dict', 'tensors loaded')
        ):
            raise
        fail(
            f'{checkpoint} does not fit the model of {cfg.filename}; use the config '
            f'it was trained with: {str(error)[:600]}'
        )
    if cfg.default_scope == 'mmpretrain':
        # As the functions of the other libraries leave things.
        init_default_scope('mmpretrain')
        model.cfg = cfg
    # Where the test data is not there to say it.
    meta = (loaded.get('meta') or {}).get('dataset_meta') or {}
    model.trained_classes = meta.get('classes')
    return model


def _nested(dataset: dict) -> Iterator[dict]:
    """Yield a data set's config and, if it is a wrapper, all those inside."""
    yield dataset
    inside = [dataset['dataset']] if 'dataset' in dataset else []
    for inner in [*inside, *dataset.get('datasets', ())]:
        yield from _nested(inner)


def name_of(classes: Optional[Sequence[str]], label: int) -> str:
    """The name of a class; its number if there is none."""
    return classes[label] if classes and label < len(classes) else str(label)


class Truths:
    """Pictures of the config's test data, found by path.

    Args:
        cfg: with a ``test_dataloader``.

    Attributes:
        classes, palette: of the data set; None where it does not say.
        missing: why there is no truth at all, or ''.
    """

    path_keys: Sequence[str] = ('img_path',)

    def __init__(self, cfg: Config, wanted: bool = True):
        self.wrapped = wrapped = copy.deepcopy(cfg.test_dataloader.dataset)
        for dataset in _nested(wrapped):
            dataset['lazy_init'] = True
        self.dataset = DATASETS.build(wrapped)
        metainfo = self.dataset.metainfo
        if isinstance(metainfo, list):  # mmdet's, of joined data sets that differ
            metainfo = metainfo[0]
        self.classes = metainfo.get('classes')
        self.palette = metainfo.get('palette')
        self.wanted = wanted
        self.missing = '' if wanted else '--truth none'
        self._index: Dict[Path, int] = {}
        self._beside: Dict[Path, dict] = {}
        if not wanted:
            return
        try:
            self.dataset.full_init()
        except (OSError, AssertionError, ValueError) as error:
            self.missing = f'the test data of {cfg.filename} is not there: {error}'
            return
        if self.classes is None:  # mmpretrain's, of folders
            self.classes = self.dataset.metainfo.get('classes')
        for i in range(len(self.dataset)):
            info = self.dataset.get_data_info(i)
            for key in self.path_keys:
                if key in info:
                    self._index[Path(info[key]).resolve()] = i

    def info(self, path: Path) -> Optional[dict]:
        """What the data set says about a picture; None if it has it not."""
        index = self._index.get(path.resolve())
        return None if index is None else self.dataset.get_data_info(index)

    def boxes(self, path: Path, shape: Sequence[int]) -> np.ndarray:
        """True boxes of a picture of a shape.

        Those of the data set, or else those of a file ``FOLDER_boxes.json`` beside a
        folder the picture is in: picture -> [[x1, y1, x2, y2, label], ...] in pixels.

        Returns:
            (n, 4) x1, y1, x2, y2 relative to the picture.
        """
        info = self.info(path) or {}
        boxes = [
            item['bbox']
            for item in info.get('instances', ())
            if not item.get('ignore_flag')  # crowds
        ]
        if 'instances' not in info and self.wanted:
            boxes = [box[:4] for box in self._boxes_beside(path.resolve())]
        height, width = shape[:2]
        return np.array(boxes, dtype=float).reshape(-1, 4) / (
            [width, height, width, height]
        )

    def _boxes_beside(self, path: Path) -> list:
        for folder in list(path.parents)[:3]:
            file = folder.with_name(f'{folder.name}_boxes.json')
            if file not in self._beside:
                found = json.loads(file.read_text()) if file.is_file() else {}
                self._beside[file] = found
            name = path.relative_to(folder.parent).as_posix()
            if name in self._beside[file]:
                return self._beside[file][name]
        return []

    def true_class(self, path: Path) -> Optional[int]:
        """True class of a picture; None if unknown or if there are several."""
        label = (self.info(path) or {}).get('gt_label', -1)
        return int(label) if np.ndim(label) == 0 and label >= 0 else None

    def mask(self, path: Path) -> Optional[np.ndarray]:
        """True class of each pixel, (H, W); None if the data set has it not."""
        info = self.info(path)
        if info is None or 'seg_map_path' not in info:
            return None
        steps = [
            step
            for dataset in _nested(self.wrapped)
            for step in dataset.get('pipeline', ())
            if step['type'].rpartition('.')[2] == 'LoadAnnotations'
        ]
        load = TRANSFORMS.build(steps[0] if steps else dict(type='LoadAnnotations'))
        try:
            return load(info)['gt_seg_map']
        except FileNotFoundError:
            return None
