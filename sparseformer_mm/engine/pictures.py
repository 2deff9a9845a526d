"""Picture files that cannot be read, or only in part."""

import io
import os
import warnings
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional

from mmengine import fileio
from PIL import Image, UnidentifiedImageError

from .datasets import pick, source_of, with_progress
from .problems import Problem, Use, some

# Looking up a file takes microseconds on a disk and a millisecond on a network.
MAX_LOOKUPS = 5_000
_CURE = 'copy or download it again, or remove it together with its annotation'


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's file system."""
    return '://' not in path and not path.startswith(('s3:', 'petrel:'))


def missing_or_empty(path: str) -> Optional[str]:
    """What is wrong with a local file before it is opened; None if nothing."""
    if not os.path.isfile(path):
        return 'is a folder' if os.path.isdir(path) else 'does not exist'
    return None if os.path.getsize(path) else 'is empty (0 bytes)'


def describe_content(content: bytes) -> str:
    """What a file holds that is no picture to be decoded."""
    head = content[:512]
    if not content:
        return 'is empty (0 bytes)'
    if head.startswith(b'version https://git-lfs'):
        return 'is a pointer of Git LFS, not the picture (git lfs pull)'
    if head.lstrip().lower().startswith((b'<!doctype html', b'<html')):
        return 'is an HTML page, not a picture'
    if head[4:8] == b'ftyp':
        return 'is a HEIC, AVIF or video file: save it as JPEG or PNG'
    if all(byte in b'\t\n\r\f' or 32 <= byte < 127 for byte in head):
        return 'is text, not a picture'
    return 'is no picture that can be decoded, or a damaged one'


def damage(content: bytes) -> Optional[str]:
    """What a strict decoder finds; None for whole pictures and unknown formats.

    Some decoders fill up a JPEG file that is cut off with grey, without an error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of large pictures, odd metadata
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return f'is cut off or damaged ({error})'
    except Exception:  # a size limit, say: nothing about this file
        return None
    return None


def _looks_cut_off(path: str) -> bool:
    """Whether a JPEG or PNG file lacks its end; quick, and not sure."""
    with open(path, 'rb') as file:
        head = file.read(4)
        if head[:2] != b'\xff\xd8' and head != b'\x89PNG':
            return False
        file.seek(-min(os.path.getsize(path), 64), os.SEEK_END)
        tail = file.read()
    if head == b'\x89PNG':
        return b'IEND' not in tail
    return not tail.rstrip(b'\0\r\n').endswith(b'\xff\xd9')


def load_problem(
    path: str,
    load: Optional[Callable[[], Any]] = None,
    backend_args: Optional[dict] = None,
) -> Optional[str]:
    """What goes wrong when a file is loaded; None if nothing.

    Args:
        path: of the file.
        load: what a pipeline does with it; None: it has failed already.
        backend_args: of mmengine's ``fileio``.
    """
    content = b''
    try:
        content = fileio.get(path, backend_args=backend_args)
        if load is None:
            return damage(content) or describe_content(content)
        return None if load() is not None else describe_content(content)
    except FileNotFoundError:
        return 'does not exist'
    except Exception as error:
        text = describe_content(content)
        if text.startswith('is no picture'):
            text = damage(content) or f'{text} ({type(error).__name__})'
        return text


def files_of(dataset: Any, key: str, use: Use) -> Dict[str, int]:
    """Path -> index of a sample, for the files to look up: all, or 5,000 of more."""
    files: Dict[str, int] = {}
    for index in pick(len(dataset), MAX_LOOKUPS, use.seed):
        path = dataset.get_data_info(index).get(key)
        if isinstance(path, str):
            files.setdefault(path, index)
    return files


def check_pictures(
    files: Dict[str, int],
    kind: str,
    dataset: Any,
    use: Use,
    loader: Any,
    advice: str = 'check data_root, data_prefix and the names',
) -> Iterator[Problem]:
    """Files that are missing, empty, cut off or no pictures.

    All are looked up; ``use.sample`` of them, and those whose end is not that of their
    format, are opened.

    Args:
        files: see :func:`files_of`.
        kind: what they are: 'pictures', 'masks'.
        dataset: they belong to.
        loader: step of the pipeline that loads them; None: nothing does, nor is it
            checked.
        advice: where to look if files are missing.
    """
    if loader is None:
        return
    paths, source = list(files), source_of(dataset)
    backend_args = getattr(loader, 'backend_args', None)
    local = [] if backend_args else [path for path in paths if is_local(path)]
    bad: Dict[str, List[str]] = {}
    suspects = []
    for path in with_progress(local, f'{kind} of {source}', len(local)):
        cause = missing_or_empty(path)
        if cause:
            bad.setdefault(cause, []).append(path)
        elif _looks_cut_off(path):
            suspects.append(path)
    named = {path for group in bad.values() for path in group}
    sample = [paths[i] for i in pick(len(paths), use.sample, use.seed)]
    opened = [path for path in dict.fromkeys(sample + suspects) if path not in named]
    cut_off: Dict[str, str] = {}
    for path in with_progress(opened, f'{kind} of {source}', len(opened)):
        info = dataset.get_data_info(files[path])
        cause = load_problem(path, partial(loader, info), backend_args)
        if cause:
            bad.setdefault(cause, []).append(path)
            continue
        cause = damage(fileio.get(path, backend_args=backend_args))
        if cause:
            cut_off[path] = cause
    for cause, group in bad.items():
        cure = f'{advice} (seen from {os.getcwd()})' if 'exist' in cause else _CURE
        if any('\ufeff' in path for path in group):
            cure = 'its list begins with a byte order mark: save it as plain UTF-8'
        yield Problem(
            f'{len(group):,} of {len(paths):,} {kind} of {source} cannot be read: '
            f'{some(group)} {cause}: {cure}',
            fatal=not getattr(loader, 'ignore_empty', False),
        )
    if cut_off:
        cause = next(iter(cut_off.values()))
        yield Problem(
            f'{len(cut_off):,} of {len(paths):,} {kind} of {source} are read in part '
            f'only: {some(cut_off)} {cause}, the rest is grey: {_CURE}',
            fatal=False,
        )
