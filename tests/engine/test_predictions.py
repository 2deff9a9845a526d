"""WritePredictions: what it writes, in which order, and what it holds in memory."""

import json
import pickle

import mmengine
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from sparseformer_mm.engine import predictions
from sparseformer_mm.engine.predictions import WritePredictions


def sample(index):
    shared = f'name{index}'
    return dict(
        pred_score=torch.tensor([index, 0.5]), names=[shared, shared], count=np.int64(3)
    )


def write(path, samples, size=None, batch=2):
    metric = WritePredictions(str(path))
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
        assert metric.results == metric.dump.results == []
    assert metric.evaluate(size or len(samples)) == {}


@pytest.mark.parametrize('count', [0, 1, 5, 300])
def test_a_pickle_is_one_plain_list(count, tmp_path):
    write(tmp_path / 'out.pkl', [sample(index) for index in range(count)])
    for read in (
        pickle.loads((tmp_path / 'out.pkl').read_bytes()),
        mmengine.load(str(tmp_path / 'out.pkl')),
    ):
        assert len(read) == count
        for index, record in enumerate(read):
            assert record['names'] == [f'name{index}'] * 2 and record['count'] == 3
            assert record['pred_score'].tolist() == [index, 0.5]
    assert list(tmp_path.iterdir()) == [tmp_path / 'out.pkl']


def test_json_and_a_neighbour_of_the_same_name(tmp_path):
    (tmp_path / 'out.pkl').write_text('mine')
    write(tmp_path / 'out.json', [sample(0), dict(mask=b'rle')])
    assert json.loads((tmp_path / 'out.json').read_text()) == [
        dict(pred_score=[0.0, 0.5], names=['name0', 'name0'], count=3),
        dict(mask='rle'),
    ]
    assert (tmp_path / 'out.pkl').read_text() == 'mine'
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_take_turns_and_filling_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, 'get_world_size', lambda: 2)
    monkeypatch.setattr(predictions, 'is_main_process', lambda: False)
    for rank, indices in ((1, [1, 3, 0]), (0, [0, 2, 4])):
        monkeypatch.setattr(predictions, 'get_rank', lambda rank=rank: rank)
        monkeypatch.setattr(predictions, 'is_main_process', lambda rank=rank: not rank)
        write(tmp_path / 'out.json', [dict(index=index) for index in indices], size=5)
    found = json.loads((tmp_path / 'out.json').read_text())
    assert [record['index'] for record in found] == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [tmp_path / 'out.json']


def test_the_old_file_stays_until_the_test_ends(tmp_path):
    out = tmp_path / 'out.json'
    out.write_text('old')
    kind = 'sparseformer_mm.WritePredictions'
    evaluator = Evaluator([dict(type=kind, out_file_path=str(out))])
    evaluator.process([sample(0)])
    assert out.read_text() == 'old'
    assert evaluator.evaluate(1) == {}
    assert len(json.loads(out.read_text())) == 1
