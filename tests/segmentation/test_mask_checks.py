"""Masks that mmseg would learn nothing from, measure wrong, or trip over."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmengine.dataset import ConcatDataset, RepeatDataset  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.datasets import BaseSegDataset, MultiImageMixDataset  # noqa: E402
from mmseg.models.losses import CrossEntropyLoss, DiceLoss  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from helpers.problems import assert_said  # noqa: E402
from sparseformer_mm.engine import CheckDatasetHook, check_dataset  # noqa: E402
from sparseformer_mm.engine.problems import DatasetError, Use  # noqa: E402
from sparseformer_mm.segmentation import checks  # noqa: E402
from sparseformer_mm.segmentation.token_head import TokenLabelHead  # noqa: E402

pytestmark = pytest.mark.mmseg


# Upper half 0, lower half 1.
MASK = np.repeat(np.array([0, 1], np.uint8), 12 * 20).reshape(24, 20)
LOADERS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def make_dataset(tmp_path, masks=(MASK, MASK), classes=('ground', 'thing'), **kwargs):
    """A data set with a picture of 24 x 20 for each mask."""
    for name in ('img', 'ann'):
        (tmp_path / name).mkdir(exist_ok=True)
    for index, mask in enumerate(masks):
        Image.new('RGB', (20, 24)).save(tmp_path / f'img/{index}.jpg')
        if isinstance(mask, np.ndarray):
            mask = Image.fromarray(mask)
        mask.save(tmp_path / f'ann/{index}.png')
    return BaseSegDataset(
        data_root=str(tmp_path),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(
            classes=classes, palette=[[i, 0, 0] for i in range(len(classes))]
        ),
        pipeline=kwargs.pop('pipeline', LOADERS),
        **kwargs,
    )


def make_model(num_classes=2, out_channels=None, loss=None, ignore_index=255):
    model = torch.nn.Module()
    model.decode_head = torch.nn.Module()
    model.decode_head.num_classes = num_classes
    model.decode_head.out_channels = out_channels or num_classes
    model.decode_head.ignore_index = ignore_index
    model.decode_head.loss_decode = loss or CrossEntropyLoss()
    return model


def palette_mask():
    image = Image.fromarray(MASK).convert('P')
    image.putpalette([0, 0, 0, 255, 0, 0] + [9] * 750)
    return image


# name -> masks, arguments of the data set, whether an error, what is named
CASES = {
    '0 and 255 for two classes': (
        [MASK * 255] * 2,
        {},
        True,
        ['0 or 255', 'ignore_index', 'one class only', 'write 1 for 255'],
    ),
    'two classes from 1 with reduce_zero_label': (
        [MASK * 255] * 2,
        dict(reduce_zero_label=True),
        True,
        ['all pixels', 'ignore_index=255', 'from 1 with reduce_zero_label'],
    ),
    'classes from 1': ([MASK + 1], {}, True, ['ann/0.png', 'the labels 2', '0 to 1']),
    'labels beyond the classes': (
        [MASK, MASK * 7],
        {},
        True,
        ['ann/1.png', 'the labels 7', 'num_classes=2', 'reduce_zero_label', 'ignore'],
    ),
    '16 bits': (
        [MASK.astype(np.uint16) * 256],
        {},
        True,
        ['ann/0.png (uint16) holds 0 to 256', '256 becomes 0', 'renumber'],
    ),
    '16 bits beyond the classes': (
        [MASK.astype(np.uint16) * 1000],
        {},
        True,
        ['holds 0 to 1000', '8 bits'],
    ),
    'colour': (
        [np.stack([MASK * 200] * 3, -1)],
        {},
        True,
        ['ann/0.png has 3 channels', 'colour', 'one channel'],
    ),
    'transparent': (
        [np.stack([MASK * 200] * 4, -1)],
        {},
        True,
        ['ann/0.png has 4 channels', 'colour', 'one channel'],
    ),
    'palette read by OpenCV': (
        [palette_mask()],
        dict(pipeline=[LOADERS[0], dict(LOADERS[1], imdecode_backend='cv2')]),
        True,
        ['ann/0.png has 3 channels', "imdecode_backend='pillow'"],
    ),
    'another size': (
        [np.zeros((12, 20), np.uint8)],
        {},
        True,
        ['img/0.jpg is 20 x 24', 'ann/0.png 20 x 12', 'one size'],
    ),
    'transposed': (
        [MASK.T.copy()],
        {},
        True,
        ['img/0.jpg is 20 x 24 (', 'ann/0.png 24 x 20', 'swapped'],
    ),
    'a class that is never seen': (
        [MASK, MASK],
        dict(classes=('ground', 'thing', 'other')),
        False,
        ['no sample of class 2 (other)', '/img'],
    ),
    'nothing but the first class': (
        [MASK * 0],
        {},
        False,
        ['no sample of class 1 (thing)'],
    ),
}


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('name', CASES)
def test_masks_that_cannot_be_meant(tmp_path, name, split):
    masks, kwargs, fatal, parts = CASES[name]
    dataset = make_dataset(tmp_path, masks, **kwargs)
    assert_said(checks.check_dataset(dataset, Use(split)), fatal, *parts)


SOUND = {
    'numbers': ([MASK, MASK], {}),
    'palette': ([palette_mask()], {}),
    'one bit': ([Image.fromarray(MASK * 255).convert('1')], {}),
    '16 bits of small numbers': ([MASK.astype(np.uint16)], {}),
    'unlabelled pixels': ([np.vstack([MASK[6:18], MASK[:12] + 255])], {}),
    'from 1': ([MASK + 1], dict(reduce_zero_label=True)),
}


@pytest.mark.parametrize('name', SOUND)
def test_sound_masks_pass(tmp_path, name):
    masks, kwargs = SOUND[name]
    dataset = make_dataset(tmp_path, masks, **kwargs)
    for model in (None, make_model()):
        for split in ('train', 'val', 'test'):
            assert list(checks.check_dataset(dataset, Use(split, model))) == []


def test_classes_and_ignored_label_of_the_head(tmp_path):
    dataset = make_dataset(tmp_path, [MASK * 255])
    use = Use('train', make_model(ignore_index=254))
    assert_said(
        checks.check_dataset(dataset, use), True, 'write 1 for 255', 'labels 255'
    )
    use = Use('train', make_model(num_classes=5))
    said = 'num_classes=5 of decode_head', "the 2 classes 'ground', 'thing'"
    assert_said(checks.check_dataset(dataset, use), True, *said)


@pytest.mark.parametrize('wrong', [dict(num_classes=3), dict(ignore_index=None)])
def test_tokens_are_asked_for_the_classes_of_the_head(wrong, tmp_path):
    model = make_model()
    right = dict(in_channels=4, num_classes=2)
    model.auxiliary_head = torch.nn.ModuleList([TokenLabelHead(**right)])
    dataset = make_dataset(tmp_path)
    assert list(checks.check_dataset(dataset, Use('train', model))) == []
    model.auxiliary_head[0] = TokenLabelHead(**{**right, **wrong})
    said = 'auxiliary_head[0] asks tokens for', 'the head that answers has 2'
    assert_said(checks.check_dataset(dataset, Use('train', model)), True, *said)


def test_one_output_is_two_classes(tmp_path):
    model = make_model(2, out_channels=1, loss=CrossEntropyLoss(use_sigmoid=True))
    assert list(checks.check_model(model)) == []
    dataset = make_dataset(tmp_path)
    assert list(checks.check_dataset(dataset, Use('train', model))) == []
    dataset = make_dataset(tmp_path, classes=('thing',))
    said = 'decode_head has one output', "'thing'", 'background'
    assert_said(checks.check_dataset(dataset, Use('train', model)), True, *said)


def test_one_class_under_softmax():
    model = make_model(1)
    assert_said(checks.check_model(model), True, 'decode_head', 'loss is 0 for ever')
    losses = torch.nn.ModuleList([DiceLoss(), CrossEntropyLoss()])
    model = make_model(1, loss=losses)
    assert_said(checks.check_model(model), True, 'CrossEntropyLoss', 'use_sigmoid=True')
    model.auxiliary_head = make_model(1).decode_head
    model.decode_head = make_model().decode_head
    assert_said(checks.check_model(model), True, 'auxiliary_head has one class')


@pytest.mark.parametrize('orientation, fatal', [(6, True), (8, True), (3, False)])
def test_photos_that_are_turned_by_exif(tmp_path, orientation, fatal):
    dataset = make_dataset(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (20, 24)).save(tmp_path / 'img/1.jpg', exif=exif)
    said = 'img/1.jpg', 'EXIF', 'color_ignore_orientation'
    assert_said(checks.check_dataset(dataset, Use('train')), fatal, *said)
    dataset.pipeline.transforms[0].color_type = 'color_ignore_orientation'
    assert list(checks.check_dataset(dataset, Use('train'))) == []


def test_every_photo_is_compared_with_its_mask(tmp_path):
    """Also those of which nothing but the size is read."""
    dataset = make_dataset(tmp_path, [MASK] * 9)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (20, 24)).save(tmp_path / 'img/7.jpg', exif=exif)
    said = '1 pictures', 'img/7.jpg is 24 x 20 once', 'ann/7.png 20 x 24'
    problems = checks.check_dataset(dataset, Use('train', sample=0))
    assert_said(problems, True, *said)


def test_a_mask_over_the_turned_photo_passes(tmp_path):
    """Some tools for drawing masks show the photo upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    dataset = make_dataset(tmp_path, [MASK.T.copy()])
    Image.new('RGB', (20, 24)).save(tmp_path / 'img/0.jpg', exif=exif)
    assert list(checks.check_dataset(dataset, Use('train'))) == []


def test_files_that_are_passed_over(tmp_path):
    dataset = make_dataset(tmp_path, [MASK] * 3)
    (tmp_path / 'img/1.jpg').rename(tmp_path / 'img/1.JPG')
    (tmp_path / 'img/2.jpg').unlink()
    dataset = make_dataset(tmp_path, [MASK])
    problems = list(checks.check_dataset(dataset, Use('train')))
    said = "img_suffix='.jpg'", 'img/1.JPG', 'left out', 'rename'
    assert_said(problems, False, *said)
    assert_said(problems, False, '2 masks', 'ann/2.png', 'no picture', 'left out')


def test_pictures_without_masks_and_names_without_pictures(tmp_path):
    dataset = make_dataset(tmp_path)
    (tmp_path / 'ann/1.png').unlink()
    said = '1 of 2 masks', 'ann/1.png does not exist', 'seg_map_suffix'
    assert_said(checks.check_dataset(dataset, Use('train')), True, *said)
    (tmp_path / 'list.txt').write_text('0\n7\n')
    dataset = make_dataset(tmp_path, ann_file='list.txt')
    said = '1 of 2 pictures', 'list.txt', 'img/7.jpg does not exist', 'img_suffix'
    assert_said(checks.check_dataset(dataset, Use('train')), True, *said)


def test_data_without_masks_are_tested(tmp_path):
    dataset = make_dataset(tmp_path, pipeline=LOADERS[:1])
    for path in (tmp_path / 'ann').iterdir():
        path.unlink()
    assert list(checks.check_dataset(dataset, Use('test'))) == []


class Runner:
    """What the hook sees of a runner."""

    val_loop = None

    def __init__(self, dataset, model=None, batch_size=2):
        self.model = model or make_model()
        loader = SimpleNamespace(dataset=dataset, batch_size=batch_size)
        self.train_dataloader = self.val_dataloader = self.test_dataloader = loader


WRAPPERS = {
    'none': lambda dataset: dataset,
    'RepeatDataset': lambda dataset: RepeatDataset(dataset, 3),
    'ConcatDataset': lambda dataset: ConcatDataset([dataset, dataset]),
    'MultiImageMixDataset': lambda dataset: MultiImageMixDataset(
        ConcatDataset([dataset, dataset]), []
    ),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrapped_data_sets_are_looked_into(tmp_path, wrapper):
    wrap = WRAPPERS[wrapper]
    CheckDatasetHook().before_train(Runner(wrap(make_dataset(tmp_path))))
    runner = Runner(wrap(make_dataset(tmp_path, [MASK * 255] * 2)))
    for check in ('before_train', 'before_val', 'before_test'):
        with pytest.raises(DatasetError, match='one class only'):
            getattr(CheckDatasetHook(), check)(runner)


def batch(label, path='ann/9.png', image=(24, 20), **meta):
    sample = SegDataSample(metainfo=dict(img_path='9.jpg', seg_map_path=path, **meta))
    sample.gt_sem_seg = PixelData(data=torch.as_tensor(label, dtype=torch.long))
    return dict(inputs=[torch.zeros(3, *image)], data_samples=[sample])


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_every_batch_is_looked_at(tmp_path, split):
    hook, runner = CheckDatasetHook(), Runner(make_dataset(tmp_path))
    getattr(hook, f'before_{split}')(runner)
    check = getattr(hook, f'before_{split}_iter')
    check(runner, 0, batch(MASK[None]))
    with pytest.raises(DatasetError, match=r'ann/9.png.* labels 3, .*num_classes=2'):
        check(runner, 1, batch(MASK[None] * 3))
    with pytest.raises(DatasetError, match=r'shape \(3, 24, 20\) from ann/9.png'):
        check(runner, 1, batch(np.stack([MASK] * 3)))
    swapped = batch(MASK[None], image=(20, 24))
    with pytest.raises(DatasetError, match='9.jpg is 20 x 24 .* the picture 24 x 20'):
        check(runner, 1, swapped)
    # Enlarged pictures with masks in their own size, as heads compare them too.
    check(runner, 1, batch(MASK[None], image=(48, 40), ori_shape=(24, 20)))
    for image, meta in (((40, 40), {}), ((48, 40), dict(flip=True))):
        resized = batch(MASK[None], image=image, ori_shape=(24, 20), **meta)
        if split == 'train':  # cropped, stretched or flipped, unlike the mask
            with pytest.raises(DatasetError, match='20 x 24 .* the picture 40 x 4'):
                check(runner, 1, resized)
        else:
            check(runner, 1, resized)


@pytest.mark.parametrize(
    'pads', [dict(size=(64, 40)), dict(size=48), dict(size_divisor=32)], ids=str
)
def test_a_small_mask_that_padding_would_move(tmp_path, pads):
    """mmseg pads it by as many pixels as the picture."""
    enlarged = batch(MASK[None], image=(48, 40), ori_shape=(24, 20))
    for split in ('train', 'val'):
        hook, runner = CheckDatasetHook(), Runner(make_dataset(tmp_path))
        runner.model.data_preprocessor = SimpleNamespace(**pads)
        getattr(hook, f'before_{split}')(runner)
        check = getattr(hook, f'before_{split}_iter')
        if split == 'val':  # not padded with its picture
            check(runner, 0, enlarged)
            continue
        with pytest.raises(DatasetError, match='9.jpg is padded in training, and its'):
            check(runner, 0, enlarged)
        runner.model.data_preprocessor = SimpleNamespace(size=(48, 40))
        hook = CheckDatasetHook()
        hook.before_train(runner)
        hook.before_train_iter(runner, 0, enlarged)


def test_augmented_batches_are_looked_at(tmp_path):
    hook, runner = CheckDatasetHook(), Runner(make_dataset(tmp_path))
    hook.before_test(runner)
    view = batch(MASK[None] * 3)
    data = dict(inputs=[view['inputs']] * 2, data_samples=[view['data_samples']] * 2)
    with pytest.raises(DatasetError, match='labels 3'):
        hook.before_test_iter(runner, 0, data)


def test_a_class_that_the_first_pass_lacks(tmp_path, monkeypatch):
    """A sample of the masks does not show it; all of them do."""
    said = []
    monkeypatch.setattr(check_dataset, 'warn', said.append)
    hook = CheckDatasetHook(sample=1)
    classes = ('ground', 'thing', 'other')
    dataset = make_dataset(tmp_path, [MASK] * 5, classes)
    runner = Runner(dataset, make_model(3))
    hook.before_train(runner)
    for iteration in range(3):  # 5 masks in batches of 2
        assert said == []
        hook.before_train_iter(runner, iteration, batch(MASK[None]))
    (message,) = said
    assert 'the first pass of training: no sample of class 2 (other)' in message
    hook.before_train_iter(runner, 3, batch(MASK[None]))
    assert len(said) == 1
