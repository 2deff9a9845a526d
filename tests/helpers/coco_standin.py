"""A handful of generated pictures with COCO's files and folders."""

import json
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image

# COCO numbers its 80 classes with gaps.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [i for i in range(1, 91) if i not in GAPS]

# height, width and objects (class index, x, y, w, h in pixels, crowd) of each image
Scene = Tuple[int, int, List[Tuple[int, int, int, int, int, bool]]]
SCENES: Sequence[Scene] = (
    (72, 120, [(0, 10, 8, 50, 40, False), (79, 60, 30, 55, 36, False)]),
    (110, 64, [(17, 6, 40, 44, 60, False), (0, 2, 4, 60, 30, True)]),
    (80, 80, []),
    (60, 100, [(45, 34, 12, 40, 40, False)]),
)


def coco_class_names() -> Sequence[str]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO['classes']


def draw(path: Path, scene: Scene, seed: int, num_classes: int) -> None:
    """Grey noise with a coloured rectangle for each object."""
    height, width, objects = scene
    pixels = np.random.default_rng(seed).integers(90, 160, (height, width, 3))
    for label, x, y, w, h, _ in objects:
        colour = np.random.default_rng(label).permutation([240, 20, 120])
        if num_classes <= 3:
            colour = np.eye(3)[label] * 230 + 10
        pixels[y : y + h, x : x + w] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def annotations(scenes: Sequence[Scene], names: Sequence[str], ids: list) -> Dict:
    """The content of an ``instances_*.json``."""
    images, objects = [], []
    for index, (height, width, boxes) in enumerate(scenes):
        images.append(
            dict(
                id=index + 100,
                file_name=f'{index:012d}.jpg',
                height=height,
                width=width,
            )
        )
        for label, x, y, w, h, crowd in boxes:
            objects.append(
                dict(
                    id=len(objects) + 1,
                    image_id=index + 100,
                    category_id=ids[label],
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(crowd),
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
    categories = [dict(id=i, name=name) for i, name in zip(ids, names)]
    return dict(images=images, annotations=objects, categories=categories)


def make_coco(
    root: Path,
    train: Sequence[Scene] = SCENES,
    val: Sequence[Scene] = SCENES,
    names: Sequence[str] = (),
) -> Path:
    """Write ``annotations/``, ``train2017/`` and ``val2017/``.

    Args:
        root: folder to make.
        train, val: what to draw.
        names: of the classes; COCO's 80 if empty.
    """
    ids = list(range(1, len(names) + 1)) if names else COCO_IDS
    names = names or coco_class_names()
    (root / 'annotations').mkdir(parents=True)
    for split, scenes in (('train2017', train), ('val2017', val)):
        content = annotations(scenes, names, ids)
        for index, scene in enumerate(scenes):
            name = content['images'][index]['file_name']
            draw(root / split / name, scene, index, len(names))
        file = root / 'annotations' / f'instances_{split}.json'
        file.write_text(json.dumps(content))
    return root
