"""What is kept of a library's call, and what single tokens answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseformer_mm import SparseFormer
from sparseformer_mm.visualization.recording import (
    picture_stages,
    record,
    token_logits,
    top_tokens,
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
    """Calls its backbone as the libraries do, without asking for stages."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SparseFormer(ARCH).eval()
        with torch.no_grad():
            for param in self.backbone.parameters():
                param.add_(torch.randn_like(param) * 0.02)
        self.head = torch.nn.Module()
        self.head.fc = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head.fc(self.backbone(x)[-1])


@torch.no_grad()
def test_record_sees_what_the_backbone_records():
    model, x = Library(), torch.rand(1, 3, 32, 48)
    plain, seen = model(x), model.backbone.forward_intermediates(x)
    with record(model) as recording:
        torch.testing.assert_close(model(x), plain)
    (call,) = recording.calls
    assert call.size == (48, 32) and call.offset == (0, 0)
    found = picture_stages(recording.calls, (32, 48))
    assert [stage.name for stage in found] == ['focusing.0', 'focusing.1', 'cortex.0']
    for ours, theirs in zip(found, seen.stages):
        np.testing.assert_allclose(ours.rois, theirs.rois[0], atol=1e-7)
        np.testing.assert_allclose(ours.points, theirs.points[0], atol=1e-7)
    torch.testing.assert_close(recording.last_tokens, [seen.tokens])
    # Off again: nothing is kept.
    model(x)
    assert len(recording.calls) == len(recording.last_tokens) == 1
    assert 'forward_intermediates' not in vars(model.backbone)


@torch.no_grad()
@pytest.mark.parametrize('head, layer', [('head', 'fc'), ('cls_head', 'fc_cls')])
def test_single_tokens_through_the_classifier(head, layer):
    linear = torch.nn.Linear(16, 3)
    model = SimpleNamespace(backbone=SimpleNamespace(embed_dims=16))
    setattr(model, head, SimpleNamespace(**{layer: linear}))
    tokens = torch.randn(2, 5, 16)
    expected = tokens @ linear.weight.T + linear.bias
    torch.testing.assert_close(token_logits(model, tokens), expected)


def test_models_whose_tokens_have_no_class():
    backbone = SimpleNamespace(embed_dims=16)
    for head, message in (
        (dict(head=SimpleNamespace()), 'the head SimpleNamespace has no linear layer'),
        (dict(cls_head=SimpleNamespace(fc_cls=torch.nn.Linear(7, 2))), 'the 16 chan'),
        ({}, 'has neither head.fc nor cls_head.fc_cls'),
    ):
        with pytest.raises(ValueError, match=message):
            token_logits(SimpleNamespace(backbone=backbone, **head), torch.zeros(1, 16))


def test_top_tokens():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9, -1.0])
    assert top_tokens(scores, 3).tolist() == [1, 3, 2]
    assert top_tokens(scores.numpy(), 9).tolist() == [1, 3, 2, 0, 4]
