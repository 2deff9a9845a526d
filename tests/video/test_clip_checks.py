"""Labels and clips that mmaction2 takes in silence, or trips over."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from mmaction.datasets import RawframeDataset, VideoDataset  # noqa: E402
from mmaction.models.losses import BCELossWithLogits, CrossEntropyLoss  # noqa: E402

from helpers.problems import assert_said  # noqa: E402
from sparseformer_mm.engine import CheckDatasetHook  # noqa: E402
from sparseformer_mm.engine.problems import Use  # noqa: E402
from sparseformer_mm.utils.errors import explain_errors  # noqa: E402
from sparseformer_mm.video import checks  # noqa: E402

pytestmark = pytest.mark.mmaction


READ = dict(
    type='sparseformer_mm.video.ReadFrames',
    sample=dict(type='UniformSample', clip_len=2),
)


def make_dataset(root, lines, kind=RawframeDataset, **kwargs):
    """Folders a, b with three frames each, and a list."""
    for name in ('a', 'b'):
        (root / name).mkdir(exist_ok=True)
        for number in (1, 2, 3):
            path = root / name / f'img_{number:05}.png'
            if not path.exists():
                Image.new('RGB', (8, 8)).save(path)
    (root / 'list.txt').write_text('\n'.join(lines))
    kwargs.setdefault('pipeline', [READ])
    if kind is RawframeDataset:
        kwargs.setdefault('filename_tmpl', 'img_{:05}.png')
    return kind(ann_file=str(root / 'list.txt'), data_root=str(root), **kwargs)


def make_model(num_classes=2, loss=None):
    model = torch.nn.Module()
    model.cls_head = torch.nn.Module()
    model.cls_head.num_classes = num_classes
    model.cls_head.loss_cls = loss or CrossEntropyLoss()
    return model


def test_sound_lists_pass(tmp_path):
    dataset = make_dataset(tmp_path, ['a 3 0', 'b 3 1'])
    for split in ('train', 'val', 'test'):
        assert list(checks.check_dataset(dataset, Use(split, make_model()))) == []


# name -> lines of frame folders, whether an error, what is named
CASES = {
    'beyond the classes': (
        ['a 3 0', 'b 3 2'],
        True,
        ["line 2: 'b 3 2'", 'the label 2', '2 classes', '0 to 1'],
    ),
    'negative': (['a 3 -2', 'b 3 1'], True, ["line 1: 'a 3 -2'", 'the label -2']),
    'no label': (['a 3 0', 'b 3'], True, ["line 2: 'b 3'", 'no label']),
    'one class only': (['a 3 1', 'b 3 1'], False, ['no sample of class 0']),
    'a missing folder': (
        ['a 3 0', 'c 3 1'],
        True,
        ['1 of 2 clips', '/c does not exist', 'data_prefix'],
    ),
    'more frames than there are': (
        ['a 3 0', 'b 4 1'],
        True,
        ['1 of 2 clips', '/b', '4 frames', 'img_00004.png does not exist'],
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_lists_that_cannot_be_meant(tmp_path, name):
    lines, fatal, parts = CASES[name]
    dataset = make_dataset(tmp_path, lines)
    for split in ('train', 'val'):
        problems = checks.check_dataset(dataset, Use(split, make_model()))
        assert_said(problems, fatal, 'list.txt', *parts)


def test_tests_without_labels(tmp_path):
    dataset = make_dataset(tmp_path, ['a 3', 'b 3'])
    (problem,) = checks.check_dataset(dataset, Use('test', make_model()))
    assert not problem.fatal and 'list.txt has no labels' in problem.message
    (problem,) = checks.check_dataset(dataset, Use('val', make_model()))
    assert problem.fatal and 'line 1' in problem.message


@pytest.mark.parametrize('line', ['a 3 cat', 'a three 0'])
def test_lines_that_cannot_be_read(tmp_path, line):
    with pytest.raises(SystemExit) as error, explain_errors():
        make_dataset(tmp_path, [line])
    for part in (
        'error: ',
        'list.txt, line 1',
        line.split()[1 if 'three' in line else 2],
    ):
        assert part in str(error.value)
    assert 'compare it with' not in str(error.value)


def test_frames_that_cannot_be_read(tmp_path):
    dataset = make_dataset(tmp_path, ['a 3 0', 'b 3 1'])
    for path in (tmp_path / 'b').iterdir():
        path.write_text('no picture')
    problems = list(checks.check_dataset(dataset, Use('train', make_model())))
    assert_said(problems, True, 'b/img_0000', 'cannot be decoded', 'copy or extract')
    assert list(checks.check_dataset(dataset, Use('train', sample=0))) == []


def test_videos_that_cannot_be_read(tmp_path):
    (tmp_path / 'zero.mp4').write_bytes(b'')
    (tmp_path / 'text.mp4').write_text('no video' * 100)
    lines = ['zero.mp4 0', 'text.mp4 1', 'none.mp4 0']
    dataset = make_dataset(tmp_path, lines, VideoDataset)
    problems = list(checks.check_dataset(dataset, Use('val', make_model())))
    assert_said(problems, True, '1 of 3 clips', 'zero.mp4 is empty (0 bytes)')
    assert_said(problems, True, '1 of 3 clips', 'none.mp4 does not exist')
    assert_said(problems, True, 'text.mp4', 'copy or download it again')
    assert len(problems) == 3


def test_several_labels(tmp_path):
    lines = ['a 3 0 2', 'b 3 1']
    dataset = make_dataset(tmp_path, lines, multi_class=True, num_classes=4)
    (problem,) = checks.check_dataset(dataset, Use('train', make_model(4)))
    assert not problem.fatal and 'no sample of class 3' in problem.message
    problems = list(checks.check_dataset(dataset, Use('train', make_model(3))))
    said = 'num_classes=3 of cls_head', 'num_classes=4 of the data'
    assert_said(problems, True, *said)


def test_one_class_under_softmax():
    said = 'cls_head has one class', 'CrossEntropyLoss', 'loss is 0 for ever'
    assert_said(checks.check_model(make_model(1)), True, *said)
    assert list(checks.check_model(make_model(1, BCELossWithLogits()))) == []
    assert list(checks.check_model(make_model(2))) == []


def test_drawing_samples_leaves_the_randomness_of_training(tmp_path):
    loader = SimpleNamespace(dataset=make_dataset(tmp_path, ['a 3 0', 'b 3 1']))
    runner = SimpleNamespace(model=make_model(), val_loop=None, train_dataloader=loader)
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    CheckDatasetHook().before_train(runner)
    assert np.random.rand() == expected
