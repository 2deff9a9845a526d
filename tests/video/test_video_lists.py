"""Lists of videos and folders of frames: what is read, and what is named."""

import re

import pytest

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)

from mmaction.datasets import RawframeDataset, VideoDataset  # noqa: E402
from mmaction.registry import DATASETS  # noqa: E402

from sparseformer_mm.video.lists import (  # noqa: E402
    check_video_dataset,
    check_video_list,
)

pytestmark = pytest.mark.mmaction


def build(tmp_path, content, kind='VideoDataset', **options):
    """From a config, with a list of these bytes or of this text."""
    if isinstance(content, str):
        content = content.encode()
    (tmp_path / 'list.txt').write_bytes(content)
    return DATASETS.build(
        dict(
            type=kind,
            ann_file='list.txt',
            data_root=str(tmp_path),
            data_prefix=dict(video='clips') if kind == 'VideoDataset' else dict(img=''),
            pipeline=[],
            **options,
        )
    )


def videos(dataset) -> list:
    folder = len(dataset.data_prefix['video']) + 1
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [(info['filename'][folder:], info['label']) for info in infos]


@pytest.mark.parametrize(
    'content',
    [
        'a.mp4 1\nb/ü.mp4 0\n',
        'a.mp4 1\nb/ü.mp4 0',
        'a.mp4 1\nb/ü.mp4 0\n\n',
        '\n  \na.mp4 1\n\nb/ü.mp4 0\n\t\n',
        'a.mp4 1\r\nb/ü.mp4 0\r\n\r\n',
        '\ufeffa.mp4 1\nb/ü.mp4 0\n',
        '\ufeffa.mp4 1\r\nb/ü.mp4 0\r\n',
        '\ufeff\r\n  a.mp4 1  \r\nb/ü.mp4 0\r\n',
    ],
    ids=repr,
)
def test_what_an_editor_leaves_is_no_matter(tmp_path, content):
    found = videos(build(tmp_path, content))
    assert found == [('a.mp4', 1), ('b/ü.mp4', 0)]
    content = content.replace('.mp4', ' 12')
    frames = build(tmp_path, content, 'RawframeDataset')
    infos = [frames.get_data_info(index) for index in range(len(frames))]
    assert [(i['total_frames'], i['label']) for i in infos] == [(12, 1), (12, 0)]
    assert infos[1]['frame_dir'] == 'b/ü' or infos[1]['frame_dir'].endswith('/b/ü')


def test_other_forms(tmp_path):
    assert videos(build(tmp_path, 'a.mp4\nb.mp4\n')) == [('a.mp4', -1), ('b.mp4', -1)]
    found = videos(build(tmp_path, 'my clip.mp4;1\nb.mp4;0\n', delimiter=';'))
    assert found == [('my clip.mp4', 1), ('b.mp4', 0)]
    found = videos(build(tmp_path, 'my clip.mp4\t1\n\n', delimiter='\t'))
    assert found == [('my clip.mp4', 1)]
    several = build(tmp_path, 'a.mp4 0 2\nb.mp4 1\n', multi_class=True, num_classes=3)
    assert [label.tolist() for _, label in videos(several)] == [[1, 0, 1], [0, 1, 0]]
    parts = build(tmp_path, 'a 10 5 1\n', 'RawframeDataset', with_offset=True)
    info = parts.get_data_info(0)
    assert (info['offset'], info['total_frames'], info['label']) == (10, 5, 1)


FRAMES = dict(kind='RawframeDataset')
SEVERAL = dict(multi_class=True, num_classes=3)


@pytest.mark.parametrize(
    'line, options, cause',
    [
        ('my clip.mp4 1', {}, "2 fields in place of the label .*delimiter=';'.*rename"),
        ('clip.mp4  1', {}, '2 fields in place of the label'),
        ('a.mp4 1 2', {}, 'for several labels, set multi_class=True'),
        ('a.mp4 jump', {}, "the label 'jump': write the number of the class, from 0"),
        ('a.mp4 1.0', {}, "the label '1.0'"),
        ('my clip.mp4', {}, "the label 'clip.mp4': .*with blanks"),
        ('a.mp4\t1', {}, r"is not divided by ' ' into 'path label': .*'\\t'"),
        ('a.mp4\tjump', {}, r"is not divided by ' ' .*delimiter='\\t'"),
        ('a.mp4,1', {}, "is not divided by ' ' .*delimiter=','"),
        ('a.mp4 1', dict(delimiter=';'), "is not divided by ';' .*delimiter=' '"),
        ('my clip.mp4 1', SEVERAL, "the label 'clip.mp4'"),
        ('a.mp4 0 3', SEVERAL, 'the label 3, but the 3 classes .* from 0 to 2'),
        ('a', FRAMES, "is not of the form 'path total_frames label'"),
        (
            'my clip 10 1',
            FRAMES,
            "total_frames 'clip', no whole .*without blanks",
        ),
        ('a 10 jump', FRAMES, "the label 'jump'"),
        ('a 10 1 2', FRAMES, '2 fields in place of the label'),
        ('a -3 1', FRAMES, "total_frames '-3'"),
        ('a 5 x 1', dict(FRAMES, with_offset=True), "total_frames 'x'"),
        ('a 5', dict(FRAMES, with_offset=True), "'path offset total_frames label'"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path, line, options, cause):
    good = dict(VideoDataset='a.mp4 1', RawframeDataset='a 10 1')
    good = good[options.get('kind', 'VideoDataset')]
    if options.get('delimiter'):
        good = good.replace(' ', options['delimiter'])
    if options.get('with_offset'):
        good = 'a 0 10 1'
    content = f'\ufeff{good}\r\n\r\n{line}\r\n'  # numbered as an editor does
    where = f'list.txt, line 3: {re.escape(repr(line))} .*'
    with pytest.raises(ValueError, match=where + cause) as caught:
        build(tmp_path, content, **options)
    assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


def test_files_that_are_no_lists(tmp_path):
    for content in (b'', b'\n\r\n', b'\xef\xbb\xbf'):
        with pytest.raises(ValueError, match='list.txt lists no videos'):
            build(tmp_path, content)
    for encoding in ('utf-16', 'latin-1'):
        with pytest.raises(ValueError, match='list.txt is no text in UTF-8 .*save'):
            build(tmp_path, 'ä.mp4 1\n'.encode(encoding))
    with pytest.raises(FileNotFoundError, match='none.txt'):
        VideoDataset(str(tmp_path / 'none.txt'), [])


def test_check_against_the_model(tmp_path):
    """What a hook knows, and the data set does not."""
    dataset = build(tmp_path, 'a.mp4 0\nb.mp4 2\nc.mp4 1\n')
    check_video_dataset(dataset, num_classes=3, labeled=True)
    with pytest.raises(ValueError, match='line 2: .* 2, but the 2 classes .* 0 to 1: '):
        check_video_dataset(dataset, num_classes=2)
    dataset = build(tmp_path, 'a.mp4 0\nb.mp4 -1\n')
    with pytest.raises(ValueError, match='line 2: .* the label -1, but'):
        check_video_dataset(dataset, num_classes=2)
    dataset = build(tmp_path, 'a.mp4\n')
    check_video_dataset(dataset)
    with pytest.raises(ValueError, match="line 1: 'a.mp4' has no label"):
        check_video_dataset(dataset, labeled=True)
    frames = build(tmp_path, 'a 10 5\n', 'RawframeDataset')
    with pytest.raises(ValueError, match='line 1: .* the label 5, but the 5 classes'):
        check_video_dataset(frames, num_classes=5)
    check_video_dataset(object())  # none of ours
    path = str(tmp_path / 'list.txt')
    check_video_list(path, ['total_frames'], delimiter=None, num_classes=6)


def test_data_sets_are_wrapped_once():
    from sparseformer_mm.video import compat

    before = VideoDataset.load_data_list, RawframeDataset.load_data_list
    compat.apply()
    assert (VideoDataset.load_data_list, RawframeDataset.load_data_list) == before
