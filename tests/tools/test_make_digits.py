"""The embedded data sets of scattered digits."""

import hashlib
import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
SCRIPT = TOOLS / 'make_digits.py'
SMALL = ['--train', '40', '--val', '20']


@pytest.fixture(scope='module')
def scenes_module():
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module('digit_scenes')
    finally:
        sys.path.remove(str(TOOLS))


def run(*args, code=0):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def fingerprint(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits') / 'set'
    output = run(root, *SMALL)
    assert 'train: 40/40' in output and 'val: 20/20' in output
    return root


@pytest.fixture()
def own_copy(dataset, tmp_path):
    import shutil

    return Path(shutil.copytree(dataset, tmp_path / 'set'))


def test_same_arguments_give_same_bytes(dataset, tmp_path):
    run(tmp_path / 'again', *SMALL)
    first = fingerprint(dataset)
    assert first == fingerprint(tmp_path / 'again')
    run(tmp_path / 'other', *SMALL, '--seed', 1)
    other = fingerprint(tmp_path / 'other')
    assert not {first[name] for name in first if name.endswith('.png')} & {
        other[name] for name in other
    }


def test_small_set_is_beginning_of_large(dataset, tmp_path):
    run(tmp_path / 'more', '--train', 50, '--val', 20)
    small, large = fingerprint(dataset), fingerprint(tmp_path / 'more')
    pictures = [name for name in small if name.startswith('train/')]
    assert len(pictures) == 40
    assert all(small[name] == large[name] for name in pictures)


def test_layout_and_balance(dataset):
    for split, each in (('train', 4), ('val', 2)):
        boxes = read_json(dataset / f'{split}_boxes.json')
        files = sorted((dataset / split).glob('*/*.png'))
        assert sorted(boxes) == sorted(
            path.relative_to(dataset).as_posix() for path in files
        )
        count = Counter(path.parent.name for path in files)
        assert count == {str(label): each for label in range(10)}
        for path in files:
            assert cv2.imread(str(path)).shape == (64, 64, 3)
            ((x1, y1, x2, y2, label),) = boxes[path.relative_to(dataset).as_posix()]
            assert str(label) == path.parent.name
            assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
    assert (dataset / 'samples.png').is_file()


def test_split_shares_no_source(dataset, scenes_module):
    manifest = read_json(dataset / 'digits_manifest.json')
    train, val = manifest['train_sources'], manifest['val_sources']
    assert len(train) == 40 and len(val) == 20
    assert not set(train) & set(val)
    _, labels = scenes_module.load_source_digits()
    split = scenes_module.split_sources(labels)
    assert set(train) <= set(split['train'])
    assert set(val) <= set(split['val'])
    both = np.concatenate([split['train'], split['val']])
    assert sorted(both) == list(range(1797))
    share = np.bincount(labels[split['val']]) / np.bincount(labels)
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    # No two source digits are the same picture, so indices tell them apart.
    pixels, _ = scenes_module.load_source_digits()
    assert len(np.unique(pixels.reshape(1797, -1), axis=0)) == 1797


def test_boxes_hold_the_ink_exactly(scenes_module):
    pixels, labels = scenes_module.load_source_digits()
    sampler = scenes_module.SceneSampler(
        pixels, labels, np.arange(len(labels)), canvas_size=80, digit_size=(12, 30)
    )
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sources = rng.integers(len(labels), size=1 + seed % 4)
        scene = sampler.sample(rng, sources)
        assert len(scene.digits) >= 1
        masks, picture = scene.masks(), scene.render().astype(int)
        for number, (mask, digit, box) in enumerate(
            zip(masks, scene.digits, scene.boxes())
        ):
            x1, y1, x2, y2, label = box
            assert label == labels[digit.source]
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum() > 0
            # Every side of the box touches ink.
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
            # The picture agrees: taking the digit away changes its ink.
            others = [d for i, d in enumerate(scene.digits) if i != number]
            without = scenes_module.Scene(scene.background, others).render()
            change = np.abs(picture - without).max(axis=-1)
            assert (change[mask] > 0).all()
            # Around the box only the soft edge may show, at less than half.
            contrast = np.abs(digit.color * 255 - without).max(axis=-1)
            change[y1:y2, x1:x2] = 0
            assert (change <= 0.5 * contrast + 1).all()
        # Digits do not overlap.
        assert (masks.sum(axis=0) <= 1).all()


def test_second_run_finishes_at_once(own_copy):
    before = {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}
    assert 'nothing to do' in run(own_copy, *SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}


def test_half_written_set_is_rebuilt(own_copy, dataset):
    (own_copy / 'val/3/000003.png').unlink()
    assert 'incomplete' in run(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    (own_copy / 'digits_manifest.json').write_text('{"format"')
    assert 'incomplete' in run(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    assert [path.name for path in own_copy.parent.iterdir()] == ['set']


def test_interrupted_run_leaves_nothing_in_place(dataset, tmp_path):
    # What a killed run leaves beside the data set does not disturb the next.
    partial = tmp_path / '.set.partial' / 'train' / '0'
    partial.mkdir(parents=True)
    (partial / 'stray.png').touch()
    run(tmp_path / 'set', *SMALL)
    assert fingerprint(tmp_path / 'set') == fingerprint(dataset)
    assert not (tmp_path / '.set.partial').exists()


def test_other_arguments_need_force(own_copy):
    before = fingerprint(own_copy)
    output = run(own_copy, '--train', 30, '--val', 20, code=1)
    assert '--force' in output and 'other arguments' in output
    assert fingerprint(own_copy) == before
    run(own_copy, '--train', 30, '--val', 20, '--force')
    assert len(list(own_copy.glob('train/*/*.png'))) == 30


def test_foreign_folder_is_never_touched(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    for options in ([], ['--force']):
        output = run(tmp_path, *SMALL, *options, code=1)
        assert 'not made by this tool' in output
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_folder_behind_a_link(dataset, tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'disk', target_is_directory=True)
    run(link, *SMALL)
    assert link.is_symlink() and fingerprint(link) == fingerprint(dataset)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--train', '0'], 'at least 1'),
        (['--size', '16'], '--size must be at least 32'),
        (['--digit-size', '8', '40'], '--digit-size must satisfy'),
        (['--digit-size', '30', '20'], '--digit-size must satisfy'),
        (['--seed', '-1'], '--seed must not be negative'),
        (['--task', 'poetry'], 'invalid choice'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    assert message in run(tmp_path / 'set', *options, code=2)
    assert not list(tmp_path.iterdir())


def test_missing_scikit_learn_names_the_cure(scenes_module, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(SystemExit, match='-m pip install scikit-learn'):
        scenes_module.load_source_digits()


def test_every_size_and_source_works(scenes_module):
    """The smallest and the largest digits, for every source digit."""
    pixels, labels = scenes_module.load_source_digits()
    for low, high, size in ((8, 8, 32), (16, 16, 32), (48, 48, 96)):
        sampler = scenes_module.SceneSampler(
            pixels, labels, np.arange(len(labels)), size, (low, high)
        )
        for source in range(0, len(labels), 3):
            scene = sampler.sample(np.random.default_rng(source), [source])
            assert len(scene.digits) == 1
            x1, y1, x2, y2, _ = scene.boxes()[0]
            assert 0.7 * low <= y2 - y1 <= 1.45 * high
