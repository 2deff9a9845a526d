"""What is true of pictures and videos: their boxes, classes and masks.

Boxes come from a data set (COCO and other annotations of mmdet) or from a boxes file: a
JSON dictionary of picture -> [[x1, y1, x2, y2, ...], ...] in pixels, or of video -> one
such box for each of its frames, paths relative to the file's folder, as
``make_digits.py`` writes it.
"""

import copy
import json
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Union

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from ..host import type_name
from ..utils.errors import fail

# Where the libraries' data sets say which file or folder a sample is.
_PATH_KEYS = ('img_path', 'filename', 'frame_dir')


def read_boxes(file: Union[str, Path]) -> Dict[Path, np.ndarray]:
    """Read a boxes file.

    Returns:
        Absolute path -> (n, 4) x1, y1, x2, y2 in pixels.

    Raises:
        ValueError: for a file that is no such dictionary.
    """
    file = Path(file)
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        return {
            (file.parent / name).resolve(): np.array(
                [box[:4] for box in boxes], dtype=float
            ).reshape(-1, 4)
            for name, boxes in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'{file} is no file of boxes that can be read, that is a JSON dictionary '
            f'of picture -> [[x1, y1, x2, y2, label], ...]: {error}'
        ) from error


def own_boxes(info: dict) -> Optional[np.ndarray]:
    """A data set's boxes of one picture, in pixels of the file.

    Unlike those in data samples, these never went through the pipeline, whose steps
    load them before or after the picture is resized.

    Args:
        info: of the data set's ``get_data_info``.

    Returns:
        (n, 4) x1, y1, x2, y2, without crowds; None if the data set has no boxes.
    """
    instances = info.get('instances')
    if instances is None or not all('bbox' in item for item in instances):
        return None
    boxes = [item['bbox'] for item in instances if not item.get('ignore_flag')]
    return np.array(boxes, dtype=float).reshape(-1, 4)


def path_of(info: dict) -> Optional[Path]:
    """The file or folder of a data set's sample, None if it does not say."""
    return next((Path(info[key]) for key in _PATH_KEYS if key in info), None)


def name_of(classes: Optional[Sequence[str]], label: int) -> str:
    """The name of a class; its number if there is none."""
    if isinstance(classes, str):  # one class, whose name was not put into a tuple
        classes = (classes,)
    return classes[label] if classes and label < len(classes) else str(label)


def _nested(dataset: dict) -> Iterator[dict]:
    """Yield a data set's config and, if it is a wrapper, all those inside."""
    yield dataset
    for inner in [dataset.get('dataset'), *dataset.get('datasets', ())]:
        yield from _nested(inner) if inner is not None else ()


class Truth:
    """What a config's test data knows about pictures and videos, found by path.

    Names of classes are in the data set's metainfo or one per line in ``classes.txt``
    beside its list file. Boxes that are not in the data set are looked for in
    ``NAME_boxes.json`` beside list file ``NAME.txt`` and beside folder ``NAME`` that a
    picture is in.

    Args:
        cfg: with a ``test_dataloader``.
        source: 'auto', 'none', or a boxes file to take instead of any other boxes.

    Attributes:
        classes, palette: of the data set; None where it does not say.
        missing: why there is no truth at all, or ''.
    """

    def __init__(self, cfg: Config, source: str = 'auto'):
        self._wrapped = wrapped = copy.deepcopy(cfg.test_dataloader.dataset)
        for dataset in _nested(wrapped):
            dataset['lazy_init'] = True
        self.dataset = DATASETS.build(wrapped)
        metainfo = self.dataset.metainfo
        if isinstance(metainfo, list):  # mmdet's, of joined data sets that differ
            metainfo = metainfo[0]
        self.classes = metainfo.get('classes')
        self.palette = metainfo.get('palette')
        self.missing = '--truth none' if source == 'none' else ''
        self._index: Dict[Path, int] = {}
        self._files: Dict[Path, Dict[Path, np.ndarray]] = {}
        self._source = source
        self._lists = [
            Path(dataset.get('data_root') or '') / dataset['ann_file']
            for dataset in _nested(wrapped)
            if dataset.get('ann_file')
        ]
        for listed in self._lists:
            names = listed.parent / 'classes.txt'
            if self.classes is None and names.is_file():
                self.classes = tuple(names.read_text(encoding='utf-8').splitlines())
        if source == 'none':
            return
        try:
            self.dataset.full_init()
        except (OSError, AssertionError, ValueError) as error:
            self.missing = f'the test data of {cfg.filename} is not there: {error}'
            return
        if self.classes is None:  # mmpretrain's, of folders
            self.classes = self.dataset.metainfo.get('classes')
        for i in range(len(self.dataset)):
            path = path_of(self.dataset.get_data_info(i))
            if path is not None:
                self._index[path.resolve()] = i

    def info(self, path: Path) -> Optional[dict]:
        """What the data set says about a picture or video; None if it has it not."""
        index = self._index.get(path.resolve())
        return None if index is None else self.dataset.get_data_info(index)

    def boxes(self, path: Path) -> np.ndarray:
        """True boxes of a picture, or of a video one for each of its frames.

        Returns:
            (n, 4) x1, y1, x2, y2 in pixels of the file; n is 0 where none is known.
        """
        boxes, files = None, []
        if self._source == 'auto':
            boxes = own_boxes(self.info(path) or {})
            lists = [listed.with_suffix('') for listed in self._lists]
            beside = [*lists, *list(path.resolve().parents)[:3]]
            files = [p.with_name(f'{p.name}_boxes.json') for p in beside if p.name]
            files = [file for file in files if file.is_file()]
        elif self._source != 'none':
            files = [Path(self._source)]
        for file in files:
            if file not in self._files:
                try:
                    self._files[file] = read_boxes(file)
                except ValueError as error:
                    fail(str(error))
            if boxes is None:
                boxes = self._files[file].get(path.resolve())
        return np.zeros((0, 4)) if boxes is None else boxes

    def label(self, path: Path) -> Optional[int]:
        """True class of a picture or video; None if unknown or if there are several."""
        info = self.info(path) or {}
        label = info.get('gt_label', info.get('label', -1))
        return int(label) if np.ndim(label) == 0 and label >= 0 else None

    def mask(self, path: Path) -> Optional[np.ndarray]:
        """True class of each pixel, (H, W); None if the data set has it not."""
        info = self.info(path)
        if info is None or 'seg_map_path' not in info:
            return None
        steps = [
            step
            for dataset in _nested(self._wrapped)
            for step in dataset.get('pipeline', ())
            if type_name(step) == 'LoadAnnotations'
        ]
        load = TRANSFORMS.build(steps[0] if steps else dict(type='LoadAnnotations'))
        try:
            return load(info)['gt_seg_map']
        except FileNotFoundError:
            return None
