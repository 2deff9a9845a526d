"""What is kept of a library's call."""

from types import SimpleNamespace

import numpy as np
import torch

from helpers.fresh import succeed_fresh
from sparseformer_mm import SparseFormer
from sparseformer_mm.visualization.recording import (
    Call,
    Stage,
    _position,
    picture_stages,
    record,
    spread,
    stages_of,
)

ARCH = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=16,
    cortex_depth=2,
    num_heads=2,
    feat_channels=8,
)


class Library(torch.nn.Module):
    """Calls its backbone as the libraries do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SparseFormer(ARCH).eval()
        with torch.no_grad():
            for param in self.backbone.parameters():
                param.add_(torch.randn_like(param) * 0.02)

    def forward(self, x):
        return self.backbone(x)[-1]


@torch.no_grad()
def test_record_sees_what_the_backbone_records():
    model, x = Library(), torch.rand(2, 3, 32, 48)
    seen = model.backbone.forward_intermediates(x)
    plain = model(x[:1])
    with record(model) as calls:
        torch.testing.assert_close(model(x[:1]), plain)
    (call,) = calls
    assert call.size == (48, 32) and call.offset == (0, 0)
    torch.testing.assert_close(call.outputs.tokens, seen.tokens[:1])
    first, second = (stages_of(seen.stages, index) for index in (0, 1))
    for ours, theirs in zip(picture_stages(calls, (32, 48)), first):
        assert ours.name == theirs.name
        np.testing.assert_allclose(ours.rois, theirs.rois, atol=1e-6)
        np.testing.assert_allclose(ours.points, theirs.points, atol=1e-6)
    assert [stage.name for stage in first] == ['focusing.0', 'focusing.1', 'cortex.0']
    np.testing.assert_array_equal(second[1].points, seen.stages[1].points[1])
    # Off again: nothing is kept.
    model(x)
    assert len(calls) == 1
    assert 'forward_intermediates' not in vars(model.backbone)


def test_windows_and_padding_become_parts_of_the_picture():
    batch = torch.zeros(1, 3, 60, 100)
    assert _position(batch) == (0, 0)
    for layout in (torch.contiguous_format, torch.channels_last):
        window = batch.contiguous(memory_format=layout)[:, :, 20:60, 40:100]
        assert _position(window) == (40, 20)
    record = SimpleNamespace(
        name='a',
        rois=torch.tensor([[[0.5, 0.25, 0.5, 1.0]]]),
        points=torch.tensor([[[[0.5, 1.0]]]]),
    )
    outputs = SimpleNamespace(stages=[record])
    # The whole input, padded to 120 x 80, and a window of it.
    calls = [Call((0, 0), (120, 80), outputs), Call((40, 20), (60, 40), outputs)]
    (stage,) = picture_stages(calls, (60, 100))
    assert stage.name == 'a'
    np.testing.assert_allclose(
        stage.rois, [[0.6, 20 / 60, 0.6, 80 / 60], [0.7, 30 / 60, 0.3, 40 / 60]]
    )
    np.testing.assert_allclose(stage.points, [[[0.6, 80 / 60]], [[0.7, 1.0]]])


def test_corners_of_rois_and_tubes():
    rois = np.array([[0.5, 0.25, 0.5, 0.1]])
    points = np.zeros((1, 4, 2))
    expected = [[0.25, 0.2, 0.75, 0.3]]
    np.testing.assert_allclose(Stage('a', rois, points).corners, expected)
    tubes = np.array([[0.5, 0.25, 0.9, 0.5, 0.1, 0.2]])
    points = np.zeros((1, 4, 3))
    np.testing.assert_allclose(Stage('a', tubes, points).corners, expected)


def test_in_the_middle_of_equal_parts():
    assert spread(32, 4).tolist() == [4, 12, 20, 28]
    assert spread(16, 6).tolist() == [1, 4, 6, 9, 12, 14]
    assert spread(3, 6).tolist() == [0, 1, 2]
    assert spread(7, 1).tolist() == [3]


def test_hooks_import_no_drawing_code():
    """A training that draws nothing loads nothing that draws."""
    loaded = succeed_fresh(
        """
        import sys, sparseformer_mm.engine, sparseformer_mm.visualization as v
        v.FocusHook()
        print(*sys.modules)
        """
    ).split()
    assert 'sparseformer_mm.visualization.hook' in loaded and 'mmengine' in loaded
    drawing = ('panels', 'figures', 'page', 'focus', 'looks')
    drawing = {f'sparseformer_mm.visualization.{name}' for name in drawing}
    assert not {'matplotlib', *drawing} & set(loaded)
