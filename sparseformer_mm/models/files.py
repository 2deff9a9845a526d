"""Reading checkpoint files: what they hold, or an error that says what they are.

Importing this module makes :func:`read_checkpoint` mmengine's loader of local files and
of those behind web addresses, so that ``init_cfg=dict(type='Pretrained')``,
``load_from``, resuming, inferencers and this package's own functions all read by it.
"""

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    load_from_http,
    load_from_local,
)
from torch import nn

from .finding import CheckpointError, SeveralModelsError, find_weights

_AGAIN = 'copy or download it again'
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
# Raised by a connection, by torch while it reads, and for what a file holds.
_NOT_READ = (
    AttributeError,
    EOFError,
    HTTPException,
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
    pickle.UnpicklingError,
)


def check_file(path: Union[str, Path]):
    """Raise unless a file looks like a whole checkpoint, from its first and last bytes.

    Raises:
        FileNotFoundError: if there is nothing; IsADirectoryError for a folder.
        CheckpointError: for anything else than a PyTorch or safetensors file.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        inside = sorted(file.glob('*.pth')) or [file / 'NAME.pth']
        raise IsADirectoryError(
            f'{path} is a folder: name a checkpoint in it, such as {inside[-1]}'
        )
    if not file.exists():
        raise FileNotFoundError(
            f'there is no checkpoint file {path} (seen from {os.getcwd()})'
        )
    size = file.stat().st_size
    with open(file, 'rb') as opened:
        start = opened.read(512)
    fault = _fault(file, start, size)
    if fault:
        raise CheckpointError(f'{path} ({size} bytes) {fault}')


def _fault(file: Path, start: bytes, size: int) -> str:
    """What is wrong with a file, and the cure; '' if nothing is seen."""
    if not size:
        return f'is empty: {_AGAIN}'
    if start.startswith(b'version https://git-lfs'):
        return (
            'is a pointer of Git LFS in place of the file: run `git lfs pull` where it '
            'comes from'
        )
    if re.match(rb'\s*<(!doctype|html|head|\?xml)', start, re.IGNORECASE):
        return (
            'is a web page, not a checkpoint: its link led to a page (of a login, an '
            'error, a warning about size); download the file itself'
        )
    if _is_safetensors(file, start):
        whole = 8 + struct.unpack('<Q', start[:8])[0] if size > 8 else size + 1
        return '' if whole <= size else f'is cut off: {_AGAIN}'
    if start[:2] == b'PK':
        if not zipfile.is_zipfile(file):  # its index is at the end
            return f'is cut off: {_AGAIN}'
        with zipfile.ZipFile(file) as archive:
            names = [name.split('/', 1)[-1] for name in archive.namelist()]
        if 'data.pkl' not in names:
            return 'is a zip archive but no checkpoint of PyTorch: unpack it'
        return ''
    # PyTorch's format before 1.6.
    if start[:1] == pickle.PROTO:
        return ''
    return f'is cut off or no PyTorch checkpoint at all: {_AGAIN}'


def _is_safetensors(file: Path, start: bytes) -> bool:
    """A safetensors file is the length of its JSON header, that, and the tensors."""
    return file.suffix == '.safetensors' or start[8:10] == b'{"'


def read_checkpoint(
    filename: Union[str, Path], map_location: Any = None, safe: bool = False
) -> Mapping:
    """Read a local checkpoint file.

    Args:
        filename: a file of ``torch.save`` or of safetensors.
        map_location: as for :func:`torch.load`; of safetensors, a device.
        safe: read nothing but tensors and mmengine's harmless records. Otherwise it
            is mmengine that decides, and reading can run code in the file.

    Returns:
        Mapping: the file's content, wrapped or not.

    Raises:
        FileNotFoundError: if there is nothing; IsADirectoryError for a folder.
        CheckpointError: for a file that cannot be read, or holds something else than
            weights under names.
        pickle.UnpicklingError: for what torch refuses as unsafe.
    """
    check_file(filename)
    file = Path(filename).expanduser()
    try:
        with open(file, 'rb') as opened:
            is_safetensors = _is_safetensors(file, opened.read(16))
        if is_safetensors:
            content = _read_safetensors(file, map_location)
        elif safe:
            content = _read_tensors(file, map_location)
        else:
            content = load_from_local(str(file), map_location)
    except CheckpointError as error:
        raise CheckpointError(f'{filename} {error}') from error
    except (AttributeError, ImportError) as error:
        raise CheckpointError(
            f'{filename} holds objects of code that is not here ({error}), mostly a '
            f'whole pickled model: where that code is, write its weights by {_SAVE}'
        ) from error
    except (EOFError, RuntimeError, pickle.UnpicklingError, ValueError) as error:
        first = re.sub(r'\x1b\[\d*m', '', str(error)).strip().split('\n')[0]
        if 'weights_only' in str(error) or re.search('cuda|device', first, re.I):
            raise
        raise CheckpointError(
            f'{filename} ({file.stat().st_size} bytes) cannot be read ({first}): it is '
            f'damaged or no checkpoint; {_AGAIN}'
        ) from error
    try:
        check_content(content)
    except SeveralModelsError:
        pass  # the prefix of a 'Pretrained' may say which is meant
    except CheckpointError as error:
        raise CheckpointError(f'{filename}: {error}') from error
    return content


def _read_safetensors(file: Path, map_location: Any) -> Mapping:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            'is a safetensors file, which takes a package to read: '
            'pip install safetensors'
        ) from error
    device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
    try:
        return load_file(str(file), device=str(device))
    except SafetensorError as error:
        raise CheckpointError(f'cannot be read ({error}): {_AGAIN}') from error


def _read_tensors(file: Path, map_location: Any) -> Any:
    # mmengine's own training checkpoints hold harmless records beside tensors.
    harmless = getattr(mmengine_checkpoint, 'get_torch_safe_globals', list)()
    allow = getattr(torch.serialization, 'safe_globals', lambda _: nullcontext())
    with allow(harmless):
        return torch.load(file, map_location=map_location, weights_only=True)


def check_content(content: Any):
    """Raise unless a file's content is weights under names, alone or among others.

    Raises:
        CheckpointError: for a pickled model, a list, numpy arrays, several models.
    """
    wrapped = ''
    if isinstance(content, Mapping):
        if find_weights(content).layout:
            return
        for key in ('model', 'state_dict'):
            if isinstance(content.get(key), nn.Module):
                content, wrapped = content[key], f' under {key!r}'
                break
        else:
            return
    kind = type(content).__name__
    if isinstance(content, nn.Module):
        raise CheckpointError(
            f'a whole model (a {kind}){wrapped}, not its weights: load it where its '
            f'code is and write them by {_SAVE}'
        )
    raise CheckpointError(
        f'holds a {kind}, not weights under their names: write those by {_SAVE}'
    )


def check_resumable(content: Mapping, name: str = 'the checkpoint'):
    """Raise unless a file's content is that of a training which can go on.

    Raises:
        CheckpointError: naming what is not there and what to do with mere weights.
    """
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    missing = [key for key in ('epoch', 'iter') if key not in meta]
    missing += [key for key in ('state_dict', 'message_hub') if key not in content]
    if missing:
        raise CheckpointError(
            f'{name} holds weights but no training to go on with (no '
            f'{", ".join(missing)}): start a new one from them with load_from (of '
            'tools/train.py: --cfg-options load_from=PATH) instead of resuming'
        )


def load_checkpoint(place: str) -> Mapping:
    """Read a file or URL, to the CPU; see :func:`read_checkpoint`."""
    return CheckpointLoader.load_checkpoint(place, 'cpu')


@CheckpointLoader.register_scheme(prefixes='', force=True)
def _load_local(filename: str, map_location: Any = None) -> Mapping:
    """What mmengine reads local files by: its 'state_dict' is the averaged one."""
    return _with_average(read_checkpoint(filename, map_location), filename)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def _load_url(
    filename: str,
    map_location: Any = None,
    model_dir: Optional[str] = None,
    progress: bool = True,
) -> Mapping:
    """What mmengine reads web addresses by: torch keeps what it fetched, good or not.

    Raises:
        CheckpointError: for an address that gives nothing, or no weights.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    kept = folder / os.path.basename(urlparse(filename).path)
    try:
        content = load_from_http(filename, map_location, model_dir, progress)
        check_content(content)
    except SeveralModelsError:
        pass
    except _NOT_READ as error:
        if not kept.is_file():
            raise CheckpointError(
                f'{filename} could not be fetched ({error}): check the address and '
                f'the connection, or put the file there yourself: {kept}'
            ) from error
        try:
            content = read_checkpoint(kept, map_location)
        except CheckpointError as fault:
            raise CheckpointError(
                f'what was fetched from {filename} was kept as {fault}. Delete that '
                'file before you try again'
            ) from error
    return _with_average(content, filename)


def _with_average(content: Mapping, filename: str) -> Mapping:
    try:
        weights = find_weights(content)
    except SeveralModelsError:
        return content
    # Of all keys mmengine knows this one only.
    is_hidden = weights.wrapper.split('.')[0] != 'state_dict'
    if weights.layout and is_hidden and 'state_dict' in content:
        print_log(
            f'SparseFormer: {filename}: taking the averaged weights under '
            f'{weights.place!r}',
            logger='current',
        )
        content = dict(content, state_dict=weights.state)
    return content
