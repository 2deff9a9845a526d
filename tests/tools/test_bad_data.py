"""What tools/train.py and tools/test.py say of data that cannot be read or meant."""

import json
import shutil
from multiprocessing import active_children

import numpy as np
import pytest
from PIL import Image

from helpers.scripts import load_tool, run_tool

TRAIN, TEST = load_tool('train'), load_tool('test')
HOOK = 'default_hooks.check_dataset.type=sparseformer_mm.CheckDatasetHook'


def make_classification(folder):
    from helpers.toy_classifier import make_data, write_config

    data = make_data(folder / 'data')
    write_config(folder / 'toy.py', data)
    return data / 'train/class1/3.png', data / 'val/class1/3.png'


def make_detection(folder):
    from helpers.toy_detector import make_toy

    make_toy(folder, 2)
    return [folder / f'data/{split}2017/000000000004.jpg' for split in ('train', 'val')]


def make_segmentation(folder):
    from helpers.toy_segmentor import make_toy

    make_toy(folder, 2)
    return [folder / f'data/ann/{split}/3.png' for split in ('train', 'val')]


def make_video(folder):
    from helpers.toy_video import make_toy

    make_toy(folder, 2)
    return [folder / f'data/{split}/003/img_00003.png' for split in ('train', 'val')]


TASKS = {
    'classification': pytest.param(make_classification, marks=pytest.mark.mmpretrain),
    'detection': pytest.param(make_detection, marks=pytest.mark.mmdet),
    'segmentation': pytest.param(make_segmentation, marks=pytest.mark.mmseg),
    'video': pytest.param(make_video, marks=pytest.mark.mmaction),
}
every_task = pytest.mark.parametrize('make', TASKS.values(), ids=TASKS)
LIBRARIES = dict(
    make_classification='mmpretrain',
    make_detection='mmdet',
    make_segmentation='mmseg',
    make_video='sparseformer_mm.video.compat',
)


def fails(tool, *argv) -> str:
    """Run a tool, which has to end in one line, and return that."""
    before = set(active_children())
    status, output = run_tool(tool, 'toy.py', *argv)
    assert status == 1, output
    assert not set(active_children()) - before  # a loader's
    lines = output.splitlines()
    (line,) = (line for line in lines if line.startswith('error: '))
    assert line == lines[-1]
    return line


@every_task
@pytest.mark.parametrize('hook', [True, False])
def test_files_that_are_no_pictures(make, hook, tmp_path, monkeypatch):
    """In a loader's process, too, where an error names neither file nor cause."""
    pytest.importorskip(LIBRARIES[make.__name__])
    monkeypatch.chdir(tmp_path)
    train, val = make(tmp_path)
    path = val if hook else train
    path.write_text('hello\n')
    line = fails(
        TRAIN, '--cfg-options', HOOK if hook else 'train_dataloader.num_workers=2'
    )
    assert str(path) in line and 'copy or' in line
    assert 'is text, not a picture' in line or 'cannot be decoded' in line
    if hook and make is not make_video:  # which looks into a part of the clips
        (log,) = (tmp_path / 'work_dirs/toy').glob('*/*.log')
        assert '(train)' not in log.read_text()


@pytest.mark.mmpretrain
def test_pictures_for_testing(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    _, path = make_classification(tmp_path)
    status, output = run_tool(TRAIN, 'toy.py', '--cfg-options', HOOK)
    assert status == 0, output
    checkpoint = 'work_dirs/toy/epoch_1.pth'
    whole = path.read_bytes()
    for content, said in (
        (b'', 'is empty (0 bytes)'),
        (whole[: len(whole) // 2], 'is cut off or damaged'),
    ):
        path.write_bytes(content)
        for options in ([HOOK], ['test_dataloader.num_workers=2']):
            line = fails(TEST, checkpoint, '--cfg-options', *options)
            assert f'{path} {said}' in line
    path.write_bytes(whole)
    (tmp_path / 'data/val/class0').rename(tmp_path / 'data/val/zero')
    line = fails(TEST, checkpoint, '--cfg-options', HOOK)
    for part in (
        "label 0 is 'class1' here, 'class0' there",
        'the checkpoint',
        "'zero'",
    ):
        assert part in line


@pytest.mark.mmpretrain
def test_class_folders_that_differ(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    make_classification(tmp_path)
    shutil.rmtree(tmp_path / 'data/val/class0')
    status, output = run_tool(TRAIN, 'toy.py', '--cfg-options', HOOK)
    assert status == 1 and 'Traceback' not in output
    assert "label 0 is 'class1' here, 'class0' there" in output
    assert 'num_classes=3 of the head' in output


@pytest.mark.mmdet
def test_annotations_that_cannot_be_scored(tmp_path, monkeypatch):
    """Without the hook it is a KeyError after the first epoch."""
    pytest.importorskip('mmdet')
    monkeypatch.chdir(tmp_path)
    make_detection(tmp_path)
    file = tmp_path / 'data/annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    for note in content['annotations']:
        del note['iscrowd']
    file.write_text(json.dumps(content))
    line = fails(TRAIN, '--cfg-options', HOOK)
    for part in (str(file), "no 'iscrowd'", 'add "iscrowd": 0'):
        assert part in line
    del content['annotations'][0]['area']
    file.write_text(json.dumps(content))
    line = fails(TRAIN)  # mmdet cannot build the data set
    for part in (str(file), "no 'area'", 'width * height'):
        assert part in line


@pytest.mark.mmseg
def test_masks_of_0_and_255(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    make_segmentation(tmp_path)
    for path in (tmp_path / 'data/ann/train').iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)
    line = fails(TRAIN, '--cfg-options', HOOK)
    for part in ('data/img/train', '0 or 255', 'write 1 for 255'):
        assert part in line
