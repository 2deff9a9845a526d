"""What can be wrong with a file in COCO's format."""

import json
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from ..engine.problems import Problem, Use, some

_LARGE = 100e6  # bytes; takes some seconds


def read_annotations(dataset) -> Any:
    """The content of a data set's annotation file.

    Raises:
        ValueError: if it is no JSON.
    """
    content = fileio.get(dataset.ann_file, getattr(dataset, 'backend_args', None))
    if len(content) > _LARGE:
        size = f'{len(content) / 1e6:.0f} MB'
        print_log(f'checking {dataset.ann_file} ({size})', logger='current')
    return json.loads(content)


def check_structure(content: Any, source: str) -> Iterator[Problem]:
    """Parts that a file in COCO's format must have."""
    keys = dict(
        images=('id', 'file_name', 'width', 'height'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
        categories=('id', 'name'),
    )
    cures = dict(
        area='add "area": width * height of the box',
        id='number them from 1',
        width='add the size of the picture in pixels',
        height='add the size of the picture in pixels',
    )
    for part, needed in keys.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            yield Problem(
                f"{source} has no list {part!r}, as files in COCO's format have: "
                'export it as COCO JSON (object detection)'
            )
            return
        odd = [entry for entry in entries if not isinstance(entry, dict)]
        if odd:
            yield Problem(
                f'{source}: {len(odd):,} of {len(entries):,} {part} are not objects of '
                f'{", ".join(needed)}, for instance {odd[0]!r}: write them so'
            )
            return
        for key in needed:
            wrong = [
                entry for entry in entries if not _is_meant(key, entry.get(key, 0))
            ]
            if wrong:
                yield Problem(
                    f'{source}: {len(wrong):,} of {len(entries):,} {part} have a '
                    f'{key!r} of the wrong kind, for instance {_short(wrong[0])}: '
                    'correct it'
                )
                return
            lacking = [entry for entry in entries if key not in entry]
            if lacking:
                cure = cures.get(key, f'add {key!r} to each')
                yield Problem(
                    f'{source}: {len(lacking):,} of {len(entries):,} {part} have no '
                    f'{key!r}, for instance {_short(lacking[0])}: {cure}'
                )
    boxes = [note for note in content.get('annotations') or () if 'bbox' in note]
    wrong = [note for note in boxes if not _is_box(note['bbox'])]
    if wrong:
        yield Problem(
            f'{source}: {len(wrong):,} boxes are not four numbers, for instance '
            f'bbox={wrong[0]["bbox"]!r} of annotation {wrong[0].get("id")}: write x, '
            'y, width, height in pixels'
        )
    for part in ('images', 'annotations', 'categories'):
        ids = [entry.get('id') for entry in content.get(part) or ()]
        twice = _twice(ids)
        if twice:
            yield Problem(
                f'{source}: {part} share the id {some(map(repr, twice))}: number them '
                'so that each has its own'
            )


def _short(entry: dict) -> str:
    text = repr({key: value for key, value in entry.items() if key != 'segmentation'})
    return text if len(text) < 120 else text[:116] + ' ...'


def _is_meant(key: str, value: Any) -> bool:
    """Whether a value is of a kind that its key may have; boxes are seen to later."""
    if key in ('width', 'height', 'area'):
        return isinstance(value, (int, float))
    if key == 'bbox':
        return True
    return isinstance(value, (int, str))  # pycocotools takes names as ids too


def _is_box(box) -> bool:
    return (
        isinstance(box, (list, tuple))
        and len(box) == 4
        and all(isinstance(x, (int, float)) for x in box)
    )


def _twice(values: Sequence) -> List:
    seen, twice = set(), []
    for value in values:
        if value in seen:
            twice.append(value)
        seen.add(value)
    return list(dict.fromkeys(twice))


def check_coco(
    content: dict, source: str, classes: Sequence[str], use: Use
) -> Iterator[Problem]:
    """Annotations of a file in COCO's format that cannot be meant."""
    categories, notes = content['categories'], content['annotations']
    names = {category['id']: category['name'] for category in categories}
    yield from check_categories(categories, source, classes)
    yield from _check_ids(
        notes, 'category_id', names, f'the categories are {_ids(names, names)}', source
    )
    images = {image['id']: image for image in content['images']}
    yield from _check_ids(
        notes, 'image_id', images, f'the images have the ids {_ids(images)}', source
    )
    ignored = [note for note in notes if names.get(note['category_id']) not in classes]
    ignored = [note for note in ignored if note['category_id'] in names]
    if ignored and len(ignored) < len(notes):
        left = sorted({names[note['category_id']] for note in ignored})
        yield Problem(
            f'{source}: {len(ignored):,} of {len(notes):,} annotations are of the '
            f'categories {some(map(repr, left), 5)} and are left out: if they should '
            'not be, name these in metainfo=dict(classes=(...)) of the data set',
            fatal=False,
        )
    yield from check_boxes(notes, images, source)
    yield from check_scored(notes, source, use)


def check_categories(
    categories: Sequence[dict], source: str, classes: Sequence[str]
) -> Iterator[Problem]:
    """Classes that a file does not have, has twice, or in another order."""
    known, classes = [category['name'] for category in categories], list(classes)
    for name in _twice(classes):
        yield Problem(
            f'metainfo of the data set of {source} names the class {name!r} twice: '
            'mmdet then counts fewer labels than classes; name each once'
        )
    for name in _twice(known):
        ids = [entry['id'] for entry in categories if entry['name'] == name]
        yield Problem(
            f'{source} has the category {name!r} {len(ids)} times, with the ids '
            f'{some(ids)}; mmdet then counts more labels than classes: give each '
            'category a name of its own, or all its annotations one id'
        )
    missing = [name for name in classes if name not in known]
    if missing:
        yield Problem(
            f'{source} has no category {sorted(missing)}; its categories are {known}. '
            'Set metainfo=dict(classes=(...)) of the data set to names from there, '
            'and num_classes of the head to their number'
        )
        return
    order = list(dict.fromkeys(name for name in known if name in classes))
    if order != classes:
        yield Problem(
            f'mmdet numbers classes in the order of {source}, which is {order}, not '
            f'{classes}: set metainfo=dict(classes=(...)) of all data sets in that '
            'order'
        )


def _ids(ids, names=None) -> str:
    """Ids as a range or a list, with names if there are."""
    if names:
        return some((f'{i!r} ({name})' for i, name in names.items()), 8)
    numbers = [i for i in ids if isinstance(i, int)]
    if len(numbers) == len(ids) > 3:
        return f'{min(numbers)} to {max(numbers)}'
    return some(map(repr, ids), 3)


def _check_ids(notes, key: str, known, these: str, source: str) -> Iterator[Problem]:
    """References that lead nowhere, which mmdet passes over in silence."""
    stray = [note for note in notes if note[key] not in known]
    if not stray:
        return
    values = list(dict.fromkeys(note[key] for note in stray))
    hint = ''
    others = {str(i) for i in known}
    if all(str(value) in others for value in values):
        hint = ' (numbers here, strings there)'
    elif 0 in values and len(values) == 1 and 0 not in known:
        hint = f' (does {key} count from 0, and the ids from 1?)'
    yield Problem(
        f'{source}: {len(stray):,} of {len(notes):,} annotations have a {key} that '
        f'does not exist, {some(map(repr, values), 5)}, for instance annotation '
        f'{stray[0].get("id")!r}; {these}{hint}. Correct the ids: mmdet leaves such '
        'annotations out'
    )


def check_boxes(
    notes: Sequence[dict], images: Dict[Any, dict], source: str
) -> Iterator[Problem]:
    """Boxes that are no numbers, or that mmdet leaves out for size or place."""
    notes = [note for note in notes if note['image_id'] in images]
    if not notes:
        return
    boxes = np.array([note['bbox'] for note in notes], dtype=np.float64)
    sizes = np.array(
        [
            [images[note['image_id']][side] for side in ('width', 'height')]
            for note in notes
        ],
        dtype=np.float64,
    )
    area = np.array([note['area'] for note in notes], dtype=np.float64)

    def of(indices) -> str:
        note = notes[indices[0]]
        image = images[note['image_id']]
        return (
            f'bbox={note["bbox"]} of annotation {note.get("id")!r} in '
            f'{image["file_name"]} ({image["width"]} x {image["height"]})'
        )

    odd = ~np.isfinite(boxes).all(1)
    if odd.any():
        bad = np.flatnonzero(odd)
        yield Problem(
            f'{source}: {len(bad):,} boxes are infinite or NaN, for instance '
            f'{of(bad)}: correct or delete them'
        )
    boxes = np.where(odd[:, None], 1, boxes)
    ends = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes)
    inside = (ends - np.maximum(boxes[:, :2], 0) > 0).all(1)
    for mask, what, cure in (
        (
            (boxes[:, 2:] < 1).any(1),
            'are less than a pixel wide or high',
            'bbox is x, y, width, height in pixels, neither corners nor fractions',
        ),
        (
            (boxes[:, 2:] >= 1).all(1) & ~inside,
            'lie outside their picture',
            'compare bbox with the width and height of the image',
        ),
        (
            (boxes[:, 2:] >= 1).all(1) & inside & ~(area > 0),
            'have no area',
            'set "area" to width * height',
        ),
    ):
        left_out = np.flatnonzero(mask & ~odd)
        if len(left_out):
            yield Problem(
                f'{source}: {len(left_out):,} of {len(notes):,} boxes {what}, for '
                f'instance {of(left_out)}; mmdet leaves them out: {cure}',
                fatal=False,
            )
    beyond = inside & (boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(1) & ~odd
    if beyond.any():
        reach = np.flatnonzero(beyond)
        yield Problem(
            f'{source}: {len(reach):,} of {len(notes):,} boxes reach beyond their '
            f'picture, for instance {of(reach)}: bbox is x, y, width, height, not two '
            'corners',
            fatal=False,
        )


def check_scored(notes: Sequence[dict], source: str, use: Use) -> Iterator[Problem]:
    """What pycocotools stumbles over, or scores wrong, when a file is the truth."""
    scored, later = use.split != 'train', ''
    if not scored:
        later = ', which does no harm in training, but would in validation'
    zero = [note for note in notes if note['id'] == 0]
    if zero:
        yield Problem(
            f'{source}: an annotation has the id 0{later}. pycocotools takes 0 for '
            '"no match" and counts its detection as wrong: number annotations from 1',
            fatal=scored,
        )
    lacking = [note for note in notes if 'iscrowd' not in note]
    if lacking:
        yield Problem(
            f'{source}: {len(lacking):,} of {len(notes):,} annotations have no '
            f"'iscrowd', for instance annotation {lacking[0]['id']!r}{later}. "
            'pycocotools ends in a KeyError after all pictures: add "iscrowd": 0',
            fatal=scored,
        )
