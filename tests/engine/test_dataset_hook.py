"""CheckDatasetHook on data sets of no library, and what it says of files."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
)
from PIL import Image

from sparseformer_mm.engine import CheckDatasetHook, check_dataset, datasets
from sparseformer_mm.engine.data_errors import explain_data_error
from sparseformer_mm.engine.pictures import check_pictures, damage, describe_content
from sparseformer_mm.engine.problems import (
    DatasetError,
    Problem,
    Use,
    check_labels,
    compare_class_names,
    some,
)


class Pictures(BaseDataset):
    """Of a list of paths; class 0 is on even, class 1 on odd places."""

    def __init__(self, paths=(), classes=('a', 'b'), **kwargs):
        self.paths = list(paths)
        super().__init__(metainfo=dict(classes=classes), **kwargs)

    def load_data_list(self):
        return [
            dict(img_path=str(path), gt_label=i % 2)
            for i, path in enumerate(self.paths)
        ]

    def get_cat_ids(self, index):
        return [index % 2]


class LoadImageLikeMMCV:
    """Loads as strictly as OpenCV does: half a picture is one."""

    imdecode_backend, color_type = 'cv2', 'color'

    def __call__(self, info):
        from PIL import ImageFile

        with open(info['img_path'], 'rb') as file:
            content = file.read()
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return dict(info, img=np.asarray(Image.open(io.BytesIO(content))))
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(check_dataset, 'warn', messages.append)
    return messages


class Checker:
    """Stands for the checks of a task."""

    def __init__(self, *problems):
        self.problems, self.seen = problems, []

    def check_model(self, model):
        self.seen.append('model')
        return iter(())

    def check_dataset(self, dataset, use):
        self.seen.append((use.split, dataset))
        for problem in self.problems:
            if isinstance(problem, Exception):
                raise problem
            yield problem


@pytest.fixture
def use_checker(monkeypatch):
    def use(checker):
        monkeypatch.setattr(check_dataset, 'find_checker', lambda dataset: checker)
        return checker

    return use


def make_runner(train, val=None):
    loaders = {
        f'{split}_dataloader': SimpleNamespace(dataset=dataset)
        for split, dataset in dict(train=train, val=val, test=val).items()
    }
    return SimpleNamespace(model=torch.nn.Module(), val_loop=val, **loaders)


WRAPPERS = [
    lambda dataset: dataset,
    lambda dataset: RepeatDataset(dataset, 3),
    lambda dataset: ConcatDataset([dataset, dataset]),
    lambda dataset: ClassBalancedDataset(dataset, 0.5),
    lambda dataset: SimpleNamespace(dataset=ConcatDataset([dataset, dataset])),
]


@pytest.mark.parametrize('wrap', WRAPPERS)
def test_the_innermost_data_sets_are_checked_once(wrap, use_checker):
    checker, dataset = use_checker(Checker()), Pictures('abcd')
    hook, runner = CheckDatasetHook(), make_runner(wrap(dataset), dataset)
    hook.before_train(runner)
    assert checker.seen == ['model', ('train', dataset), ('val', dataset)]
    hook.before_val(runner)  # within training
    assert len(checker.seen) == 3
    hook.before_test(runner)
    assert checker.seen[3:] == [('test', dataset)]


def test_problems_are_told_together(use_checker, said):
    use_checker(Checker(Problem('odd', fatal=False), Problem('one'), Problem('two')))
    with pytest.raises(DatasetError, match='2 problems of the data:\none\ntwo'):
        CheckDatasetHook().before_train(make_runner(Pictures('ab')))
    assert said == ['odd']
    use_checker(Checker(Problem('one')))
    with pytest.raises(ValueError, match='^one$'):
        CheckDatasetHook().before_train(make_runner(Pictures('ab')))


def test_data_that_the_checks_do_not_know_may_be_trained_on(use_checker, said):
    use_checker(Checker(Problem('odd', fatal=False), KeyError('width')))
    CheckDatasetHook().before_train(make_runner(Pictures('ab')))
    assert said[0] == 'odd'
    assert "Pictures) could not be checked to the end: KeyError: 'width'" in said[1]
    use_checker(None)
    CheckDatasetHook().before_train(make_runner(Pictures('ab')))
    assert len(said) == 2


def test_names_that_cannot_be_compared_stop_nobody(use_checker, said):
    checker = use_checker(Checker())
    checker.label_names = lambda dataset, other: dataset.no_such_names
    CheckDatasetHook().before_train(make_runner(Pictures('ab'), Pictures('ab')))
    (message,) = said
    assert 'could not be checked to the end: AttributeError' in message


def test_a_string_of_classes(use_checker):
    checker, dataset = use_checker(Checker()), Pictures('ab')
    dataset._metainfo['classes'] = 'cat'
    with pytest.raises(DatasetError, match=r"classes='cat', a string.*\('cat',\)"):
        CheckDatasetHook().before_train(make_runner(dataset))
    assert checker.seen == []  # they would count letters


def test_classes_of_training_and_validation(use_checker, said):
    use_checker(Checker())
    train = Pictures('ab')
    with pytest.raises(DatasetError, match="label 0 is 'b' here, 'a' there"):
        CheckDatasetHook().before_train(make_runner(train, Pictures('ab', ('b', 'a'))))
    CheckDatasetHook().before_train(make_runner(train, Pictures('ab', ('a', 'B'))))
    (message,) = said
    assert "label 1 is 'B' here, 'b' there" in message


def test_comparing_names():
    def compare(ours, theirs):
        return [
            (problem.fatal, problem.message)
            for problem in compare_class_names(ours, 'HERE', theirs, 'THERE')
        ]

    assert compare(['a', 'b'], ('a', 'b')) == []
    ((fatal, message),) = compare(['a', 'b'], ['a'])
    assert fatal and "2 classes here, 1 there; only in HERE: 'b'" in message
    ((fatal, message),) = compare(['b', 'c'], ['a', 'b', 'c'])
    assert fatal and "'b' here, 'a' there; only in THERE: 'a'" in message
    ((fatal, message),) = compare(['plane', 'car'], ['airplane', 'car'])
    assert not fatal and "only in HERE: 'plane'" in message
    assert compare(['crane', 'crane'], ['crane', 'crane']) == []  # ImageNet's


def test_labels():
    def check(labels, num_classes):
        names = [f'{i}.jpg' for i in range(len(labels))]
        classes, source = ['x', 'y'], 'list.txt'
        return list(
            check_labels(labels, names.__getitem__, num_classes, classes, source)
        )

    assert check([0, 1, 1], 2) == check([5], None) == []
    (problem,) = check([0, 0], 2)
    assert not problem.fatal and 'no sample of class 1 (y)' in problem.message
    first, second = check([-1, 7], 2)
    assert first.fatal and second.fatal
    assert '-1 of 0.jpg' in first.message and '7 of 1.jpg' in second.message


def test_some():
    assert some('abc') == 'a, b, c'
    assert some('abcdefg') == 'a, b, c and 4 more'


def picture(size=(64, 64), kind='JPEG', **kwargs):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **kwargs)
    return file.getvalue()


WHOLE = {kind: picture(kind=kind) for kind in ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP')}


@pytest.mark.parametrize('kind', WHOLE)
def test_pictures_that_are_cut_off(kind):
    content = WHOLE[kind]
    assert damage(content) is None
    assert 'cut off or damaged' in damage(half(content))


def half(content):
    return content[: len(content) // 2]


# content of a file, whether an error, what is said of it
FILES = {
    'empty': (b'', True, 'is empty (0 bytes)'),
    'text': (b'hello\n' * 9, True, 'is text, not a picture'),
    'an HTML page': (b'\n<!DOCTYPE html><html>404', True, 'is an HTML page'),
    'a pointer of Git LFS': (b'version https://git-lfs.github.com', True, 'git lfs'),
    'HEIC': (b'\0\0\0\x20ftypheic\xff', True, 'HEIC'),
    'noise': (bytes(range(256)), True, 'is no picture that can be decoded'),
    'half a JPEG': (half(WHOLE['JPEG']), False, 'the rest is grey'),
    'half a PNG': (half(WHOLE['PNG']), False, 'is cut off or damaged'),
    'bytes after its end': (WHOLE['JPEG'] + b'\0\0\n', None, None),
}


@pytest.mark.parametrize('sample', [0, 48])
@pytest.mark.parametrize('name', FILES)
def test_files_that_are_no_pictures(tmp_path, name, sample):
    content, fatal, text = FILES[name]
    paths = [tmp_path / f'{i}.jpg' for i in range(4)]
    for path in paths:
        path.write_bytes(WHOLE['JPEG'])
    paths[2].write_bytes(content)
    dataset = Pictures(paths, pipeline=[LoadImageLikeMMCV()])
    files = {str(path): index for index, path in enumerate(paths)}
    problems = list(
        check_pictures(
            files,
            'pictures',
            dataset,
            Use('train', sample=sample),
            dataset.pipeline.transforms[0],
        )
    )
    # The end of each file is looked at, the inside of a sample only.
    if fatal is None or (sample == 0 and fatal and content):
        assert problems == []
        return
    (problem,) = problems
    assert problem.fatal == fatal
    for part in ('1 of 4 pictures', '2.jpg', text, 'copy or download it again'):
        assert part in problem.message


def test_missing_pictures_and_those_that_may_be_empty(tmp_path):
    load = LoadImageLikeMMCV()
    dataset = Pictures([tmp_path / f'{i}.jpg' for i in range(9)], pipeline=[load])
    files = {str(path): index for index, path in enumerate(dataset.paths)}
    (problem,) = check_pictures(files, 'pictures', dataset, Use('val'), load, 'ADVICE')
    assert problem.fatal
    for part in ('9 of 9', '0.jpg', '2.jpg and 6 more does not exist', 'ADVICE (seen'):
        assert part in problem.message
    load.ignore_empty = True  # mmcv's: another picture is taken
    (problem,) = check_pictures(files, 'pictures', dataset, Use('val'), load)
    assert not problem.fatal
    assert list(check_pictures(files, 'pictures', dataset, Use('val'), None)) == []


def test_what_files_hold():
    assert 'no picture' in describe_content(b'\x93NUMPY\x01\x00')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert damage(b'\x93NUMPY\x01\x00') is None  # of a format that others know


def test_samples():
    assert datasets.pick(3, 5, 0) == [0, 1, 2]
    sample = datasets.pick(1000, 5, 0)
    assert sample == datasets.pick(1000, 5, 0) == sorted(set(sample))
    assert len(sample) == 5 and sample != datasets.pick(1000, 5, 1)


def test_long_work_shows_progress(monkeypatch):
    lines = []
    monkeypatch.setattr(
        datasets, 'print_log', lambda line, **kwargs: lines.append(line)
    )
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(datasets.time, 'monotonic', lambda: next(clock))
    assert list(datasets.with_progress('abcdefg', 'it', 7)) == list('abcdefg')
    assert lines == ['checking it: 2 of 7', 'checking it: 5 of 7']


def test_other_errors_are_left_alone():
    for error in (RuntimeError('size mismatch'), ValueError('x'), KeyError('y')):
        assert explain_data_error(error) is None
        try:
            raise error
        except Exception as raised:
            assert explain_data_error(raised) is None
    assert explain_data_error(DatasetError('all said')) == 'all said'


class HalfMade:
    """As a wrapper whose ``__init__`` failed before it knew what it wraps."""

    def __getattr__(self, name):
        return getattr(self.wrapped, name)

    def full_init(self):
        raise RuntimeError('no accelerator')


def test_objects_that_are_half_made_are_not_asked():
    with pytest.raises(RuntimeError) as error:
        HalfMade().full_init()
    assert explain_data_error(error.value) is None


def test_a_misspelt_pipeline_is_no_fault_of_the_data():
    with pytest.raises(Exception) as error:
        Pictures('ab', pipeline=[dict(type='NoSuchStep')])
    assert explain_data_error(error.value) is None


class Broken(Pictures):
    def load_data_list(self):
        raise KeyError('height')


def test_a_data_set_that_cannot_be_built():
    with pytest.raises(KeyError) as error:
        Broken(ann_file='some.json')
    text = explain_data_error(error.value)
    for part in ('some.json', 'Broken', "KeyError: 'height'"):
        assert part in text
