import numpy as np
import pytest

pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from sparseformer_mm.video import ShuffleFrames  # noqa: E402

pytestmark = pytest.mark.mmaction


def shuffled(name, seed=0):
    frames = [np.full((2, 2, 3), i) for i in range(24)]
    results = dict(filename=name, imgs=frames, clip_len=8, num_clips=3)
    return [int(frame[0, 0, 0]) for frame in ShuffleFrames(seed)(results)['imgs']]


def test_each_clip_keeps_its_frames_in_another_order():
    order = shuffled('a.mp4')
    for start in (0, 8, 16):
        clip = order[start : start + 8]
        assert sorted(clip) == list(range(start, start + 8)) != clip


def test_orders_depend_on_the_video_and_the_seed_only():
    assert shuffled('data/val/a.mp4') == shuffled('/elsewhere/val/a.mp4')
    assert shuffled('a.mp4') != shuffled('b.mp4')
    assert shuffled('a.mp4') != shuffled('a.mp4', seed=1)
