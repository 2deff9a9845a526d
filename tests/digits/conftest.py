"""Data sets of digits that several files of tests read."""

import pytest

from helpers.digits import SCATTERED, SMALL, make_digits


@pytest.fixture(scope='session')
def dataset(tmp_path_factory):
    """Pictures of single digits."""
    root = tmp_path_factory.mktemp('digits') / 'set'
    output = make_digits(root, *SMALL)
    assert 'train: 40/40' in output and 'val: 20/20' in output
    return root


@pytest.fixture(scope='session')
def scattered(tmp_path_factory):
    """Detection and segmentation with the same arguments."""
    root = tmp_path_factory.mktemp('scattered')
    folders = root / 'det', root / 'seg'
    for folder, task in zip(folders, ('detection', 'segmentation')):
        make_digits(folder, '--task', task, *SCATTERED)
    return folders
