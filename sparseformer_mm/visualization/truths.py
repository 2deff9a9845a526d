"""Models with their weights, what their tokens find, and what the test data knows.

Nothing here draws.
"""

import copy
import json
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS
from torch import Tensor

from ..models.rois import rois_to_corners
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
