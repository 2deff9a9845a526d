"""Annotations that mmdet would train to nothing on, or trip over."""

import copy
import json

import pytest

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.dataset import ConcatDataset, RepeatDataset  # noqa: E402

from sparseformer_mm.det import CheckDatasetHook  # noqa: E402
from sparseformer_mm.utils.launch import explain_errors  # noqa: E402

register_all_modules()
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
    def __init__(self, dataset):
        self.train_dataloader = self
        self.dataset = dataset


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
