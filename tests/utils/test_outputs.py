"""Outputs: found out before work, whole or not at all."""

import os
import stat

import pytest

from sparseformer_mm.utils.outputs import check_folder, check_writable, replacing


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    file = tmp_path / 'new' / 'out.json'
    check_writable(file)
    assert list(file.parent.iterdir()) == []
    file.write_text('old')
    check_writable(file)
    assert file.read_text() == 'old' and list(file.parent.iterdir()) == [file]
    check_folder(tmp_path / 'pictures')
    assert list((tmp_path / 'pictures').iterdir()) == []


@pytest.mark.parametrize('check', [check_writable, check_folder])
def test_what_cannot_be_written_is_named(check, tmp_path):
    file = tmp_path / 'file'
    file.write_text('mine')
    for place in (file / 'out.json', file / 'deep/out.json', tmp_path / ('x' * 300)):
        with pytest.raises(SystemExit, match='cannot write .*: name another place'):
            check(place)
    assert file.read_text() == 'mine' and list(tmp_path.iterdir()) == [file]


def test_files_are_no_folders_and_folders_no_files(tmp_path):
    with pytest.raises(SystemExit, match='it is a folder; name a file'):
        check_writable(tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='cannot write .*File exists'):
        check_folder(tmp_path / 'file')


def test_a_file_is_replaced_at_the_end_only(tmp_path):
    file = tmp_path / 'out.json'
    file.write_text('old')
    with pytest.raises(KeyError), replacing(file) as new:
        new.write_text('half')
        raise KeyError
    assert file.read_text() == 'old' and list(tmp_path.iterdir()) == [file]
    with replacing(file) as new:
        assert new.suffix == '.json' and new.parent == tmp_path
        new.write_text('new')
        assert file.read_text() == 'old'
    assert file.read_text() == 'new' and list(tmp_path.iterdir()) == [file]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
