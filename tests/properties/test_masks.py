"""Generated masks: read as they were meant, or what is wrong with them is said."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip('mmseg', reason='needs mmseg: pip install onedl-mmsegmentation')

from mmseg.datasets import BaseSegDataset  # noqa: E402

from helpers.generated import cases  # noqa: E402
from sparseformer_mm.engine.problems import Use  # noqa: E402
from sparseformer_mm.segmentation import checks  # noqa: E402

pytestmark = pytest.mark.mmseg

HEIGHT, WIDTH = 3, 2
labels = st.one_of(
    st.integers(0, 4), st.sampled_from([254, 255, 256, 511, 1000, 65535])
)


@st.composite
def mask_files(draw):
    """The numbers a user means, the type of their file, how they are read."""
    numbers = draw(st.lists(labels, min_size=6, max_size=6))
    return dict(
        numbers=np.array(numbers).reshape(HEIGHT, WIDTH),
        dtype=draw(st.sampled_from([np.uint8, np.uint8, np.uint16, np.int32])),
        shape=draw(st.sampled_from(['same', 'same', 'same', 'colour', 'transposed'])),
        count=draw(st.integers(2, 4)),
        from_one=draw(st.booleans()),
        ignore=draw(st.sampled_from([255, 255, 254, 0])),
    )


def example_file(numbers, **kwargs):
    usual = dict(dtype=np.uint8, shape='same', count=2, from_one=False, ignore=255)
    return {**usual, 'numbers': np.reshape(numbers, (HEIGHT, WIDTH)), **kwargs}


def meant(case):
    """The labels after reading as the documentation of mmseg has it, as integers."""
    numbers = case['numbers'].astype(np.int64)
    if case['from_one']:  # 0 is unlabelled, 255 stays what it is
        numbers = np.where((numbers == 0) | (numbers == 255), 255, numbers - 1)
    return numbers


@given(case=mask_files())
@example(case=example_file([0, 1] * 3))
@example(case=example_file([1, 2] * 3, from_one=True))
@example(case=example_file([0, 256] * 3, dtype=np.uint16))
@example(case=example_file([0, 255] * 3))
@cases(30)
def test_masks_are_read_as_meant_or_refused(case, tmp_path_factory):
    fits = case['numbers'].max() <= np.iinfo(case['dtype']).max
    if not fits:  # no such file can be written
        return
    folder = tmp_path_factory.mktemp('masks')
    (folder / 'img').mkdir()
    (folder / 'ann').mkdir()
    Image.new('RGB', (WIDTH, HEIGHT)).save(folder / 'img/0.jpg')
    array = case['numbers'].astype(case['dtype'])
    if case['shape'] == 'colour':
        array = np.stack([array.astype(np.uint8)] * 3, -1)
    elif case['shape'] == 'transposed':
        array = np.ascontiguousarray(array.T)
    suffix = '.tif' if case['dtype'] is np.int32 else '.png'  # PNG has 16 bits at most
    Image.fromarray(array).save(folder / f'ann/0{suffix}')

    names = tuple('abcd'[: case['count']])
    dataset = BaseSegDataset(
        data_root=str(folder),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        seg_map_suffix=suffix,
        metainfo=dict(classes=names, palette=[[i] * 3 for i in range(len(names))]),
        reduce_zero_label=case['from_one'],
        ignore_index=case['ignore'],
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    problems = list(checks.check_dataset(dataset, Use('train')))
    for problem in problems:
        assert str(folder) in problem.message
    refused = any(problem.fatal for problem in problems)

    allowed = {*range(case['count']), case['ignore']}
    expected = meant(case)
    wrong = case['shape'] != 'same' or not set(expected.flat) <= allowed
    counted = set(expected.flat) - {case['ignore']}
    if wrong or not counted:
        assert refused
    if not refused:
        assert np.array_equal(dataset[0]['gt_seg_map'], expected)
        # and a class that no mask holds is named
        unseen = set(range(case['count'])) - counted - {case['ignore']}
        text = ' '.join(problem.message for problem in problems)
        assert all(f'{i} ({names[i]})' in text for i in unseen)
