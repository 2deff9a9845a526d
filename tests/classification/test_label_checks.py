"""Class folders, lists and pictures that mmpretrain takes in silence, or trips over."""

import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='needs mmpretrain: pip install mmpretrain')

from mmengine.dataset import ClassBalancedDataset, ConcatDataset  # noqa: E402
from mmpretrain.datasets import CustomDataset, KFoldDataset  # noqa: E402
from mmpretrain.models import CrossEntropyLoss  # noqa: E402

from helpers.problems import assert_said  # noqa: E402
from sparseformer_mm.classification import checks  # noqa: E402
from sparseformer_mm.engine import CheckDatasetHook, check_dataset  # noqa: E402
from sparseformer_mm.engine.problems import DatasetError, Use  # noqa: E402
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402

pytestmark = pytest.mark.mmpretrain


def make_folders(root, classes=('cat', 'dog'), count=2):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new('RGB', (8, 8)).save(root / name / f'{index}.png')
    return root


def make_dataset(root, lines=None, **kwargs):
    """Of class folders, or of a list with these lines."""
    if lines is not None:
        root.mkdir(exist_ok=True)
        (root / 'list.txt').write_text('\n'.join(lines))
        kwargs['ann_file'] = str(root / 'list.txt')
    kwargs.setdefault('pipeline', [dict(type='LoadImageFromFile')])
    return CustomDataset(data_prefix=str(root), **kwargs)


def make_model(num_classes=2, preprocessor=None):
    model = torch.nn.Module()
    model.head = torch.nn.Module()
    model.head.num_classes = num_classes
    model.head.loss_module = CrossEntropyLoss()
    model.data_preprocessor = SimpleNamespace(**preprocessor or {})
    return model


class LoadImageOfAFile:
    def __call__(self, info):
        return dict(info, img=cv2.imread(info['img_path']))


class Runner:
    """What the hook sees of a runner."""

    def __init__(self, train, val=None, num_classes=2):
        self.model, self.val_loop = make_model(num_classes), val
        self.train_dataloader = SimpleNamespace(dataset=train)
        self.val_dataloader = self.test_dataloader = SimpleNamespace(dataset=val)


def test_sound_folders_pass(tmp_path):
    train = make_dataset(make_folders(tmp_path / 'train'))
    val = make_dataset(make_folders(tmp_path / 'val', count=1))
    for use in (Use('train'), Use('val', make_model()), Use('test', make_model())):
        assert list(checks.check_dataset(train, use)) == []
    CheckDatasetHook().before_train(Runner(train, val))
    CheckDatasetHook().before_test(Runner(train, val))


# class folders of validation, whether an error, what is named
FOLDERS = {
    'a class is missing': (
        ['dog'],
        True,
        ["label 0 is 'dog' here, 'cat' there", "only in .*train.*: 'cat'", 'empty f'],
    ),
    'a class more': (
        ['bird', 'cat', 'dog'],
        True,
        ["label 0 is 'bird' here, 'cat' there", "only in .*val.*: 'bird'"],
    ),
    'other names in the same order': (
        ['Cat', 'Dog'],
        False,
        ["label 0 is 'Cat' here, 'cat' there", "'Cat', 'Dog'"],
    ),
    'names whose order changes': (
        ['dog', 'kitten'],
        True,
        ["label 0 is 'dog' here, 'cat' there", "'kitten'"],
    ),
}


@pytest.mark.parametrize('name', FOLDERS)
def test_folders_that_differ_between_train_and_val(tmp_path, name, monkeypatch):
    folders, fatal, parts = FOLDERS[name]
    said = []
    monkeypatch.setattr(check_dataset, 'warn', said.append)
    train = make_dataset(make_folders(tmp_path / 'train'))
    val = make_dataset(make_folders(tmp_path / 'val', folders))
    runner = Runner(ConcatDataset([train]), val, num_classes=None)
    if fatal:
        with pytest.raises(DatasetError) as error:
            CheckDatasetHook().before_train(runner)
        said = [str(error.value)]
    else:
        CheckDatasetHook().before_train(runner)

    assert any(all(re.search(part, text) for part in parts) for text in said), said


def test_classes_of_the_checkpoint(tmp_path):
    """Testing knows the training data from its checkpoint only."""
    hook = CheckDatasetHook()
    runner = Runner(None, make_dataset(make_folders(tmp_path, ['cat', 'dog'])))
    meta = dict(dataset_meta=dict(classes=('dog', 'cat')))
    hook.after_load_checkpoint(runner, dict(meta=meta))
    with pytest.raises(DatasetError, match="'cat' here, 'dog' there"):
        hook.before_test(runner)
    for checkpoint in (dict(), dict(meta=None), dict(meta=dict(epoch=1))):
        hook = CheckDatasetHook()
        hook.after_load_checkpoint(runner, checkpoint)
        hook.before_test(runner)


# name -> lines, number of classes of the head, whether an error, what is named
LISTS = {
    'beyond the classes': (
        ['cat/0.png 0', 'dog/0.png 5'],
        2,
        True,
        ['1 labels', '5 of', 'dog/0.png', 'num_classes=2', '0 to 1'],
    ),
    'from 1': (
        ['cat/0.png 1', 'dog/0.png 2'],
        2,
        True,
        ['2 of', 'dog/0.png', 'count from 1: subtract 1'],
    ),
    'negative': (['cat/0.png 0', 'dog/0.png -1'], 2, True, ['-1 of', 'dog/0.png']),
    'a class without a sample': (
        ['cat/0.png 0', 'dog/0.png 1'],
        4,
        False,
        ['no sample of class 2, 3'],
    ),
    'missing': (
        ['cat/0.png 0', 'cat/7.png 1'],
        2,
        True,
        ['1 of 2 pictures', 'cat/7.png does not exist', 'data_root'],
    ),
    'a byte order mark': (
        ['\ufeffcat/0.png 0', 'cat/1.png 1'],
        2,
        True,
        ['1 of 2 pictures', 'does not exist', 'byte order mark', 'UTF-8'],
    ),
}


@pytest.mark.parametrize('name', LISTS)
def test_lists_that_cannot_be_meant(tmp_path, name):
    lines, num_classes, fatal, parts = LISTS[name]
    dataset = make_dataset(make_folders(tmp_path), lines)
    use = Use('train', make_model(num_classes))
    assert_said(checks.check_dataset(dataset, use), fatal, 'list.txt', *parts)


# lines that mmpretrain fails on -> what the tools then say
LINES = {
    'an empty last line': (['a.png 0', 'b.png 1', '', ''], 'line 3 .*is empty: delete'),
    'no label': (['a.png 0', 'b.png'], "line 2 .*'b.png' has no label"),
    'a class name': (['a b.png cat'], "line 1 .*'cat' for a label.* number"),
    'tabs': (['a.png\t0'], 'line 1 .*has no label: write PATH, a blank, LABEL'),
}


@pytest.mark.parametrize('name', LINES)
def test_lines_that_cannot_be_read(tmp_path, name):
    lines, said = LINES[name]
    with pytest.raises(SystemExit, match=f'^error: {said}'), explain_errors():
        make_dataset(tmp_path, lines)


def test_windows_lines_and_blanks_in_paths_are_read(tmp_path):
    make_folders(tmp_path, ['a cat', 'dog'])
    dataset = make_dataset(tmp_path, ['a cat/0.png 0\r', 'dog/0.png 1\r'])
    assert list(checks.check_dataset(dataset, Use('train', make_model()))) == []


def test_empty_folders_and_extensions(tmp_path):
    make_folders(tmp_path, ['cat', 'dog'])
    (tmp_path / 'fox').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'fox/0.webp')
    problems = list(checks.check_dataset(make_dataset(tmp_path), Use('train')))
    assert_said(problems, False, 'no sample of class 2 (fox)')
    assert_said(problems, False, '1 pictures', 'fox/0.webp', 'extensions=(...)')
    dataset = make_dataset(tmp_path, extensions=('.png', '.webp'))
    assert list(checks.check_dataset(dataset, Use('train'))) == []


def test_half_a_photo(tmp_path):
    """OpenCV says so of bytes, not of a file."""
    make_folders(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / 'cat/half.jpg'
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    dataset = make_dataset(tmp_path)
    said = '1 of 5 pictures', str(path), 'is cut off or damaged', 'download it again'
    assert_said(checks.check_dataset(dataset, Use('train', sample=0)), True, *said)
    dataset.pipeline.transforms = [LoadImageOfAFile()]
    image = dataset.pipeline(dict(img_path=str(path)))['img']
    assert image[:16].std() > 9 and image[-8:].std() == 0
    said = *said, 'the rest is grey'
    assert_said(checks.check_dataset(dataset, Use('train', sample=0)), False, *said)


@pytest.mark.parametrize('num_classes', [1, 3])
def test_classes_of_the_head(tmp_path, num_classes):
    dataset = make_dataset(make_folders(tmp_path))
    use = Use('val', make_model(num_classes))
    said = f'num_classes={num_classes} of the head', "the 2 classes 'cat', 'dog'"
    assert_said(checks.check_dataset(dataset, use), True, *said)


def test_counts_of_classes_in_the_model():
    for preprocessor in (
        dict(to_onehot=True, num_classes=2),
        dict(to_onehot=True, num_classes=None),  # the data set's
        dict(to_onehot=False, num_classes=9),  # not used
    ):
        assert list(checks.check_model(make_model(2, preprocessor))) == []
    model = make_model(2, dict(to_onehot=True, num_classes=9))
    said = 'num_classes=9 of data_preprocessor', 'num_classes=2 of the head'
    assert_said(checks.check_model(model), True, *said)


def test_one_class_under_softmax():
    model = make_model(1)
    said = 'one class', 'CrossEntropyLoss', 'loss is 0 for ever', 'use_sigmoid=True'
    assert_said(checks.check_model(model), True, *said)
    model.head.loss_module = CrossEntropyLoss(use_sigmoid=True)
    assert list(checks.check_model(model)) == []


WRAPPERS = {
    'ClassBalancedDataset': lambda dataset: ClassBalancedDataset(dataset, 0.5),
    'ConcatDataset': lambda dataset: ConcatDataset([dataset, dataset]),
    'KFoldDataset': lambda dataset: KFoldDataset(
        dict(type='CustomDataset', data_prefix=dataset.img_prefix, lazy_init=False)
    ),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrapped_data_sets_are_looked_into(tmp_path, wrapper):
    dataset = WRAPPERS[wrapper](make_dataset(make_folders(tmp_path)))
    CheckDatasetHook().before_train(Runner(dataset))
    with pytest.raises(DatasetError, match='num_classes=7 of the head'):
        CheckDatasetHook().before_train(Runner(dataset, num_classes=7))


def test_samples_with_several_labels_or_none(tmp_path):
    class Multi(CustomDataset):
        def get_data_info(self, index):
            info = super().get_data_info(index)
            return dict(info, gt_label=[0, 1] if index else [])

    make_folders(tmp_path)
    dataset = Multi(data_prefix=str(tmp_path))
    assert list(checks.check_dataset(dataset, Use('train', make_model()))) == []
    dataset = make_dataset(tmp_path, with_label=False)
    assert list(checks.check_dataset(dataset, Use('test', make_model()))) == []
