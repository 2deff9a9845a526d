"""Scenes of scattered digits: boxes, masks, sources."""

import sys
from collections import Counter

import numpy as np
import pytest

pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from sparseformer_mm.digits import scenes, tasks  # noqa: E402


def test_boxes_hold_the_ink_exactly():
    pixels, labels = scenes.load_source_digits()
    sampler = scenes.SceneSampler(
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
            without = scenes.Scene(scene.background, others).render()
            change = np.abs(picture - without).max(axis=-1)
            assert (change[mask] > 0).all()
            # Around the box only the soft edge may show, at less than half.
            contrast = np.abs(digit.color * 255 - without).max(axis=-1)
            change[y1:y2, x1:x2] = 0
            assert (change <= 0.5 * contrast + 1).all()
        # Digits do not overlap.
        assert (masks.sum(axis=0) <= 1).all()


def test_masks_are_what_is_seen():
    """A later digit covers an earlier one; of a soft edge, what is half opaque."""
    ink = np.array([[0.2, 0.5, 1], [0.4, 1, 1]], np.float32)
    digits = [
        scenes.PlacedDigit(label, label, ink, np.ones(3, np.float32), x, y)
        for label, (x, y) in enumerate([(0, 0), (1, 1)])
    ]
    below, above = scenes.Scene(np.zeros((3, 5, 3)), digits).masks()
    assert np.argwhere(below).tolist() == [[0, 1], [0, 2], [1, 1]]
    assert np.argwhere(above).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_missing_scikit_learn_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(SystemExit, match='-m pip install scikit-learn'):
        scenes.load_source_digits()


def test_every_size_and_source_works():
    """The smallest and the largest digits, for every source digit."""
    pixels, labels = scenes.load_source_digits()
    for low, high, size in ((8, 8, 32), (16, 16, 32), (48, 48, 96)):
        sampler = scenes.SceneSampler(
            pixels, labels, np.arange(len(labels)), size, (low, high)
        )
        for source in range(0, len(labels), 9):
            scene = sampler.sample(np.random.default_rng(source), [source])
            assert len(scene.digits) == 1
            x1, y1, x2, y2, _ = scene.boxes()[0]
            assert 0.7 * low <= y2 - y1 <= 1.45 * high


def test_sources_take_turns():
    _, labels = scenes.load_source_digits()
    sources = scenes.split_sources(labels)['val']

    class Recorder:
        """A sampler which draws nothing."""

        dealer = scenes.SceneSampler(None, labels, sources, 128)

        def dealt_source(self, n):
            return self.dealer.dealt_source(n)

        def sample(self, rng, chosen):
            self.chosen = chosen
            return scenes.Scene(None, list(chosen))

    recorder, dealt = Recorder(), []
    for index in range(3 * 120):
        tasks.compose_several(recorder, None, index)
        assert len(recorder.chosen) == 1 + index % 6
        dealt.extend(recorder.chosen)
    # Every digit of the split, before any comes again.
    pack = len(sources)
    assert len(dealt) == 1260 and pack == 359
    for start in range(0, 3 * pack, pack):
        assert sorted(dealt[start : start + pack]) == sorted(sources)
    # In another order each time, and one class does not foretell the next.
    assert dealt[:pack] != dealt[pack : 2 * pack]
    pairs = Counter(zip(labels[dealt], labels[dealt[1:]]))
    assert len(pairs) > 95 and max(pairs.values()) < 40


def test_crowded_canvas_holds_what_fits():
    """Where six digits cannot fit there are fewer, and it does not hang."""
    pixels, labels = scenes.load_source_digits()
    sampler = scenes.SceneSampler(pixels, labels, np.arange(len(labels)), 64, (32, 32))
    scene = tasks.compose_several(sampler, np.random.default_rng(0), 5)
    assert 1 <= len(scene.digits) <= 5
    # Where they fit at some attempt, all are there.
    sampler = scenes.SceneSampler(pixels, labels, np.arange(len(labels)), 128, (16, 48))
    for index in range(5, 240, 6):
        rng = np.random.default_rng(index)
        assert len(tasks.compose_several(sampler, rng, index).digits) == 6
