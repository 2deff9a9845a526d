"""Checks of a detection data set before hours go into it."""

from typing import Iterator

import mmengine
from mmdet.datasets import CocoDataset
from mmdet.registry import HOOKS
from mmengine.hooks import Hook


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
        >>> custom_hooks = [dict(type='sparseformer_mm.det.CheckDatasetHook')]
    """

    def before_train(self, runner):
        """Check the training data.

        Raises:
            ValueError: naming the file, what is missing there, and the cure.
        """
        for dataset in _plain_datasets(runner.train_dataloader.dataset):
            if isinstance(dataset, CocoDataset):
                self._check(dataset)

    @staticmethod
    def _check(dataset: CocoDataset):
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
        if not any(
            info['instances']
            for info in map(dataset.get_data_info, range(len(dataset)))
        ):
            raise ValueError(
                f'{dataset.ann_file} has no box of the classes {list(classes)} inside '
                'an image: check the category_id, image_id and bbox (x, y, width, '
                'height in pixels) of its annotations'
            )
