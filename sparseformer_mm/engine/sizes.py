"""Sizes of pictures once they are loaded, and of what lies over them."""

from typing import Any, Iterable, Iterator, NamedTuple, Optional, Tuple

from PIL import Image

from .pictures import is_local
from .problems import Problem, some

_ORIENTATION = 0x0112  # EXIF


class Size(NamedTuple):
    """Of a picture in pixels, and the EXIF orientation by which loading turns it.

    Orientation 1 is upright; from 5 on, width and height have been swapped.
    """

    width: int
    height: int
    orientation: int = 1

    def __str__(self) -> str:
        return f'{self.width} x {self.height}'


def size_as_loaded(path: str, loader: Any) -> Optional[Size]:
    """The size that a step of a pipeline gives a picture; None if unknown.

    Only the file's first bytes are read. OpenCV and Pillow turn photos upright for
    mmcv's ``LoadImageFromFile``, unless its ``color_type`` keeps them from it, and
    nothing for ``LoadAnnotations``.
    """
    backend = getattr(loader, 'imdecode_backend', None)
    if backend is None or getattr(loader, 'backend_args', None) or not is_local(path):
        return None
    try:
        with Image.open(path) as image:
            width, height = image.size
            turn = image.getexif().get(_ORIENTATION, 1)
            kind = image.format
    except Exception:
        return None  # told of as a file that cannot be read
    turns = getattr(loader, 'color_type', None) in ('color', 'grayscale')
    if not turns or backend not in ('cv2', 'pillow') or turn not in range(2, 9):
        return Size(width, height)
    if kind != 'JPEG':
        return None  # versions of OpenCV differ
    return Size(height, width, turn) if turn > 4 else Size(width, height, turn)


def check_sizes(
    pairs: Iterable[Tuple[str, str, Size]], loader: Any, source: str
) -> Iterator[Problem]:
    """Pictures that have not the size of what lies over them, or are turned by EXIF.

    Args:
        pairs: path of a picture, name of what lies over it, and the size of that.
        loader: step of the pipeline that loads the pictures.
        source: file or folder that these are of.
    """
    differing, turned = [], []
    for path, other, size in pairs:
        loaded = size_as_loaded(path, loader)
        if loaded is None:
            continue
        turn, swapped = loaded.orientation, loaded[1::-1] == size[:2]
        if loaded[:2] != size[:2]:
            how = ' once it is turned as its EXIF says' if turn > 4 else ''
            if not how and swapped:
                how = ' (width and height are swapped)'
            differing.append(f'{path} is {loaded}{how}, {other} {size}')
        elif 1 < turn < 5 or (turn > 4 and swapped):
            turned.append(f'{path} (EXIF orientation {turn})')
    cure = "color_type='color_ignore_orientation' of LoadImageFromFile"
    if differing:
        yield Problem(
            f'{source}: {len(differing):,} pictures have not the size of what lies '
            f'over them: {some(differing, 2)}. Save both in one size, the pictures '
            f'upright (or, for EXIF only, set {cure})'
        )
    if turned:
        yield Problem(
            f'{source}: {len(turned):,} pictures are turned when they are loaded, what '
            f'lies over them is not: {some(turned, 2)}. If it does not fit then, set '
            f'{cure}, or save the pictures upright',
            fatal=False,
        )
