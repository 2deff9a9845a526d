"""Videos for the tools that draw: found, read by the config's pipeline, looked up."""

import json
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from ..utils.errors import fail
from .truths import Truths, _nested

VIDEO_SUFFIXES = ('.avi', '.mkv', '.mov', '.mp4', '.webm')
FRAME_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


class Clip(NamedTuple):
    """One view of a video, as the config's pipeline prepares it.

    Attributes:
        data: its packed sample; ``inputs`` is (1, C, T, H, W).
        frames: (T,) numbers of its frames in the video, from 0.
        size: width and height of the video in pixels.
        whole: whether it shows all of each frame, not turned over.
        view, num_views: which of how many.
    """

    data: dict
    frames: np.ndarray
    size: Tuple[int, int]
    whole: bool
    view: int
    num_views: int


def _inside(folder: Path, suffixes: Sequence[str]) -> List[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)


def find_videos(names: Sequence[str]) -> List[Path]:
    """Files as they are; of a folder what it holds.

    A folder with video files stands for these. Else, with pictures, it is one video
    itself (raw frames); else each of its folders with pictures is one.
    """
    found: List[Path] = []
    for path in map(Path, names):
        if not path.is_dir():
            found.append(path)
            continue
        videos = _inside(path, VIDEO_SUFFIXES)
        if not videos and _inside(path, FRAME_SUFFIXES):
            videos = [path]
        if not videos:
            folders = sorted(p for p in path.iterdir() if p.is_dir())
            videos = [p for p in folders if _inside(p, FRAME_SUFFIXES)]
        if not videos:
            fail(
                f'folder {path} has no video ({", ".join(VIDEO_SUFFIXES)}) and no '
                f'frames of one ({", ".join(FRAME_SUFFIXES)}), nor have its folders '
                'frames'
            )
        found += videos
    return found


def frames_info(folder: Path) -> dict:
    """What mmaction2 wants to know about a folder of raw frames.

    Their names are numbered without gaps, e.g. img_00001.png, from any number.
    """
    found: Dict[Tuple[str, int, str], List[int]] = {}
    for path in _inside(folder, FRAME_SUFFIXES):
        match = re.fullmatch(r'(.*?)(\d+)(\.\w+)', path.name)
        if match is not None:
            prefix, digits, suffix = match.groups()
            found.setdefault((prefix, len(digits), suffix), []).append(int(digits))
    if len(found) != 1:
        fail(
            f'the pictures of folder {folder} are not numbered in one way; frames of a '
            'video are called img_00001.png, img_00002.png, ...'
        )
    (((prefix, digits, suffix), numbers),) = found.items()
    missing = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))
    if missing:
        fail(
            f'folder {folder} has no {prefix}{missing[0]:0{digits}}{suffix}; number '
            'the frames without gaps'
        )
    # Braces in a name are no place for a number.
    prefix = prefix.replace('{', '{{').replace('}', '}}')
    return dict(
        frame_dir=str(folder),
        total_frames=len(numbers),
        start_index=min(numbers),
        filename_tmpl=f'{prefix}{{:0{digits}}}{suffix}',
    )


def _name(step: dict) -> str:
    kind = step['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _check_source(path: Path, steps: Sequence[str], config: str) -> None:
    """Complain if a pipeline wants the other kind of source."""
    cure = "the step dict(type='sparseformer_mm.video.ReadFrames', ...) reads both"
    if 'ReadFrames' in steps:
        return
    if 'RawFrameDecode' in steps and path.is_file():
        fail(f'the test pipeline of {config} reads frames, not video {path}; {cure}')
    if 'RawFrameDecode' not in steps and path.is_dir():
        fail(
            f'the test pipeline of {config} reads video files, not the frames in '
            f'folder {path}; {cure}'
        )


def read_clip(path: Path, cfg: Config, view: int = 0) -> Clip:
    """Run the config's test pipeline on a video and keep one of its views.

    Args:
        path: a video file or a folder of frames.
        cfg: with a ``test_pipeline``.
        view: in mmaction2's order; the clips of the first crop come first.
    """
    names = [_name(step) for step in cfg.test_pipeline]
    _check_source(path, names, cfg.filename)
    init_default_scope(cfg.default_scope)
    try:
        steps = Compose(cfg.test_pipeline).transforms
    except Exception as error:
        fail(f'cannot build the test pipeline of {cfg.filename}: {error}')
    data = dict(label=-1, start_index=0, modality='RGB')
    data.update(frames_info(path) if path.is_dir() else dict(filename=str(path)))
    start = data['start_index']
    kept: dict = {}
    whole = True
    for name, step in zip(names, steps):
        before = data.get('img_shape')
        try:
            data = step(data)
        except Exception as error:  # of any decoder
            if name == 'ReadFrames':  # it says all there is to say
                fail(str(error))
            fail(
                f'{name} in the test pipeline of {cfg.filename} cannot work on {path}: '
                'replace the video or leave it out, or change the pipeline: '
                f'{type(error).__name__}: {error}'
            )
        if 'Crop' in name:
            whole &= tuple(data['img_shape']) == tuple(before)
        # A packed sample has none of these.
        for key in ('frame_inds', 'original_shape', 'flip'):
            if key in data:
                kept[key] = data[key]
    inputs = data['inputs']
    if inputs.dim() != 5:
        fail(
            f'the test pipeline of {cfg.filename} gives {tuple(inputs.shape)}; a model '
            "of clips needs dict(type='FormatShape', input_format='NCTHW')"
        )
    if view >= len(inputs):
        fail(
            f'--view {view}: the test pipeline of {cfg.filename} gives '
            f'{len(inputs)} view(s), numbered from 0'
        )
    length = inputs.shape[2]
    frames = np.asarray(kept['frame_inds']).reshape(-1, length) - start
    height, width = kept['original_shape'][:2]
    return Clip(
        dict(data, inputs=inputs[view : view + 1]),
        frames[view % len(frames)],
        (width, height),
        whole and not np.any(kept.get('flip', False)),
        view,
        len(inputs),
    )


class VideoTruths(Truths):
    """Videos of the config's test data, found by path.

    Names of classes are in the data set's metainfo or one per line in ``classes.txt``
    beside its list file. A file ``NAME_boxes.json`` beside list file ``NAME.txt`` maps
    each path of the list to x1, y1, x2, y2, label in pixels, one per frame.
    """

    path_keys = ('filename', 'frame_dir')

    def __init__(self, cfg: Config, wanted: bool = True):
        super().__init__(cfg, wanted)
        self._boxes: Dict[Path, list] = {}
        for dataset in _nested(self.wrapped):
            if not dataset.get('ann_file'):
                continue
            listed = Path(dataset.get('data_root') or '') / dataset['ann_file']
            names = listed.parent / 'classes.txt'
            if self.classes is None and names.is_file():
                self.classes = tuple(names.read_text(encoding='utf-8').splitlines())
            boxes = listed.with_name(f'{listed.stem}_boxes.json')
            if wanted and boxes.is_file():
                for name, found in json.loads(boxes.read_text()).items():
                    self._boxes[(listed.parent / name).resolve()] = found

    def label(self, path: Path) -> Optional[int]:
        """True class of a video; None if unknown or if there are several."""
        label = (self.info(path) or {}).get('label', -1)
        return label if isinstance(label, int) and label >= 0 else None

    def clip_boxes(self, path: Path, clip: Clip) -> Optional[np.ndarray]:
        """True box on each frame of a clip, relative to it.

        Returns:
            (T, 4) x1, y1, x2, y2; None if unknown or not where the clip shows it.
        """
        found = self._boxes.get(path.resolve())
        if found is None or not clip.whole or clip.frames.max() >= len(found):
            return None
        boxes = np.array([found[i][:4] for i in clip.frames], dtype=float)
        return boxes / np.tile(clip.size, 2)
