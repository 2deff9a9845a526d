"""make_digits.py: the same bytes every time, and nothing of others is touched."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import (  # noqa: E402
    SCATTERED,
    SMALL,
    check_sources,
    fingerprint,
    make_digits,
    read_json,
)
from sparseformer_mm.digits import scenes, tasks  # noqa: E402


@pytest.fixture()
def own_copy(dataset, tmp_path):
    return Path(shutil.copytree(dataset, tmp_path / 'set'))


def test_same_arguments_give_same_bytes(dataset, tmp_path):
    make_digits(tmp_path / 'again', *SMALL)
    first = fingerprint(dataset)
    assert first == fingerprint(tmp_path / 'again')
    make_digits(tmp_path / 'other', *SMALL, '--seed', 1)
    other = fingerprint(tmp_path / 'other')
    assert not {first[name] for name in first if name.endswith('.png')} & {
        other[name] for name in other
    }


def test_small_set_is_beginning_of_large(dataset, tmp_path):
    make_digits(tmp_path / 'more', '--train', 50, '--val', 20)
    small, large = fingerprint(dataset), fingerprint(tmp_path / 'more')
    pictures = [name for name in small if name.startswith('train/')]
    assert len(pictures) == 40
    assert all(small[name] == large[name] for name in pictures)


def test_split_shares_no_source(dataset, scattered):
    check_sources(dataset, 40, 20)
    for root in scattered:
        # 66 scenes hold 11 * (1 + 2 + ... + 6) digits, no source twice, and 21 of
        # them three such turns and the first three scenes of the next.
        check_sources(root, 231, 3 * 21 + 6)
    pixels, labels = scenes.load_source_digits()
    split = scenes.split_sources(labels)
    both = np.concatenate([split['train'], split['val']])
    assert sorted(both) == list(range(1797))
    share = np.bincount(labels[split['val']]) / np.bincount(labels)
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    # No two source digits are the same picture, so indices tell them apart.
    assert len(np.unique(pixels.reshape(1797, -1), axis=0)) == 1797


def test_second_run_finishes_at_once(own_copy):
    before = {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}
    assert 'nothing to do' in make_digits(own_copy, *SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}


def test_half_written_set_is_rebuilt(own_copy, dataset):
    (own_copy / 'val/3/000003.png').unlink()
    assert 'incomplete' in make_digits(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    (own_copy / 'digits_manifest.json').write_text('{"format"')
    assert 'incomplete' in make_digits(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    assert [path.name for path in own_copy.parent.iterdir()] == ['set']


def test_files_of_others_in_a_set_are_not_deleted(own_copy):
    (own_copy / 'notes.txt').write_text('mine')
    assert 'nothing to do' in make_digits(own_copy, *SMALL)
    for argv in ([*SMALL, '--force'], ['--train', 30, '--val', 20, '--force']):
        output = make_digits(own_copy, *argv, status=1)
        assert 'holds files that this tool did not make' in output
    assert (own_copy / 'notes.txt').read_text() == 'mine'


def test_interrupted_run_leaves_nothing_in_place(dataset, tmp_path):
    # What a killed run leaves beside the data set does not disturb the next.
    partial = tmp_path / '.set.partial' / 'train' / '0'
    partial.mkdir(parents=True)
    (partial / 'stray.png').touch()
    make_digits(tmp_path / 'set', *SMALL)
    assert fingerprint(tmp_path / 'set') == fingerprint(dataset)
    assert not (tmp_path / '.set.partial').exists()


def test_other_arguments_need_force(own_copy):
    before = fingerprint(own_copy)
    output = make_digits(own_copy, '--train', 30, '--val', 20, status=1)
    assert '--force' in output and 'other arguments' in output
    assert fingerprint(own_copy) == before
    make_digits(own_copy, '--train', 30, '--val', 20, '--force')
    assert len(list(own_copy.glob('train/*/*.png'))) == 30


def test_a_set_of_an_earlier_version_needs_force(own_copy, monkeypatch):
    before = fingerprint(own_copy)
    monkeypatch.setattr(tasks.TASKS['classification'], 'format', 2)
    output = make_digits(own_copy, *SMALL, status=1)
    assert 'by an earlier version of this tool. Use --force' in output
    assert fingerprint(own_copy) == before
    make_digits(own_copy, *SMALL, '--force')
    assert read_json(own_copy / 'digits_manifest.json')['format'] == 2


def test_foreign_folder_is_never_touched(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    for options in ([], ['--force']):
        output = make_digits(tmp_path, *SMALL, *options, status=1)
        assert 'not made by this tool' in output
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_folder_behind_a_link(dataset, tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'disk', target_is_directory=True)
    make_digits(link, *SMALL)
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
    assert message in make_digits(tmp_path / 'set', *options, status=2)
    assert not list(tmp_path.iterdir())


def test_scattered_same_arguments_give_same_bytes(scattered, tmp_path):
    """And the arguments left out are those which --help names."""
    det, seg = scattered
    explicit = ['--size', '128', '--digit-size', '16', '48', '--seed', '0']
    boxes = ['--task', 'detection', *SCATTERED]
    masks = ['--task', 'segmentation', *SCATTERED]
    make_digits(tmp_path / 'det', *boxes, *explicit)
    assert fingerprint(tmp_path / 'det') == fingerprint(det)
    make_digits(tmp_path / 'seg', *masks, *explicit)
    assert fingerprint(tmp_path / 'seg') == fingerprint(seg)
    assert 'nothing to do' in make_digits(tmp_path / 'det', *boxes)
    output = make_digits(tmp_path / 'det', *masks, status=1)
    assert 'other arguments' in output and '--force' in output
    output = ' '.join(make_digits('--help').split())
    assert (
        'training pictures (default: classification 10000, detection 6000, '
        'segmentation 5200, video 3200)' in output
    )
    assert (
        'validation pictures (default: classification 2000, detection 1000, '
        'segmentation 500, video 800)' in output
    )
    assert (
        'in pixels (default: classification 64, detection 128, segmentation 128, '
        'video 52)' in output
    )
