"""Files that tools write: seen to be possible before work, and whole or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from .errors import fail

__all__ = ['check_folder', 'check_writable', 'replacing']


def check_writable(path: Union[str, Path], *inputs: Union[str, Path]) -> None:
    """End a tool unless it can write a file there; make the folder it goes to.

    To be called before the work whose result goes there. A file that is there already
    keeps its content for now.

    Args:
        path: where the file goes.
        *inputs: files that the tool reads and must not write over.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            fail(
                f'cannot write {path}: it is a folder; name a file, such as {path}/out'
            )
        if path.exists():
            for source in inputs:
                if os.path.exists(source) and os.path.samefile(source, path):
                    fail(f'{path} is read and would be lost: name another output')
            open(path, 'ab').close()
        _try_folder(path.parent)
    except OSError as error:
        _explain(path, error)


def check_folder(path: Union[str, Path]) -> None:
    """End a tool unless it can write files into that folder; make the folder."""
    path = Path(path).expanduser()
    try:
        _try_folder(path)
    except OSError as error:
        _explain(path, error)


def _try_folder(folder: Path) -> None:
    # Permissions do not tell of full disks, read-only mounts or root's powers.
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b'.')


def _explain(path: Path, error: OSError) -> None:
    fail(
        f'cannot write {path} ({error.strerror}: {error.filename}): name another '
        'place, or see to its permissions and the space on its disk'
    )


@contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """Give the name of a new file beside ``path``, which takes its place at the end.

    After an error the new file is gone, and ``path`` is as it was.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f'.{path.stem[:40]}.', suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    # mkstemp makes files that only their owner can read.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
