import pytest

from helpers.golden import Golden


@pytest.fixture(scope='session')
def image_v1():
    return Golden('image_v1.npz')


@pytest.fixture(scope='session')
def video_v2():
    return Golden('video_v2.npz')
