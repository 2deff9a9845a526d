"""What a data set's failure means for its user."""

import os
import re
from functools import partial
from json import JSONDecodeError
from types import FrameType
from typing import Any, Iterator, List, Optional

from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
)

from .datasets import data_infos, find_checker, find_step, plain_datasets, source_of
from .pictures import load_problem, missing_or_empty
from .problems import DatasetError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_READING = ('load_data_list', 'parse_data_info', 'full_init')
_MISSING = r"No such file or directory: '([^'\n]+)'"
_NOT_DECODED = r'failed to load image: (.*)'
# What OpenCV and Pillow say, without a name.
_UNREADABLE = r'buf\.empty|imdecode|cannot identify image|truncated|broken|decoder'
_EMPTY = (
    'a data set of the config has no picture: check that its ann_file lists images '
    'and, with filter_cfg, that they have boxes of the classes in metainfo, or (mmseg) '
    'that img_path holds files that end in img_suffix'
)


def explain_data_error(error: BaseException) -> Optional[str]:
    """One line that names file, cause and cure; None if it is not about data.

    Args:
        error: raised while data sets were built or read, with or without workers.
    """
    text = str(error)
    if isinstance(error, DatasetError):
        return _last_line(text) if _from_worker(text) else text
    if 'need at least one array to concatenate' in text:
        return _EMPTY  # what mmengine's data sets say when nothing is left
    frames = list(frames_of(error))
    building = [frame for frame in frames if _is_building(frame)]
    loader = next(filter(None, map(_loaded_dataset, frames)), None)
    if (building or loader is not None) and _is_ours(error, frames[-1]):
        return _last_line(text) if _from_worker(text) else text
    if building:
        return _explain_building(building[-1].f_locals.get('self'), error)
    if loader is not None:
        return _explain_loading(loader, text)
    # What a metric reads.
    files = list(filter(None, (frame.f_locals.get('ann_file') for frame in frames)))
    if files and isinstance(error, FileNotFoundError):
        return _missing(_named(_MISSING, text) or files[0])
    if files and isinstance(error, JSONDecodeError):
        return f'{files[0]} is no complete JSON file ({text}): export or copy it again'
    return None


def stop_workers(error: BaseException):
    """End the loader's processes that an error came from.

    As garbage, which goes in any order, a loader may lose the way to tell them, and
    then waits five seconds for each.
    """
    for frame in frames_of(error):
        loader = frame.f_locals.get('self')
        if isinstance(loader, _MultiProcessingDataLoaderIter):
            loader._shutdown_workers()


def frames_of(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_building(frame: FrameType) -> bool:
    """Whether a frame is of a data set that is being made."""
    if frame.f_code.co_name not in _READING:
        return False
    # Of the class: an object that is half made may not even be asked for attributes.
    return hasattr(type(frame.f_locals.get('self')), 'load_data_list')


def _is_ours(error: BaseException, frame: FrameType) -> bool:
    """Whether a step of this package has raised an error, which then says it all."""
    text, where = str(error), frame.f_code.co_filename
    if _from_worker(text):
        where = re.findall(r'File "([^"]+)"', text)[-1]
    written = isinstance(error, (ValueError, OSError, ImportError))
    return written and where.startswith(_PACKAGE)


def _from_worker(text: str) -> bool:
    return 'Original Traceback' in text


def _last_line(text: str) -> str:
    """The message at the end of a worker's traceback."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r'^[\w.]+: ', '', lines[-1]) if lines else ''


def _named(pattern: str, text: str) -> Optional[str]:
    """The path in a message, which comes last if it is a worker's traceback."""
    paths = re.findall(pattern, text)
    return paths[-1].strip() if paths else None


def _missing(path: str) -> str:
    return (
        f'{path} does not exist (seen from {os.getcwd()}): check data_root, '
        'data_prefix and ann_file of the data set'
    )


def _explain_building(dataset: Any, error: BaseException) -> Optional[str]:
    """Why a data set cannot be read from its annotations."""
    if not hasattr(dataset, 'data_prefix'):
        return None
    path = _named(_MISSING, str(error))
    if path:
        return _missing(path)
    checker, problems = find_checker(dataset), []
    check = getattr(checker, 'check_annotations', None)
    if check is not None:
        problems = [problem.message for problem in check(dataset)]
    if problems:
        return '\n'.join(problems)
    reason = str(error).strip() or type(error).__name__
    return (
        f'{source_of(dataset)} cannot be read as {type(dataset).__name__} does it '
        f'({type(error).__name__}: {reason}): check data_root, data_prefix, ann_file '
        'and metainfo of the data set'
    )


def _loaded_dataset(frame: FrameType) -> Any:
    """The data set of torch's loader, if a frame is one of its methods."""
    owner = frame.f_locals.get('self')
    return owner._dataset if isinstance(owner, _BaseDataLoaderIter) else None


def _explain_loading(dataset: Any, text: str) -> Optional[str]:
    """Which file a pipeline could not load."""
    path = _named(_MISSING, text)
    if path:
        return _missing(path)
    path = _named(_NOT_DECODED, text)
    if path:
        return _unreadable(path, load_problem(path))
    if not re.search(_UNREADABLE, text):
        return None
    for part in plain_datasets(dataset):
        found = _search(part)
        if found:
            return found
    return None


def _search(dataset: Any) -> Optional[str]:
    """The first file of a data set that its pipeline cannot load."""
    keys = {'img_path': 'LoadImage', 'seg_map_path': 'LoadAnnotations'}
    steps = {key: find_step(dataset, kind) for key, kind in keys.items()}
    infos: List[dict] = []
    for info in data_infos(dataset):  # quick first
        infos.append(info)
        for key, step in steps.items():
            path = info.get(key)
            cause = missing_or_empty(path) if step is not None and path else None
            if cause:
                return _unreadable(path, cause)
    for info in infos:
        for key, step in steps.items():
            if step is not None and info.get(key):
                cause = load_problem(info[key], partial(step, dict(info)))
                if cause:
                    return _unreadable(info[key], cause)
    return None


def _unreadable(path: str, cause: Optional[str]) -> str:
    return (
        f'{path} {cause or "is no image that can be decoded"}: copy or download it '
        'again, or remove it together with its annotation'
    )
