"""Generated pictures with the files and folders of ADE20K and Cityscapes."""

from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
from PIL import Image

# height, width, label of the ground and rectangles (label, x, y, w, h in pixels)
Scene = Tuple[int, int, int, List[Tuple[int, int, int, int, int]]]

# Labels as ADE20K's files have them: 0 is unlabelled, classes are 1 to 150.
ADE_SCENES: Sequence[Scene] = (
    (48, 80, 1, [(150, 8, 8, 30, 24), (0, 60, 0, 12, 48)]),
    (72, 48, 3, [(17, 4, 30, 36, 32)]),
    (48, 48, 0, [(1, 0, 0, 48, 24), (150, 12, 20, 24, 24)]),
    (60, 96, 17, [(3, 50, 12, 40, 36), (1, 4, 4, 16, 48)]),
)
# Train ids of Cityscapes: 0 to 18, 255 is not evaluated.
CITY_SCENES: Sequence[Scene] = (
    (48, 96, 0, [(18, 8, 8, 30, 24), (255, 60, 0, 12, 48)]),
    (48, 96, 10, [(0, 0, 24, 96, 24), (13, 30, 16, 24, 20)]),
)
CITIES = ('aachen', 'bochum')


def draw_mask(scene: Scene) -> np.ndarray:
    """Labels (H, W), uint8."""
    height, width, ground, rectangles = scene
    mask = np.full((height, width), ground, np.uint8)
    for label, x, y, w, h in rectangles:
        mask[y : y + h, x : x + w] = label
    return mask


# One per label, so that a model can tell them apart.
COLOURS = np.random.default_rng(7).integers(30, 226, (256, 3))


def draw_image(
    mask: np.ndarray, seed: int, colours: Sequence[Sequence[int]] = COLOURS
) -> np.ndarray:
    """Noise around a colour for each label: (H, W, 3), uint8."""
    noise = np.random.default_rng(seed).integers(-20, 21, (*mask.shape, 3))
    return (np.asarray(colours)[mask] + noise).astype(np.uint8)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_ade(root: Path, scenes: Sequence[Scene] = ADE_SCENES) -> Path:
    """Write ``images/{training,validation}`` and ``annotations/`` with the same."""
    for split, short in (('training', 'train'), ('validation', 'val')):
        for index, scene in enumerate(scenes):
            name, mask = f'ADE_{short}_{index + 1:08d}', draw_mask(scene)
            save(draw_image(mask, index), root / 'images' / split / f'{name}.jpg')
            save(mask, root / 'annotations' / split / f'{name}.png')
    return root


def make_cityscapes(root: Path, scenes: Sequence[Scene] = CITY_SCENES) -> Path:
    """Write ``leftImg8bit/{train,val}`` and ``gtFine/``, one city per scene."""
    for split in ('train', 'val'):
        for index, (city, scene) in enumerate(zip(CITIES, scenes)):
            name, mask = f'{split}/{city}/{city}_000000_000019', draw_mask(scene)
            image = draw_image(mask, index)
            save(image, root / 'leftImg8bit' / f'{name}_leftImg8bit.png')
            save(mask, root / 'gtFine' / f'{name}_gtFine_labelTrainIds.png')
            # Other files of the data set, which are not the labels.
            save(mask + 1, root / 'gtFine' / f'{name}_gtFine_labelIds.png')
    return root
