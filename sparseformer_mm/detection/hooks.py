"""Checks of a detection data set before hours go into it."""

from typing import Iterator

import mmengine
from mmdet.datasets import CocoDataset
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper


def _plain_datasets(dataset) -> Iterator:
    """The data sets inside wrappers that repeat or join them."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
    else:
        for part in inner:
            yield from _plain_datasets(part)


@HOOKS.register_module()
class CheckDatasetHook(Hook):
    """Stop before training on annotations that cannot be meant.

    mmdet's :class:`CocoDataset` takes a class that the annotation file does not have
    in silence, gives the classes after it the label of the one before, numbers classes
    in the order of the file whatever order was asked for, and trains on no box at all
    if none of the names agree.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.detection.CheckDatasetHook')]
    """

    def before_train(self, runner):
        """Check the training data, and those for validation.

        Raises:
            ValueError: naming the file, what is missing there, and the cure.
        """
        self._check_all(runner, runner.train_dataloader, self._check_boxes)
        if runner.val_loop is not None:
            self._check_all(runner, runner.val_dataloader)

    def before_test(self, runner):
        """Check the classes of the data for testing, in the same way."""
        self._check_all(runner, runner.test_dataloader)

    def _check_all(self, runner, dataloader, *checks):
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        head = getattr(model, 'bbox_head', None)
        num_classes = getattr(head, 'num_classes', None)
        for dataset in _plain_datasets(dataloader.dataset):
            if not isinstance(dataset, CocoDataset):
                continue
            for check in (self._check_classes, *checks):
                check(dataset)
            classes = dataset.metainfo['classes']
            if num_classes not in (None, len(classes)):
                raise ValueError(
                    f'num_classes={num_classes} of bbox_head, but {dataset.ann_file} '
                    f'is read with the {len(classes)} classes {tuple(classes)}: make '
                    'num_classes and metainfo=dict(classes=(...)) agree'
                )

    @staticmethod
    def _check_classes(dataset: CocoDataset):
        classes = list(dataset.metainfo['classes'])
        # COCO's own file is large, and its classes need no second look.
        complete = len(dataset.cat_ids) == len(classes)
        if not complete or classes != list(CocoDataset.METAINFO['classes']):
            content = mmengine.load(dataset.ann_file)
            known = [category['name'] for category in content.get('categories', [])]
            if not complete:
                raise ValueError(
                    f'{dataset.ann_file} has no category '
                    f'{sorted(set(classes) - set(known))}; its categories are {known}. '
                    'Set metainfo=dict(classes=(...)) of the data set to names from '
                    'there, and num_classes of the head to their number'
                )
            order = [name for name in known if name in classes]
            if order != classes:
                raise ValueError(
                    f'mmdet numbers classes in the order of {dataset.ann_file}, which '
                    f'is {order}, not {classes}: set metainfo=dict(classes=(...)) of '
                    'all data sets in that order'
                )

    @staticmethod
    def _check_boxes(dataset: CocoDataset):
        infos = map(dataset.get_data_info, range(len(dataset)))
        if not any(info['instances'] for info in infos):
            classes = list(dataset.metainfo['classes'])
            raise ValueError(
                f'{dataset.ann_file} has no box of the classes {classes} inside an '
                'image: check the category_id, image_id and bbox (x, y, width, '
                'height in pixels) of its annotations'
            )
