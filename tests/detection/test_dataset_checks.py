"""Annotations that mmdet would train to nothing on, score wrong, or trip over."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.evaluation import CocoMetric  # noqa: E402
from mmengine.dataset import ConcatDataset, RepeatDataset  # noqa: E402

from sparseformer_mm.detection.checks import check_dataset  # noqa: E402
from sparseformer_mm.engine import CheckDatasetHook  # noqa: E402
from sparseformer_mm.engine.problems import Use  # noqa: E402
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402

pytestmark = pytest.mark.mmdet


ANNOTATIONS = dict(
    images=[
        dict(id=1, file_name='a.png', width=64, height=48),
        dict(id=2, file_name='b.png', width=64, height=48),
    ],
    annotations=[
        dict(id=1, image_id=1, category_id=3, bbox=[5, 5, 10, 9], area=90, iscrowd=0),
        dict(id=2, image_id=2, category_id=5, bbox=[0, 0, 8, 8], area=64, iscrowd=0),
        dict(id=3, image_id=2, category_id=5, bbox=[0, 0, 30, 8], area=240, iscrowd=1),
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


def changed(**changes):
    """The annotations with parts replaced, or, where a function, edited."""
    content = copy.deepcopy(ANNOTATIONS)
    for part, change in changes.items():
        if callable(change):
            change(content[part])
        else:
            content[part] = change
    return content


def make_dataset(tmp_path, classes=('cat', 'dog'), **changes):
    for image in ANNOTATIONS['images']:
        pixels = np.zeros((image['height'], image['width'], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / image['file_name'])
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(changed(**changes)))
    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=str(tmp_path)),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImageFromFile')],
    )


def set_all(key, value):
    return lambda notes: [note.update({key: value}) for note in notes]


def set_first(**values):
    return lambda notes: notes[0].update(values)


def remove(key):
    return lambda notes: [note.pop(key) for note in notes]


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_sound_annotations_pass(tmp_path, split):
    dataset = make_dataset(tmp_path)
    assert list(check_dataset(dataset, Use(split))) == []
    for wrapped in (dataset, RepeatDataset(dataset, 2), ConcatDataset([dataset] * 2)):
        CheckDatasetHook().before_train(Runner(wrapped))


# name -> changes, in which splits it is an error, in which a warning, what is named
CASES = {
    'category ids from 0': (
        dict(annotations=lambda notes: [n.update(category_id=0) for n in notes]),
        ('train', 'val'),
        (),
        ['3 of 3 annotations', 'category_id', ' 0,', '3 (cat), 5 (dog)', 'from 1'],
    ),
    'one unknown category id': (
        dict(annotations=set_first(category_id=4)),
        ('train', 'val'),
        (),
        ['1 of 3 annotations', 'category_id', ' 4,', 'annotation 1', '3 (cat)'],
    ),
    'unknown image ids': (
        dict(annotations=set_all('image_id', 77)),
        ('train', 'val'),
        (),
        ['3 of 3', 'image_id', ' 77,', 'ids 1, 2'],
    ),
    'image ids as strings': (
        dict(annotations=set_first(image_id='1')),
        ('train',),
        (),
        ["'1'", 'numbers here, strings there'],
    ),
    'all crowd': (
        dict(annotations=set_all('iscrowd', 1)),
        ('train',),
        ('val',),
        ['only boxes of crowds (3)', '"iscrowd": 1', 'set it to 0'],
    ),
    'annotation id 0': (
        dict(annotations=set_first(id=0)),
        ('val', 'test'),
        ('train',),
        ['the id 0', 'pycocotools', 'from 1'],
    ),
    'no iscrowd': (
        dict(annotations=remove('iscrowd')),
        ('val', 'test'),
        ('train',),
        ['3 of 3 annotations', "'iscrowd'", 'KeyError', 'add "iscrowd": 0'],
    ),
    'infinite box': (
        dict(annotations=set_first(bbox=[5, 5, math.inf, 9])),
        ('train', 'val'),
        (),
        ['infinite or NaN', '[5, 5, inf, 9]', 'annotation 1', 'a.png'],
    ),
    'NaN in a box': (
        dict(annotations=set_first(bbox=[math.nan, 5, 10, 9])),
        ('train', 'val'),
        (),
        ['infinite or NaN', '[nan, 5, 10, 9]', 'annotation 1', 'a.png'],
    ),
    'a box of no size': (
        dict(annotations=set_first(bbox=[5, 5, 0, 9])),
        (),
        ('train', 'val'),
        ['1 of 3 boxes', 'less than a pixel', '[5, 5, 0, 9]', 'width, height in pix'],
    ),
    'fractions of the picture': (
        dict(annotations=set_all('bbox', [0.1, 0.1, 0.5, 0.5])),
        ('train',),
        ('val',),
        ['no box of the classes', 'inside an image', 'in pixels'],
    ),
    'a box outside the picture': (
        dict(annotations=set_first(bbox=[70, 5, 10, 9])),
        (),
        ('train', 'val'),
        ['1 of 3 boxes', 'outside', '[70, 5, 10, 9]', 'a.png (64 x 48)'],
    ),
    'corners for sizes': (
        dict(annotations=set_first(bbox=[40, 20, 60, 40])),
        (),
        ('train', 'val'),
        ['1 of 3 boxes', 'beyond', '[40, 20, 60, 40]', 'not two corners'],
    ),
    'no area': (
        dict(annotations=set_first(area=0)),
        (),
        ('train',),
        ['1 of 3 boxes', 'no area', 'width * height'],
    ),
    'a category named twice': (
        dict(categories=[*ANNOTATIONS['categories'], dict(id=9, name='cat')]),
        ('train', 'val'),
        (),
        ["'cat' 2 times", '3, 9', 'a name of its own'],
    ),
    'a class without boxes': (
        dict(annotations=lambda notes: notes.pop(1)),
        (),
        ('train', 'val'),
        ['no sample of class 1 (dog)'],
    ),
    'a category that no class is': (
        dict(
            categories=[*ANNOTATIONS['categories'], dict(id=9, name='bird')],
            annotations=set_first(category_id=9),
        ),
        (),
        ('train',),
        ['1 of 3 annotations', "'bird'", 'left out', 'metainfo'],
    ),
    'sizes swapped': (
        dict(images=lambda images: images[0].update(width=48, height=64)),
        ('train', 'val'),
        (),
        ['a.png is 64 x 48 (', 'annotation says 48 x 64', 'upright'],
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_annotations_that_cannot_be_meant(tmp_path, name):
    changes, errors, warnings, parts = CASES[name]
    dataset = make_dataset(tmp_path, **changes)
    for split in (*errors, *warnings):
        found = [
            problem
            for problem in check_dataset(dataset, Use(split))
            if all(part in problem.message for part in parts)
        ]
        assert found, list(check_dataset(dataset, Use(split)))
        assert 'annotations.json' in found[0].message
        assert found[0].fatal == (split in errors), split


# what mmdet fails on while it builds the data set, and what the tools then say
BROKEN = {
    'no area': (dict(annotations=remove('area')), ["'area'", 'width * height']),
    'no bbox': (dict(annotations=remove('bbox')), ["no 'bbox'", '3 of 3 annotations']),
    'three numbers': (
        dict(annotations=set_first(bbox=[1, 2, 3])),
        ['[1, 2, 3]', 'annotation 1', 'x, y, width, height'],
    ),
    'words for numbers': (
        dict(annotations=set_first(bbox=['1', '2', '3', '4'])),
        ["['1', '2', '3', '4']", 'four numbers'],
    ),
    'no width': (dict(images=remove('width')), ["no 'width'", 'size of the picture']),
    'no file name': (dict(images=remove('file_name')), ["no 'file_name'"]),
    'one id twice': (dict(annotations=set_all('id', 7)), ['share the id 7']),
    'no categories': (dict(categories=None), ["no list 'categories'", 'COCO JSON']),
}


@pytest.mark.parametrize('name', BROKEN)
def test_files_that_mmdet_cannot_read(tmp_path, name):
    changes, parts = BROKEN[name]
    with pytest.raises(SystemExit) as error, explain_errors():
        make_dataset(tmp_path, **changes)
    for part in ['error: ', 'annotations.json', *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    'content, said', [('{"images": [', 'no complete JSON'), (None, 'does not exist')]
)
def test_files_that_are_cut_off_or_missing(tmp_path, content, said):
    file = tmp_path / 'some.json'
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit, match=f'some.json.* {said}'), explain_errors():
        CocoDataset(ann_file=str(file), data_prefix=dict(img=''), pipeline=[])


@pytest.mark.parametrize('content, said', [('<html>', 'JSON'), (None, 'not exist')])
def test_metrics_whose_file_cannot_be_read(tmp_path, content, said):
    file = tmp_path / 'truth.json'
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit, match=f'truth.json .*{said}'), explain_errors():
        CocoMetric(ann_file=str(file))


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


def test_a_class_named_twice(tmp_path):
    dataset = make_dataset(tmp_path, ('cat', 'cat', 'dog'))
    with pytest.raises(ValueError, match=r"metainfo .*annotations.json .*'cat' twice"):
        CheckDatasetHook().before_train(Runner(dataset))


def test_a_string_of_classes(tmp_path):
    dataset = make_dataset(tmp_path)
    dataset._metainfo['classes'] = 'cat'
    with pytest.raises(ValueError, match=r"classes='cat', a string.*\('cat',\)"):
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


def test_a_metric_with_other_annotations(tmp_path):
    dataset = make_dataset(tmp_path)
    for images, fatal, said in (
        ([dict(ANNOTATIONS['images'][0], id=9)], True, 'does not have 2 of the 2'),
        (
            [*ANNOTATIONS['images'], dict(ANNOTATIONS['images'][0], id=9)],
            False,
            'has 3 images',
        ),
        (ANNOTATIONS['images'], None, ''),
    ):
        file = tmp_path / 'other.json'
        file.write_text(json.dumps(dict(ANNOTATIONS, images=images, annotations=[])))
        use = Use('val', metrics=[CocoMetric(ann_file=str(file))])
        problems = list(check_dataset(dataset, use))
        assert [problem.fatal for problem in problems] == [fatal] * (fatal is not None)
        assert all(said in problem.message for problem in problems)


def test_a_metric_with_annotations_that_cannot_be_scored(tmp_path):
    dataset, file = make_dataset(tmp_path), tmp_path / 'other.json'
    file.write_text(json.dumps(changed(annotations=remove('iscrowd'))))
    use = Use('test', metrics=[CocoMetric(ann_file=str(file))])
    (problem,) = check_dataset(dataset, use)
    assert problem.fatal
    for part in ('the ann_file of test_evaluator', "no 'iscrowd'"):
        assert part in problem.message


@pytest.mark.parametrize(
    'orientation, said', [(6, 'turned as its EXIF says'), (3, '3')]
)
def test_pictures_that_are_turned_by_exif(tmp_path, orientation, said):
    dataset = make_dataset(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (64, 48)).save(tmp_path / 'a.jpg', exif=exif)
    (tmp_path / 'a.png').write_bytes((tmp_path / 'a.jpg').read_bytes())
    (problem,) = check_dataset(dataset, Use('train'))
    assert problem.fatal == (orientation == 6)
    for part in ('a.png', said, 'color_ignore_orientation'):
        assert part in problem.message
    dataset.pipeline.transforms[0].color_type = 'color_ignore_orientation'
    assert list(check_dataset(dataset, Use('train'))) == []


def test_cascades_and_empty_models():
    heads = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
    heads[-1].num_classes = 7
    roi_head = torch.nn.Module()
    roi_head.bbox_head = heads
    model = torch.nn.Module()
    model.roi_head = roi_head
    dataset = SimpleNamespace(
        metainfo=dict(classes=('a', 'b')),
        ann_file='some.json',
        get_data_info=lambda i: dict(instances=[], img_id=i),
    )
    dataset = type('Boxes', (), dict(vars(dataset), __len__=lambda self: 1))
    dataset.get_data_info = lambda self, i: dict(instances=[], img_id=i)
    messages = [p.message for p in check_dataset(dataset(), Use('test', model))]
    assert any('num_classes=7 of bbox_head' in message for message in messages)
