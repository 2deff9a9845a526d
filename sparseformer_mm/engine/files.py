"""Pictures of a user: found in folders, and read."""

from itertools import chain, zip_longest
from pathlib import Path
from typing import List, Sequence

import numpy as np

from .pictures import load_problem

PICTURE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def files_in(folder: Path, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> List[Path]:
    """Files of some kinds in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)


def find_pictures(names: Sequence[str]) -> List[Path]:
    """Files as they are, and the pictures of folders in the order of their names.

    Of a folder which holds only folders, the first picture of each, the second of
    each and so on: classes take turns.

    Raises:
        ValueError: for a folder without any.
    """
    paths: List[Path] = []
    for path in map(Path, names):
        inside = [path]
        if path.is_dir():
            inside = files_in(path)
            if not inside:
                folders = sorted(p for p in path.iterdir() if p.is_dir())
                turns = chain.from_iterable(zip_longest(*map(files_in, folders)))
                inside = [p for p in turns if p is not None]
        if not inside:
            raise ValueError(
                f'folder {path} has no picture ({", ".join(PICTURE_SUFFIXES)})'
            )
        paths += inside
    return paths


def read_picture(path: Path) -> np.ndarray:
    """A picture as RGB (H, W, 3) uint8, turned as the libraries turn it.

    Raises:
        ValueError: if it cannot be read; says why.
    """
    import cv2  # not there in every environment that imports this

    content = np.fromfile(str(path), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise ValueError(f'{path} {load_problem(str(path))}: replace or leave it out')
    return np.ascontiguousarray(image[..., ::-1])
