"""The files of each task, as its library reads them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import read_json  # noqa: E402
from helpers.scripts import ROOT  # noqa: E402
from sparseformer_mm.digits import tasks  # noqa: E402

DATASET_CONFIG = ROOT / 'configs/_base_/datasets/digits_segmentation_bs8.py'


def test_layout_and_balance(dataset):
    for split, each in (('train', 4), ('val', 2)):
        boxes = read_json(dataset / f'{split}_boxes.json')
        files = sorted((dataset / split).glob('*/*.png'))
        assert sorted(boxes) == sorted(
            path.relative_to(dataset).as_posix() for path in files
        )
        count = Counter(path.parent.name for path in files)
        assert count == {str(label): each for label in range(10)}
        for path in files:
            assert cv2.imread(str(path)).shape == (64, 64, 3)
            ((x1, y1, x2, y2, label),) = boxes[path.relative_to(dataset).as_posix()]
            assert str(label) == path.parent.name
            assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
    assert (dataset / 'samples.png').is_file()


def test_scenes_stay_as_they_are(dataset):
    """Whoever has the data set already has the same as everybody else.

    Boxes and mean brightness instead of hashes: they hold for any version of
    OpenCV.
    """
    expected = {
        'train/0/000000.png': ([2, 4, 18, 29, 0], 64.10),
        'train/1/000001.png': ([22, 32, 39, 59, 1], 68.50),
        'train/2/000002.png': ([14, 44, 26, 63, 2], 58.71),
        'train/3/000003.png': ([37, 5, 52, 32, 3], 66.94),
        'val/0/000000.png': ([8, 17, 25, 41, 0], 43.80),
        'val/1/000001.png': ([28, 12, 40, 32, 1], 35.48),
        'val/2/000002.png': ([33, 19, 50, 47, 2], 54.86),
        'val/3/000003.png': ([15, 18, 27, 36, 3], 45.70),
    }
    boxes = {
        name: box
        for split in ('train', 'val')
        for name, box in read_json(dataset / f'{split}_boxes.json').items()
    }
    for name, (box, brightness) in expected.items():
        assert boxes[name] == [box]
        picture = cv2.imread(str(dataset / name))
        assert picture.mean() == pytest.approx(brightness, abs=0.1)
    manifest = read_json(dataset / 'digits_manifest.json')
    assert manifest['format'] == 1
    assert manifest['arguments'] == dict(
        task='classification', train=40, val=20, size=64, digit_size=[16, 32], seed=0
    )


def test_boxes_are_valid_coco(scattered):
    pycocotools = pytest.importorskip('pycocotools.coco')
    det, _ = scattered
    for split, count in (('train', 66), ('val', 21)):
        coco = pycocotools.COCO(str(det / f'annotations/instances_{split}.json'))
        assert sorted(coco.dataset) == sorted(
            ['info', 'images', 'annotations', 'categories']
        )
        assert coco.getImgIds() == list(range(1, count + 1))
        number = len(coco.dataset['annotations'])
        assert sorted(coco.getAnnIds()) == list(range(1, number + 1))
        assert [(c['id'], c['name']) for c in coco.loadCats(coco.getCatIds())] == [
            (label + 1, str(label)) for label in range(10)
        ]
        files = [image['file_name'] for image in coco.loadImgs(coco.getImgIds())]
        assert files == sorted(path.name for path in (det / split).iterdir())
        for image in coco.loadImgs(coco.getImgIds()):
            picture = cv2.imread(str(det / split / image['file_name']))
            assert picture.shape == (image['height'], image['width'], 3)
            assert picture.shape == (128, 128, 3)
        annotations = coco.loadAnns(coco.getAnnIds())
        assert {a['category_id'] for a in annotations} == set(range(1, 11))
        assert {a['iscrowd'] for a in annotations} == {0}
        # 1 to 6 digits per picture, all numbers equally often.
        per_image = Counter(a['image_id'] for a in annotations)
        histogram = Counter(per_image.values())
        assert sorted(histogram) == [1, 2, 3, 4, 5, 6]
        assert sum(histogram.values()) == count
        assert max(histogram.values()) - min(histogram.values()) <= 1
        # Against its own boxes and masks, pycocotools' metric is perfect.
        own = coco.loadRes([dict(a, score=1.0) for a in annotations])
        for kind in ('bbox', 'segm'):
            evaluation = pytest.importorskip('pycocotools.cocoeval').COCOeval(
                coco, own, kind
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1)


@pytest.mark.parametrize(
    'mask, counts',
    [
        ([[0, 0], [0, 0], [0, 0]], [6]),
        ([[1, 1], [1, 1], [1, 1]], [0, 6]),
        ([[0, 1], [1, 1], [0, 0]], [1, 1, 1, 2, 1]),
        ([[1, 0], [0, 0], [0, 1]], [0, 1, 4, 1]),
    ],
)
def test_run_lengths(mask, counts):
    """Down the columns; the first run is background."""
    mask = np.array(mask, bool)
    encoded = tasks.run_lengths(mask)
    assert encoded == dict(size=[3, 2], counts=counts)
    coder = pytest.importorskip('pycocotools.mask')
    decoded = coder.decode(coder.frPyObjects(encoded, 3, 2))
    assert (decoded == mask).all()


def test_instances_are_cut_out_of_the_masks(scattered):
    """Each digit's ink, decoded: in its box, of its class, and all of it."""
    coder = pytest.importorskip('pycocotools.mask')
    det, seg = scattered
    content = read_json(det / 'annotations/instances_val.json')
    for image in content['images']:
        painted = np.zeros((128, 128), np.uint8)
        for annotation in content['annotations']:
            if annotation['image_id'] != image['id']:
                continue
            mask = annotation['segmentation']
            assert sorted(mask) == ['counts', 'size'] and mask['size'] == [128, 128]
            mask = coder.frPyObjects(mask, 128, 128)
            assert coder.area(mask) == annotation['area']
            assert coder.toBbox(mask).tolist() == annotation['bbox']
            mask = coder.decode(mask).astype(bool)
            assert not painted[mask].any()
            painted[mask] = annotation['category_id']
        name = f'ann_dir/val/{image["file_name"]}'
        truth = cv2.imread(str(seg / name), cv2.IMREAD_UNCHANGED)
        assert (painted == truth).all()


def test_masks_agree_with_boxes(scattered):
    """The ink in each box: area, extents and class; and none outside."""
    det, seg = scattered
    seen = set()
    for split, count in (('train', 66), ('val', 21)):
        content = read_json(det / f'annotations/instances_{split}.json')
        assert len(content['images']) == count
        for folder in ('img_dir', 'ann_dir'):
            assert len(list((seg / folder / split).iterdir())) == count
        for image in content['images']:
            name = f'{split}/{image["file_name"]}'
            picture = seg / 'img_dir' / name
            assert picture.read_bytes() == (det / name).read_bytes()
            mask = cv2.imread(str(seg / 'ann_dir' / name), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (128, 128) and mask.dtype == np.uint8
            seen |= set(mask.ravel().tolist())
            annotations = [
                a for a in content['annotations'] if a['image_id'] == image['id']
            ]
            for annotation in annotations:
                x, y, width, height = annotation['bbox']
                ink = mask[y : y + height, x : x + width]
                assert set(ink.ravel().tolist()) <= {0, annotation['category_id']}
                assert ink.shape == (height, width)
                assert annotation['area'] == np.count_nonzero(ink)
                for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
                    assert side.any()
            assert sum(a['area'] for a in annotations) == np.count_nonzero(mask)
    assert seen == set(range(11))


def test_sample_sheets(scattered):
    """Boxes for detection; picture and coloured mask for segmentation."""
    det, seg = scattered
    sheet = cv2.imread(str(det / 'samples.png'))
    # 21 pictures in rows of ten.
    assert sheet.shape == (3 * 128, 10 * 128, 3)
    assert not sheet[256:, 128:].any() and sheet[256:, :128].any()
    content = read_json(det / 'annotations/instances_val.json')
    picture = cv2.imread(str(det / 'val/000000.png'))
    changed = (sheet[:128, :128] != picture).any(axis=-1)
    outline = np.zeros_like(changed)
    for annotation in content['annotations']:
        if annotation['image_id'] == 1:
            x, y, width, height = annotation['bbox']
            outline[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1] = 1
            outline[y : y + height, x : x + width] = 0
    assert (changed == outline).all()
    assert (sheet[:128, :128][outline] == (0, 255, 255)).all()

    sheet = cv2.imread(str(seg / 'samples.png'))
    assert sheet.shape == (5 * 128, 5 * 256, 3)
    colors = {}
    for number in range(21):
        row, column = divmod(number, 5)
        tile = sheet[128 * row :, 256 * column :][:128, :256]
        name = f'val/{number:06d}.png'
        assert (tile[:, :128] == cv2.imread(str(seg / 'img_dir' / name))).all()
        mask = cv2.imread(str(seg / 'ann_dir' / name), cv2.IMREAD_UNCHANGED)
        for label in np.unique(mask):
            (color,) = np.unique(tile[:, 128:][mask == label], axis=0)
            assert colors.setdefault(int(label), tuple(color)) == tuple(color)
    # One colour per class: that of the pictures made with the config.
    palette = Config.fromfile(DATASET_CONFIG).metainfo.palette
    assert len({tuple(color) for color in palette}) == 11
    assert colors == {label: tuple(rgb[::-1]) for label, rgb in enumerate(palette)}


def test_mmdet_reads_boxes(scattered):
    pytest.importorskip('mmdet', reason='needs mmdet')
    from mmdet.datasets import CocoDataset

    det, _ = scattered
    dataset = CocoDataset(
        ann_file='annotations/instances_val.json',
        data_root=str(det),
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=tuple('0123456789')),
        filter_cfg=dict(filter_empty_gt=True, min_size=1),
    )
    assert len(dataset) == 21
    content = read_json(det / 'annotations/instances_val.json')
    for index in range(21):
        info = dataset.get_data_info(index)
        assert Path(info['img_path']).is_file()
        found = [(i['bbox'], i['bbox_label']) for i in info['instances']]
        assert found == [
            ([x, y, x + width, y + height], a['category_id'] - 1)
            for a in content['annotations']
            if a['image_id'] == info['img_id']
            for x, y, width, height in [a['bbox']]
        ]


def test_mmdet_reads_masks(scattered):
    """Loaded, they are the ink; scored as predictions, all of it is found."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.evaluation import CocoMetric

    det, seg = scattered
    dataset = CocoDataset(
        ann_file='annotations/instances_val.json',
        data_root=str(det),
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=tuple('0123456789')),
    )
    metric = CocoMetric(dataset.ann_file, metric=['bbox', 'segm'], classwise=False)
    metric.dataset_meta = dataset.metainfo
    load = LoadAnnotations(with_mask=True, poly2mask=True)
    for index in range(21):
        info = dict(dataset.get_data_info(index), ori_shape=(128, 128))
        loaded = load(dict(info, img_shape=(128, 128), ignore_flag=False))
        masks, labels = loaded['gt_masks'].masks, loaded['gt_bboxes_labels']
        name = seg / f'ann_dir/val/{index:06d}.png'
        truth = cv2.imread(str(name), cv2.IMREAD_UNCHANGED)
        assert ((masks * (labels + 1)[:, None, None]).sum(0) == truth).all()
        found = dict(
            bboxes=loaded['gt_bboxes'].tensor,
            labels=torch.from_numpy(labels),
            scores=torch.ones(len(labels)),
            masks=torch.from_numpy(masks.astype(bool)),
        )
        sample = dict(img_id=info['img_id'], ori_shape=(128, 128), pred_instances=found)
        metric.process({}, [sample])
    figures = metric.evaluate(21)
    assert figures['coco/bbox_mAP'] == figures['coco/segm_mAP'] == 1.0


def test_mmseg_reads_masks(scattered):
    pytest.importorskip('mmseg', reason='needs mmseg')
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    _, seg = scattered
    dataset = BaseSegDataset(
        data_root=str(seg),
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('background', *'0123456789')),
    )
    assert len(dataset) == 66
    for index in (0, 65):
        info = dataset.get_data_info(index)
        name = f'train/{index:06d}.png'
        assert Path(info['img_path']) == seg / 'img_dir' / name
        loaded = LoadAnnotations()(info)['gt_seg_map']
        mask = cv2.imread(str(seg / 'ann_dir' / name), cv2.IMREAD_UNCHANGED)
        assert (loaded == mask).all()
