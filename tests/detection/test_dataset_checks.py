"""Annotations that mmdet would train to nothing on, or trip over."""

import copy
import json

import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.datasets import CocoDataset  # noqa: E402
from mmengine.dataset import ConcatDataset, RepeatDataset  # noqa: E402

from sparseformer_mm.detection import CheckDatasetHook  # noqa: E402
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402

pytestmark = pytest.mark.mmdet

ANNOTATIONS = dict(
    images=[
        dict(id=1, file_name='a.png', width=64, height=48),
        dict(id=2, file_name='b.png', width=64, height=48),
    ],
    annotations=[
        dict(id=1, image_id=1, category_id=3, bbox=[5, 5, 10, 9], area=90, iscrowd=0),
        dict(id=2, image_id=2, category_id=5, bbox=[0, 0, 8, 8], area=64, iscrowd=1),
    ],
    categories=[dict(id=3, name='cat'), dict(id=5, name='dog')],
)


class Runner:
    """What the hook sees of a runner whose loaders all read one data set."""

    val_loop = None

    def __init__(self, dataset, num_classes=None):
        self.train_dataloader = self.val_dataloader = self.test_dataloader = self
        self.dataset = dataset
        self.model = torch.nn.Module()
        if num_classes is not None:
            self.model.bbox_head = torch.nn.Module()
            self.model.bbox_head.num_classes = num_classes


def make_dataset(tmp_path, classes=('cat', 'dog'), **changes):
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(dict(copy.deepcopy(ANNOTATIONS), **changes)))
    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=classes),
        pipeline=[],
    )


def test_sound_annotations_pass(tmp_path):
    dataset = make_dataset(tmp_path)
    for wrapped in (dataset, RepeatDataset(dataset, 2), ConcatDataset([dataset] * 2)):
        CheckDatasetHook().before_train(Runner(wrapped))


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: RepeatDataset(d, 2)])
def test_missing_category(tmp_path, wrap):
    dataset = wrap(make_dataset(tmp_path, ('cat', 'bird', 'dog')))
    with pytest.raises(ValueError) as error:
        CheckDatasetHook().before_train(Runner(dataset))
    for part in ('annotations.json', "no category ['bird']", "['cat', 'dog']"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    'box', [[70, 5, 10, 9], [5, -20, 10, 9], [5, 5, 0, 9]], ids=str
)
def test_no_box_inside_an_image(tmp_path, box):
    """mmdet leaves such boxes out; when it leaves out all, training is in vain."""
    annotation = dict(ANNOTATIONS['annotations'][0], bbox=box)
    dataset = make_dataset(tmp_path, annotations=[annotation])
    with pytest.raises(ValueError, match=r'no box of the classes .*inside an image'):
        CheckDatasetHook().before_train(Runner(dataset))
    rest = make_dataset(
        tmp_path, annotations=[annotation, ANNOTATIONS['annotations'][1]]
    )
    CheckDatasetHook().before_train(Runner(rest))
    assert [len(rest.get_data_info(i)['instances']) for i in (0, 1)] == [0, 1]


def test_empty_image_list(tmp_path):
    message = 'error: .*no picture.*ann_file'
    with pytest.raises(SystemExit, match=message), explain_errors():
        make_dataset(tmp_path, images=[], annotations=[])


def test_other_value_errors_pass_through():
    with pytest.raises(ValueError, match='something else'), explain_errors():
        raise ValueError('something else')


def test_order_of_classes(tmp_path):
    """mmdet would call cats dogs and dogs cats."""
    dataset = make_dataset(tmp_path, ('dog', 'cat'))
    assert dataset.get_data_info(0)['instances'][0]['bbox_label'] == 0  # a cat
    with pytest.raises(ValueError, match=r"\['cat', 'dog'\], not \['dog', 'cat'\]"):
        CheckDatasetHook().before_train(Runner(dataset))


def test_classes_of_validation_and_test_data_count_too(tmp_path):
    (tmp_path / 'other').mkdir()
    runner = Runner(make_dataset(tmp_path))
    swapped = Runner(make_dataset(tmp_path / 'other', ('dog', 'cat')))
    runner.val_dataloader = runner.test_dataloader = swapped
    CheckDatasetHook().before_train(runner)  # no validation
    runner.val_loop = 'some'
    for check in (CheckDatasetHook().before_train, CheckDatasetHook().before_test):
        with pytest.raises(ValueError, match='mmdet numbers classes in the order'):
            check(runner)


def test_data_for_testing_need_no_boxes(tmp_path):
    CheckDatasetHook().before_test(Runner(make_dataset(tmp_path, annotations=[])))


@pytest.mark.parametrize('num_classes', [1, 3])
def test_classes_of_the_head(tmp_path, num_classes):
    dataset = make_dataset(tmp_path)
    CheckDatasetHook().before_train(Runner(dataset, 2))
    for check in (CheckDatasetHook().before_train, CheckDatasetHook().before_test):
        with pytest.raises(ValueError, match=f'num_classes={num_classes} of bbox_head'):
            check(Runner(dataset, num_classes))
