"""DumpLabelMaps: label maps without logits."""

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.registry import DefaultScope  # noqa: E402

from sparseformer_mm.engine.predictions import WritePredictions  # noqa: E402
from sparseformer_mm.host import host_of  # noqa: E402
from sparseformer_mm.segmentation import DumpLabelMaps  # noqa: E402


def test_logits_go_and_labels_stay(tmp_path):
    metric = DumpLabelMaps(out_file_path='unused.pkl')
    labels = torch.randint(0, 150, (1, 20, 30))
    truth = torch.full((1, 20, 30), 255)
    sample = dict(
        img_path='a.png',
        seg_logits=dict(data=torch.rand(150, 20, 30)),
        pred_sem_seg=dict(data=labels),
        gt_sem_seg=dict(data=truth),
    )
    metric.process(None, [sample])
    (kept,) = metric.results
    assert kept.keys() == {'img_path', 'pred_sem_seg', 'gt_sem_seg'}
    for name, expected in (('pred_sem_seg', labels), ('gt_sem_seg', truth)):
        assert kept[name]['data'].dtype == torch.uint8
        assert torch.equal(kept[name]['data'].long(), expected)
    assert sample['pred_sem_seg']['data'].dtype == torch.int64  # others measure it
    assert 'seg_logits' in sample


@pytest.mark.parametrize('values', [[0, 256], [-1, 3]])
def test_labels_that_need_more_than_a_byte(values):
    metric = DumpLabelMaps(out_file_path='unused.pkl')
    metric.process(None, [dict(pred_sem_seg=dict(data=torch.tensor(values)))])
    assert metric.results[0]['pred_sem_seg']['data'].tolist() == values


def test_it_is_what_the_tool_writes(tmp_path):
    with DefaultScope.overwrite_default_scope('mmseg'):
        metric = WritePredictions('x.pkl', host_of('mmseg').dump_metric)
    assert isinstance(metric.dump, DumpLabelMaps)
