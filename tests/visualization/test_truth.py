"""True boxes, classes and masks: of data sets and of boxes files."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from sparseformer_mm.visualization.truth import Truth, _nested, own_boxes, read_boxes


def test_boxes_file(tmp_path):
    file = tmp_path / 'boxes.json'
    content = {'a/1.png': [[1, 2, 3, 4, 7], [5, 6, 7, 8, 7]], 'b.png': []}
    file.write_text(json.dumps(content))
    boxes = read_boxes(file)
    assert list(boxes) == [tmp_path / 'a/1.png', tmp_path / 'b.png']
    assert boxes[tmp_path / 'a/1.png'].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert boxes[tmp_path / 'b.png'].shape == (0, 4)
    with pytest.raises(ValueError, match='none.json is no file of boxes'):
        read_boxes(tmp_path / 'none.json')
    for broken in ('[[1, 2', '[1, 2]', '{"a.png": 3}', '{"a.png": [["x"]]}'):
        file.write_text(broken)
        with pytest.raises(ValueError, match='is no file of boxes that can be read'):
            read_boxes(file)


def test_crowds_are_no_true_boxes():
    instances = [
        dict(bbox=[10, 20, 30, 40], bbox_label=1, ignore_flag=0),
        dict(bbox=[0, 0, 90, 40], bbox_label=1, ignore_flag=1),
    ]
    assert own_boxes(dict(instances=instances)).tolist() == [[10, 20, 30, 40]]
    assert own_boxes(dict(instances=[])).shape == (0, 4)
    assert own_boxes({}) is None
    assert own_boxes(dict(instances=[*instances, dict(mask=1)])) is None


@pytest.mark.mmdet
def test_wrapped_data_sets(toys):
    toy = toys('detection')
    cfg = Config.fromfile(toy.config)
    toy.model()  # enters the library's scope
    plain = cfg.test_dataloader.dataset
    other = copy.deepcopy(plain)
    other.update(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
    )
    joined = dict(type='ConcatDataset', datasets=[other, plain])
    name = '000000000001.jpg'
    for dataset in (joined, dict(type='RepeatDataset', times=2, dataset=joined)):
        cfg.test_dataloader.dataset = copy.deepcopy(dataset)
        truth = Truth(cfg)
        assert not truth.missing
        assert truth.classes == ('red', 'green')
        for split in ('val2017', 'train2017'):
            path = toy.root / 'data' / split / name
            assert Path(truth.info(path)['img_path']) == path
            assert truth.boxes(path).tolist() == [[4, 10, 44, 40]]
        # One of them is not there.
        for joint in _nested(cfg.test_dataloader.dataset):
            if 'datasets' in joint:
                joint.datasets[0].ann_file = 'nothing/instances_val2017.json'
        assert 'is not there' in Truth(cfg).missing
        # Joined data sets need not agree.
        for joint in _nested(cfg.test_dataloader.dataset):
            if 'datasets' in joint:
                joint.datasets[1].metainfo = dict(classes=('green',))
        assert Truth(cfg, 'none').classes == ('red', 'green')


@pytest.mark.mmpretrain
def test_where_boxes_are_looked_for(toys, tmp_path):
    toy = toys('classification')
    cfg = Config.fromfile(toy.config)
    toy.model()
    path, unknown = toy.root / 'val/cat/0.png', toy.root / 'val/dog/0.png'
    truth = Truth(cfg)
    assert truth.boxes(path).tolist() == [[4, 8, 20, 28]]
    assert truth.boxes(unknown).shape == (0, 4) and truth.label(unknown) == 1
    assert truth.classes == ('cat', 'dog', 'owl')
    nothing = Truth(cfg, 'none')
    assert nothing.missing == '--truth none' and nothing.label(path) is None
    assert nothing.boxes(path).shape == (0, 4)
    given = tmp_path / 'given.json'
    given.write_text(json.dumps({str(unknown): [[1, 2, 3, 4]]}))
    truth = Truth(cfg, str(given))
    assert truth.boxes(path).shape == (0, 4) and truth.label(path) == 0
    assert truth.boxes(unknown).tolist() == [[1, 2, 3, 4]]
    given.write_text('no JSON')
    with pytest.raises(SystemExit, match='given.json is no file of boxes'):
        Truth(cfg, str(given)).boxes(path)


@pytest.mark.mmaction
def test_videos(toys):
    toy = toys('video')
    toy.model()
    truth = Truth(Config.fromfile(toy.config))
    path = toy.root / 'known.mp4'
    assert truth.label(path) == 2 and truth.label(toy.root / 'other.mp4') is None
    assert truth.classes == ('rising', 'falling', 'resting')
    assert truth.boxes(path).shape == (12, 4)
    np.testing.assert_array_equal(truth.boxes(path)[3], [8, 9, 20, 23])
