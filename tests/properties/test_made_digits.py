"""Generated arguments of make_digits.py: files that agree, or a message."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import SPLITS, fingerprint, read_json  # noqa: E402
from helpers.generated import cases  # noqa: E402
from helpers.scripts import load_tool, run_tool  # noqa: E402
from sparseformer_mm.digits.clips import MOTIONS  # noqa: E402

TOOL = load_tool('dataset_converters/make_digits')
TASKS = ('classification', 'detection', 'segmentation', 'video')

usual = dict(
    train=st.integers(1, 13),
    val=st.integers(1, 3),
    size=st.integers(32, 50),
    seed=st.one_of(st.integers(0, 3), st.integers(2**31, 2**70)),
)


@st.composite
def right(draw, task):
    """Arguments that go together."""
    options = {name: draw(value) for name, value in usual.items()}
    if draw(st.booleans()):
        heights = st.integers(8, options['size'] // 2)
        options['digit-size'] = sorted([draw(heights), draw(heights)])
    if task == 'video':
        options['format'] = draw(st.sampled_from(['mp4', 'frames', 'frames']))
        options['train'] = min(options['train'], 8)
        options['frames'] = draw(st.integers(4, 7))
        if options['format'] == 'mp4':
            options['size'] = draw(st.sampled_from([32, 34, 44]))
            options.pop('digit-size', None)
    return options


@st.composite
def any_arguments(draw):
    """Right ones of some task, up to two of them replaced."""
    options = draw(right(draw(st.sampled_from(TASKS))))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*usual, 'digit-size', 'frames', 'format']))
        values = ['0', '-1', '1.5', 'x', '', '3', '7', '31', 'nan', '1e3']
        if name not in ('train', 'val'):  # which takes its time
            values.append('9' * 12)
        count = 3 if name == 'digit-size' else 1
        options[name] = draw(st.lists(st.sampled_from(values), max_size=count))
    return options


def words(task, options):
    """The command line; one value or several for each option."""
    argv = ['--task', task]
    for name, value in options.items():
        argv += [f'--{name}', *(value if isinstance(value, list) else [value])]
    return argv


def picture(path: Path, size: int) -> np.ndarray:
    """(H, W, 3) BGR."""
    pixels = cv2.imread(str(path))
    assert pixels.shape == (size, size, 3), path
    return pixels


def check_box(box, pixels):
    """Inside the picture, and each side touches what is as bright as ink may be."""
    x1, y1, x2, y2 = box
    height, width = pixels.shape[:2]
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    bright = pixels[y1:y2, x1:x2].max(-1) > 0.35 * 255
    for side in (bright[0], bright[-1], bright[:, 0], bright[:, -1]):
        assert side.any()


def check_classification(root, split, options):
    boxes = read_json(root / f'{split}_boxes.json')
    files = {p.relative_to(root).as_posix() for p in root.glob(f'{split}/*/*')}
    assert files == set(boxes) and len(files) == options[split]
    for name, ((*box, label),) in boxes.items():
        assert name.split('/')[1] == str(label)
        check_box(box, picture(root / name, options['size']))


def masks_of(content, image_id):
    """Label -> (H, W) bool of an image's objects, from their run lengths."""
    for annotation in content['annotations']:
        if annotation['image_id'] == image_id:
            runs = annotation['segmentation']
            values = np.arange(len(runs['counts'])) % 2 == 1
            mask = np.repeat(values, runs['counts']).reshape(runs['size'], order='F')
            yield annotation, mask


def check_detection(root, split, options):
    content = read_json(root / f'annotations/instances_{split}.json')
    names = sorted(path.name for path in (root / split).iterdir())
    assert [image['file_name'] for image in content['images']] == names
    assert len(names) == options[split]
    assert len({a['id'] for a in content['annotations']}) == len(content['annotations'])
    for image in content['images']:
        pixels = picture(root / split / image['file_name'], image['width'])
        assert image['width'] == image['height'] == options['size']
        objects = list(masks_of(content, image['id']))
        assert 1 <= len(objects) <= 6
        assert sum(mask.astype(int) for _, mask in objects).max() == 1  # apart
        for annotation, mask in objects:
            x, y, width, height = annotation['bbox']
            check_box((x, y, x + width, y + height), pixels)
            assert annotation['area'] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min()) == (x, y)
            assert np.ptp(columns) + 1 == width and np.ptp(rows) + 1 == height
            assert 1 <= annotation['category_id'] <= 10


def check_segmentation(root, split, options):
    pictures, masks = (
        sorted(path.name for path in (root / folder / split).iterdir())
        for folder in ('img_dir', 'ann_dir')
    )
    assert pictures == masks and len(masks) == options[split]
    for name in pictures:
        pixels = picture(root / 'img_dir' / split / name, options['size'])
        mask = cv2.imread(str(root / 'ann_dir' / split / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == pixels.shape[:2] and mask.dtype == np.uint8
        assert 1 <= mask.max() <= 10
        assert (pixels[mask > 0].max(-1) > 0.35 * 255).all()


def read_clip(path: Path, size: int) -> list:
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        assert names == [f'img_{i:05d}.png' for i in range(1, len(names) + 1)]
        return [picture(path / name, size) for name in names]
    frames, capture = [], cv2.VideoCapture(str(path))
    while True:
        there, pixels = capture.read()
        if not there:
            return frames
        assert pixels.shape == (size, size, 3)
        frames.append(pixels)


def check_video(root, split, options):
    boxes = read_json(root / f'{split}_boxes.json')
    lines = [
        line.split(' ') for line in (root / f'{split}.txt').read_text().split('\n')
    ]
    assert lines.pop() == ['']  # each ends
    assert [line[0] for line in lines] == list(boxes)
    assert len(lines) == options[split]
    folder = 'frames' if options['format'] == 'frames' else 'videos'
    files = (root / folder / split).iterdir()
    assert {path.relative_to(root).as_posix() for path in files} == set(boxes)
    for name, *count, label in lines:
        clip = read_clip(root / name, options['size'])
        assert len(clip) == len(boxes[name]) == options['frames']
        assert [str(len(clip))] == count or folder == 'videos'
        for (*box, box_label), pixels in zip(boxes[name], clip):
            assert str(box_label) == label and 0 <= box_label < len(MOTIONS)
            check_box(box, pixels)


CHECKS = dict(
    classification=check_classification,
    detection=check_detection,
    segmentation=check_segmentation,
    video=check_video,
)


@pytest.mark.parametrize('task', TASKS)
def test_files_agree(task, tmp_path_factory):
    if task == 'video':
        pytest.importorskip('av', reason='mp4 files are written by PyAV')

    @given(right(task))
    @cases(4)
    def check(options):
        roots = [tmp_path_factory.mktemp('digits') / 'set' for _ in range(2)]
        for root in roots:
            status, output = run_tool(TOOL, root, *words(task, options))
            assert status == 0, output
        assert fingerprint(roots[0]) == fingerprint(roots[1])
        for split in SPLITS:
            CHECKS[task](roots[0], split, options)
        manifest = read_json(roots[0] / 'digits_manifest.json')
        assert manifest['num_files'] == len(fingerprint(roots[0])) - 1

    check()


@given(right('detection'))
@cases(3)
def test_masks_are_those_of_the_boxes(tmp_path_factory, options):
    det, seg = (tmp_path_factory.mktemp('digits') / 'set' for _ in range(2))
    for root, task in ((det, 'detection'), (seg, 'segmentation')):
        status, output = run_tool(TOOL, root, *words(task, options))
        assert status == 0, output
    for split in SPLITS:
        content = read_json(det / f'annotations/instances_{split}.json')
        for image in content['images']:
            name, expected = f'{split}/{image["file_name"]}', 0
            for annotation, mask in masks_of(content, image['id']):
                expected = expected + mask * annotation['category_id']
            found = cv2.imread(str(seg / 'ann_dir' / name), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(found, expected)
            same = [(det / name).read_bytes(), (seg / 'img_dir' / name).read_bytes()]
            assert same[0] == same[1]


# A file, a folder with files, names that no file can have, and links.
PLACES = ['set', 'a/b/c', 'file', 'file/set', 'full', 'x' * 300, '', '.', 'gone', 'é\n']


@given(st.sampled_from(TASKS), any_arguments(), st.sampled_from(PLACES), st.booleans())
@example('video', dict(frames='9' * 12, train=1, val=1, format='frames'), 'set', True)
@example('detection', dict(size='9' * 12, train=1, val=1), 'set', True)
@cases(40)
def test_ends_with_a_message(tmp_path_factory, task, options, place, force):
    folder = tmp_path_factory.mktemp('digits')
    (folder / 'file').write_text('mine')
    (folder / 'full').mkdir()
    (folder / 'full' / 'notes').write_text('mine')
    (folder / 'gone').symlink_to(folder / 'nowhere')
    before = fingerprint(folder)
    argv = [os.path.join(folder, place), *words(task, options)]
    # run_tool lets every exception but SystemExit pass.
    status, output = run_tool(TOOL, *argv, *(['--force'] if force else []))
    after = fingerprint(folder)
    assert {name: after[name] for name in before} == before
    if status == 0:
        manifest = read_json(folder / place / 'digits_manifest.json')
        made = fingerprint(folder / place)
        assert manifest['num_files'] == len(made) - 1
    else:
        assert len(output.strip().splitlines()[-1]) > 20, output
        assert after == before
