"""What can be wrong with the data of a detector."""

import math
from typing import Iterator, List, Optional, Sequence, Set, Tuple

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from torch import nn

from ..engine.datasets import data_infos, find_step, pick, source_of
from ..engine.pictures import MAX_LOOKUPS, check_pictures, files_of
from ..engine.problems import (
    Problem,
    Use,
    check_num_classes,
    class_names,
    some,
    unseen_classes,
)
from ..engine.sizes import Size, check_sizes
from .coco import check_coco, check_scored, check_structure, read_annotations


def check_model(model: nn.Module) -> Iterator[Problem]:
    """Nothing: detectors have a class more, for no object."""
    return iter(())


def head_of(model: Optional[nn.Module]) -> Optional[nn.Module]:
    """The head that names classes; the last one of a cascade."""
    owner = getattr(model, 'roi_head', model)
    head = getattr(owner, 'bbox_head', None)
    return head[-1] if isinstance(head, nn.ModuleList) else head


def check_dataset(dataset, use: Use) -> Iterator[Problem]:
    """Annotations and pictures of a data set of mmdet."""
    source, classes = source_of(dataset), class_names(dataset)
    is_coco = isinstance(dataset, CocoDataset) and dataset.COCOAPI is COCO
    content = read_annotations(dataset) if is_coco else None
    if is_coco and not any('segments_info' in x for x in content['annotations']):
        yield from check_coco(content, source, classes, use)
    scored = content is not None and any(
        check_scored(content['annotations'], source, use)
    )
    del content
    yield from check_num_classes(head_of(use.model), 'bbox_head', classes, source)
    boxes, ids = Boxes(), []
    for info in data_infos(dataset):
        boxes.add(info.get('instances', ()))
        ids.append(info.get('img_id'))
    yield from boxes.check(source, classes, use)
    yield from check_metrics(ids, source, use)
    for api in _truths(use.metrics) if not scored else ():  # of a file of its own
        truth = f'the ann_file of {use.split}_evaluator'
        yield from check_scored(api.dataset.get('annotations', ()), truth, use)
    loader = find_step(dataset, 'LoadImage')
    files = files_of(dataset, 'img_path', use)
    yield from check_pictures(files, 'pictures', dataset, use, loader)
    yield from check_sizes(_annotated_sizes(dataset, use), loader, source)


def check_annotations(dataset) -> Iterator[Problem]:
    """What keeps mmdet from reading a file; for a data set not yet built."""
    if not isinstance(dataset, CocoDataset):
        return
    file = dataset.ann_file
    try:
        content = read_annotations(dataset)
    except (ValueError, OSError) as error:
        yield Problem(
            f'{file} is no complete JSON file ({error}): export or copy it again'
        )
        return
    yield from check_structure(content, file)


class Boxes:
    """What mmdet has made of the annotations, from whatever format, in one pass."""

    def __init__(self) -> None:
        self.count = self.crowds = 0
        self.labels: Set[int] = set()
        self.wild: List[list] = []

    def add(self, instances: Sequence[dict]) -> None:
        """Count the boxes of one picture."""
        for instance in instances:
            self.count += 1
            if instance.get('ignore_flag'):
                self.crowds += 1
                continue
            self.labels.add(instance['bbox_label'])
            if not all(map(math.isfinite, instance.get('bbox', ()))):
                self.wild.append(instance['bbox'])

    def check(self, source: str, classes, use: Use) -> Iterator[Problem]:
        """Nothing to learn from, boxes without end, labels beyond the classes."""
        if self.count == self.crowds:
            what = 'no box'
            if self.crowds:
                what = f'only boxes of crowds ({self.crowds:,})'
            cure = (
                'crowds ("iscrowd": 1) are neither learnt nor scored; set it to 0'
                if self.crowds
                else 'check the category_id, image_id and bbox (x, y, width, height '
                'in pixels) of its annotations'
            )
            yield Problem(
                f'{source} has {what} of the classes {list(classes or ())} inside an '
                f'image: {cure}',
                fatal=use.split == 'train',
            )
            return
        if self.wild:
            yield Problem(
                f'{source}: {len(self.wild):,} boxes are infinite or NaN, for instance '
                f'{self.wild[0]} (x1, y1, x2, y2): correct or delete them'
            )
        if classes is None or isinstance(classes, str):
            return
        beyond = sorted(x for x in self.labels if not 0 <= x < len(classes))
        if beyond:
            yield Problem(
                f'{source}: boxes have the labels {some(beyond)}, but there are '
                f'{len(classes)} classes: compare its categories with '
                'metainfo=dict(classes=(...))'
            )
        unseen = sorted(set(range(len(classes))) - self.labels)
        if unseen:
            yield Problem(unseen_classes(unseen, classes, source), fatal=False)


def _truths(metrics: Sequence) -> List[COCO]:
    """What metrics have read from an annotation file of their own."""
    apis = [getattr(metric, '_coco_api', None) for metric in metrics]
    return [api for api in apis if api is not None]


def check_metrics(ids: Sequence, source: str, use: Use) -> Iterator[Problem]:
    """A metric that scores against the annotations of other pictures."""
    for api in _truths(use.metrics):
        unknown = [i for i in ids if i not in api.imgs]
        if unknown:
            yield Problem(
                f'the ann_file of {use.split}_evaluator does not have '
                f'{len(unknown):,} of the {len(ids):,} images of {source}, for '
                f'instance the id {unknown[0]!r}: give it the ann_file of '
                f'{use.split}_dataloader'
            )
        elif len(api.imgs) > len(set(ids)):
            yield Problem(
                f'the ann_file of {use.split}_evaluator has {len(api.imgs):,} images, '
                f'{source} gives {len(set(ids)):,} of them: all boxes of the others '
                'count as missed. Give both the same file, and the data set no indices',
                fatal=False,
            )


def _annotated_sizes(dataset, use: Use) -> Iterator[Tuple[str, str, Size]]:
    """The size that annotations give each picture."""
    for index in pick(len(dataset), MAX_LOOKUPS, use.seed):
        info = dataset.get_data_info(index)
        if info.get('width') and info.get('height'):
            size = Size(info['width'], info['height'])
            yield info['img_path'], 'its annotation says', size
