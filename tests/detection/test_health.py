"""What HealthHook says of detectors."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmdet', reason='needs mmdet: pip install onedl-mmdetection')

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from sparseformer_mm.engine.symptoms import Limits  # noqa: E402
from sparseformer_mm.host import host_of  # noqa: E402

pytestmark = pytest.mark.mmdet


def watch_of(**head):
    """Of a model whose head is of three classes."""
    sigmoid = head.pop('use_sigmoid', True)
    part = torch.nn.Module()
    part.num_classes, part.loss_cls = 3, SimpleNamespace(use_sigmoid=sigmoid)
    model = torch.nn.Module()
    model.bbox_head = part
    return host_of('mmdet').watch(model)


def batch_of(*counts):
    samples = []
    for count in counts:
        sample = DetDataSample()
        boxes = torch.zeros(count, 4)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=boxes[:, 0].long())
        samples.append(sample)
    return dict(data_samples=samples)


def names(figures, batch, **losses):
    losses = {name: torch.tensor(value) for name, value in losses.items()}
    watch = watch_of()
    return [x.name for x in watch.symptoms(figures, batch, losses, Limits())]


def test_symptoms():
    assert names([0.3], batch_of(2, 0), loss_bbox=0.1) == []
    assert names([0.3], batch_of(0, 0), loss_bbox=0.0) == ['no_boxes']
    assert names([0.3], batch_of(2), loss_rpn_bbox=0.0, loss_bbox=0.1) == ['no_match']
    assert names([0.02], batch_of(2), loss_bbox=0.1) == ['no_object']
    assert names([float('nan')], batch_of(2), acc=0.0, loss_cls=0.0) == []
    for batch in (None, [], dict(data_samples=dict(sup=[])), dict(inputs=0)):
        assert names([0.0], batch) == []


def test_scores_of_heads_with_sigmoid():
    logits = torch.tensor([[0.0, -2.0, 1.0]])
    best = torch.tensor([1.0]).sigmoid()
    watch = watch_of()
    for output in ((logits, None), ([logits, logits - 1], None), ([logits],)):
        torch.testing.assert_close(watch.figures(output), best)


def test_scores_of_heads_with_softmax_leave_out_no_object():
    logits = torch.tensor([[[0.0, 0.0, 1.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    watch = watch_of(use_sigmoid=False)
    assert watch.figures((logits, None)).tolist() == [0.25]
    # Nothing is known of these.
    for output in ((logits.mT, None), ([logits], None), (), None, ({'a': logits},)):
        figures = watch.figures(output)
        assert figures.shape == (1,) and figures.isnan()
    assert host_of('mmdet').watch(torch.nn.Module()).module is None
