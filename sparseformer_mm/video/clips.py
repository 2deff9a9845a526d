"""Videos of a user, one by one: found, and read by a config's test pipeline."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from ..engine.files import PICTURE_SUFFIXES, files_in
from ..host import type_name

VIDEO_SUFFIXES = ('.avi', '.mkv', '.mov', '.mp4', '.webm')


class Clip(NamedTuple):
    """One view of a video, as the config's pipeline prepares it.

    Attributes:
        path: of the video or its folder of frames.
        data: its packed sample; ``inputs`` is (1, C, T, H, W).
        frames: (T,) numbers of its frames in the video, from 0.
        size: width and height of the video in pixels.
        whole: whether it shows all of each frame, not turned over.
        view, num_views: which of how many.
    """

    path: Path
    data: dict
    frames: np.ndarray
    size: Tuple[int, int]
    whole: bool
    view: int
    num_views: int


def find_videos(names: Sequence[str]) -> List[Path]:
    """Files as they are; of a folder what it holds.

    A folder with video files stands for these. Else, with pictures, it is one video
    itself (raw frames); else each of its folders with pictures is one.

    Raises:
        ValueError: for a folder without any.
    """
    paths: List[Path] = []
    for path in map(Path, names):
        inside = [path]
        if path.is_dir():
            inside = files_in(path, VIDEO_SUFFIXES)
            if not inside and files_in(path):
                inside = [path]
            if not inside:
                folders = sorted(p for p in path.iterdir() if p.is_dir())
                inside = [p for p in folders if files_in(p)]
        if not inside:
            raise ValueError(
                f'folder {path} has no video ({", ".join(VIDEO_SUFFIXES)}) and no '
                f'frames of one ({", ".join(PICTURE_SUFFIXES)}), nor have its folders '
                'frames'
            )
        paths += inside
    return paths


def frames_info(folder: Path) -> dict:
    """What mmaction2 wants to know about a folder of raw frames.

    Their names are numbered without gaps, e.g. img_00001.png, from any number.

    Raises:
        ValueError: if they are not.
    """
    series: Dict[Tuple[str, int, str], List[int]] = {}
    for path in files_in(folder):
        match = re.fullmatch(r'(.*?)(\d+)(\.\w+)', path.name)
        if match is not None:
            prefix, digits, suffix = match.groups()
            series.setdefault((prefix, len(digits), suffix), []).append(int(digits))
    if len(series) != 1:
        raise ValueError(
            f'the pictures of folder {folder} are not numbered in one way; frames of a '
            'video are called img_00001.png, img_00002.png, ...'
        )
    (((prefix, digits, suffix), numbers),) = series.items()
    missing = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))
    if missing:
        raise ValueError(
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


def _check_source(path: Path, steps: Sequence[str], config: str) -> None:
    """Complain if a pipeline wants the other kind of source."""
    cure = "the step dict(type='sparseformer_mm.video.ReadFrames', ...) reads both"
    if 'ReadFrames' in steps:
        return
    if 'RawFrameDecode' in steps and path.is_file():
        raise ValueError(
            f'the test pipeline of {config} reads frames, not video {path}; {cure}'
        )
    if 'RawFrameDecode' not in steps and path.is_dir():
        raise ValueError(
            f'the test pipeline of {config} reads video files, not the frames in '
            f'folder {path}; {cure}'
        )


def read_clip(path: Path, cfg: Config, view: int = 0) -> Clip:
    """Run the config's test pipeline on a video and keep one of its views.

    Args:
        path: a video file or a folder of frames.
        cfg: with a ``test_pipeline``.
        view: in mmaction2's order; the clips of the first crop come first.

    Raises:
        ValueError: if it cannot be read, or there is no such view.
    """
    steps = cfg.test_pipeline
    names = [type_name(step) for step in steps]
    _check_source(path, names, cfg.filename)
    init_default_scope('mmaction')
    try:
        steps = Compose(steps).transforms
    except Exception as error:
        raise ValueError(
            f'cannot build the test pipeline of {cfg.filename}: {error}'
        ) from error
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
                raise ValueError(str(error)) from error
            raise ValueError(
                f'{name} in the test pipeline of {cfg.filename} cannot work on {path}: '
                'replace the video or leave it out, or change the pipeline: '
                f'{type(error).__name__}: {error}'
            ) from error
        if 'Crop' in name:
            whole &= tuple(data['img_shape']) == tuple(before)
        # A packed sample has none of these.
        for key in ('frame_inds', 'original_shape', 'flip'):
            if key in data:
                kept[key] = data[key]
    inputs = data['inputs']
    if inputs.dim() != 5:
        raise ValueError(
            f'the test pipeline of {cfg.filename} gives {tuple(inputs.shape)}; a model '
            "of clips needs dict(type='FormatShape', input_format='NCTHW')"
        )
    if view >= len(inputs):
        raise ValueError(
            f'--view {view}: the test pipeline of {cfg.filename} gives '
            f'{len(inputs)} view(s), numbered from 0'
        )
    length = inputs.shape[2]
    frames = np.asarray(kept['frame_inds']).reshape(-1, length) - start
    height, width = kept['original_shape'][:2]
    return Clip(
        path,
        dict(data, inputs=inputs[view : view + 1]),
        frames[view % len(frames)],
        (width, height),
        whole and not np.any(kept.get('flip', False)),
        view,
        len(inputs),
    )
