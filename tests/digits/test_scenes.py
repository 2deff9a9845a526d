"""The embedded data sets of scattered digits."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import (  # noqa: E402
    check_sources,
    fingerprint,
    make_digits,
    read_json,
)
from helpers.scripts import ROOT  # noqa: E402
from sparseformer_mm.digits import scenes, tasks  # noqa: E402

DATASET_CONFIG = ROOT / 'configs/_base_/datasets/digits_segmentation_bs8.py'
SMALL = ['--train', '40', '--val', '20']
# Not a multiple of the columns of samples.png.
SCATTERED = ['--train', '66', '--val', '21']


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits') / 'set'
    output = make_digits(root, *SMALL)
    assert 'train: 40/40' in output and 'val: 20/20' in output
    return root


@pytest.fixture(scope='module')
def scattered(tmp_path_factory):
    """Detection and segmentation with the same arguments."""
    root = tmp_path_factory.mktemp('scattered')
    folders = root / 'det', root / 'seg'
    for folder, task in zip(folders, ('detection', 'segmentation')):
        make_digits(folder, '--task', task, *SCATTERED)
    return folders


@pytest.fixture()
def own_copy(dataset, tmp_path):
    return Path(shutil.copytree(dataset, tmp_path / 'set'))


def test_same_arguments_give_same_bytes(dataset, tmp_path):
    make_digits(tmp_path / 'again', *SMALL)
    first = fingerprint(dataset)
    assert first == fingerprint(tmp_path / 'again')
    make_digits(tmp_path / 'other', *SMALL, '--seed', 1)
    other = fingerprint(tmp_path / 'other')
    assert not {first[name] for name in first if name.endswith('.png')} & {
        other[name] for name in other
    }


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


def test_small_set_is_beginning_of_large(dataset, tmp_path):
    make_digits(tmp_path / 'more', '--train', 50, '--val', 20)
    small, large = fingerprint(dataset), fingerprint(tmp_path / 'more')
    pictures = [name for name in small if name.startswith('train/')]
    assert len(pictures) == 40
    assert all(small[name] == large[name] for name in pictures)


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


def test_split_shares_no_source(dataset, scattered):
    check_sources(dataset, 40, 20)
    for root in scattered:
        # 66 scenes hold 11 * (1 + 2 + ... + 6) digits, no source twice, and 21 of
        # them three such turns and the first three scenes of the next.
        check_sources(root, 231, 3 * 21 + 6)
    pixels, labels = scenes.load_source_digits()
    split = scenes.split_sources(labels)
    both = np.concatenate([split['train'], split['val']])
    assert sorted(both) == list(range(1797))
    share = np.bincount(labels[split['val']]) / np.bincount(labels)
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    # No two source digits are the same picture, so indices tell them apart.
    assert len(np.unique(pixels.reshape(1797, -1), axis=0)) == 1797


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


def test_second_run_finishes_at_once(own_copy):
    before = {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}
    assert 'nothing to do' in make_digits(own_copy, *SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in own_copy.rglob('*')}


def test_half_written_set_is_rebuilt(own_copy, dataset):
    (own_copy / 'val/3/000003.png').unlink()
    assert 'incomplete' in make_digits(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    (own_copy / 'digits_manifest.json').write_text('{"format"')
    assert 'incomplete' in make_digits(own_copy, *SMALL)
    assert fingerprint(own_copy) == fingerprint(dataset)
    assert [path.name for path in own_copy.parent.iterdir()] == ['set']


def test_files_of_others_in_a_set_are_not_deleted(own_copy):
    (own_copy / 'notes.txt').write_text('mine')
    assert 'nothing to do' in make_digits(own_copy, *SMALL)
    for argv in ([*SMALL, '--force'], ['--train', 30, '--val', 20, '--force']):
        output = make_digits(own_copy, *argv, status=1)
        assert 'holds files that this tool did not make' in output
    assert (own_copy / 'notes.txt').read_text() == 'mine'


def test_interrupted_run_leaves_nothing_in_place(dataset, tmp_path):
    # What a killed run leaves beside the data set does not disturb the next.
    partial = tmp_path / '.set.partial' / 'train' / '0'
    partial.mkdir(parents=True)
    (partial / 'stray.png').touch()
    make_digits(tmp_path / 'set', *SMALL)
    assert fingerprint(tmp_path / 'set') == fingerprint(dataset)
    assert not (tmp_path / '.set.partial').exists()


def test_other_arguments_need_force(own_copy):
    before = fingerprint(own_copy)
    output = make_digits(own_copy, '--train', 30, '--val', 20, status=1)
    assert '--force' in output and 'other arguments' in output
    assert fingerprint(own_copy) == before
    make_digits(own_copy, '--train', 30, '--val', 20, '--force')
    assert len(list(own_copy.glob('train/*/*.png'))) == 30


def test_foreign_folder_is_never_touched(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    for options in ([], ['--force']):
        output = make_digits(tmp_path, *SMALL, *options, status=1)
        assert 'not made by this tool' in output
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_folder_behind_a_link(dataset, tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'disk', target_is_directory=True)
    make_digits(link, *SMALL)
    assert link.is_symlink() and fingerprint(link) == fingerprint(dataset)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--train', '0'], 'at least 1'),
        (['--size', '16'], '--size must be at least 32'),
        (['--digit-size', '8', '40'], '--digit-size must satisfy'),
        (['--digit-size', '30', '20'], '--digit-size must satisfy'),
        (['--seed', '-1'], '--seed must not be negative'),
        (['--task', 'poetry'], 'invalid choice'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    assert message in make_digits(tmp_path / 'set', *options, status=2)
    assert not list(tmp_path.iterdir())


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
        # Against its own boxes, pycocotools' metric is perfect.
        evaluation = pytest.importorskip('pycocotools.cocoeval').COCOeval(
            coco, coco.loadRes([dict(a, score=1.0) for a in annotations]), 'bbox'
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


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


def test_scattered_same_arguments_give_same_bytes(scattered, tmp_path):
    """And the arguments left out are those which --help names."""
    det, seg = scattered
    explicit = ['--size', '128', '--digit-size', '16', '48', '--seed', '0']
    boxes = ['--task', 'detection', *SCATTERED]
    masks = ['--task', 'segmentation', *SCATTERED]
    make_digits(tmp_path / 'det', *boxes, *explicit)
    assert fingerprint(tmp_path / 'det') == fingerprint(det)
    make_digits(tmp_path / 'seg', *masks, *explicit)
    assert fingerprint(tmp_path / 'seg') == fingerprint(seg)
    assert 'nothing to do' in make_digits(tmp_path / 'det', *boxes)
    output = make_digits(tmp_path / 'det', *masks, status=1)
    assert 'other arguments' in output and '--force' in output
    output = ' '.join(make_digits('--help').split())
    assert (
        'training pictures (default: classification 10000, detection 6000, '
        'segmentation 6000, video 3200)' in output
    )
    assert (
        'validation pictures (default: classification 2000, detection 1000, '
        'segmentation 1000, video 800)' in output
    )
    assert (
        'in pixels (default: classification 64, detection 128, segmentation 128, '
        'video 52)' in output
    )


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
