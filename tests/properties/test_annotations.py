"""Generated annotations and lists: read, or what is wrong with them is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.generated import cases
from sparseformer_mm.engine.problems import Problem, Use
from sparseformer_mm.video.lists import check_video_list

anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 4), st.floats(), st.text(max_size=2)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(['id', 'bbox', 'name']), inner, max_size=2),
    ),
    max_leaves=4,
)
RIGHT = dict(
    images=dict(id=1, file_name='a.png', width=9, height=8),
    annotations=dict(
        id=1, image_id=1, category_id=1, bbox=[1, 1, 3, 2], area=6, iscrowd=0
    ),
    categories=dict(id=1, name='cat'),
)


@st.composite
def coco_files(draw):
    """A right file with up to two wrong places; whether it has any."""
    content = {part: [dict(entry)] for part, entry in RIGHT.items()}
    for _ in range(draw(st.integers(0, 2))):
        part = draw(st.sampled_from(sorted(RIGHT)))
        place = draw(st.sampled_from(['part', 'entry', 'value', 'value', 'value']))
        value = draw(anything)
        if place == 'part':
            content[part] = value
        elif isinstance(content[part], list) and place == 'entry':
            content[part].append(value)
        elif isinstance(content[part], list) and content[part]:
            entry, key = content[part][0], draw(st.sampled_from(sorted(RIGHT[part])))
            if isinstance(entry, dict):
                entry[key] = value
    return content


@pytest.mark.mmdet
@given(st.one_of(coco_files(), coco_files(), anything))
@cases(150)
def test_coco_files(content):
    coco = pytest.importorskip('sparseformer_mm.detection.coco')
    problems = list(coco.check_structure(content, 'file.json'))
    if not problems:
        problems = list(coco.check_coco(content, 'file.json', ('cat',), Use('train')))
    assert all(isinstance(x, Problem) and 'file.json' in x.message for x in problems)
    right = {part: [entry] for part, entry in RIGHT.items()}
    if content == right:
        assert not problems


@given(
    st.lists(st.text('ab0123 ,;\t-.\n\r\ufeff/é', max_size=12), max_size=4),
    st.sampled_from([(), ('total_frames',), ('offset', 'total_frames')]),
    st.sampled_from([' ', ';', None]),
    st.booleans(),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'latin-1']),
)
@cases(80)
def test_video_lists(tmp_path, lines, counts, delimiter, multi, classes, encoding):
    file = tmp_path / 'list.txt'
    file.write_bytes('\n'.join(lines).encode(encoding, 'ignore'))
    try:
        check_video_list(str(file), counts, delimiter, multi, classes, labeled=True)
    except ValueError as error:
        assert 'list.txt' in str(error)
        return
    # What passes has a path, its numbers and a label, all within the classes.
    text = file.read_text('utf-8-sig').replace('\ufeff', '')
    for line in text.splitlines():
        if line.strip() and '\ufeff' not in line:
            fields = line.strip().split(delimiter)[1 + len(counts) :]
            assert fields
            assert all(0 <= int(x) < (classes or 1e9) for x in fields) or not classes
