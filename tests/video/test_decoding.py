"""Every decoder shows the frames that a player shows, or is refused by name.

Containers x codecs x rotations x cuts x frame rates x odd sizes.
"""

import os
import sys
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

from helpers.video_clips import MATRICES, edit, look, turn, write_clip

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)
av = pytest.importorskip('av')


from sparseformer_mm.video import ReadFrames  # noqa: E402
from sparseformer_mm.video.decoding import UnsupportedVideo, open_video  # noqa: E402
from sparseformer_mm.video.mp4 import read_mp4  # noqa: E402

pytestmark = pytest.mark.mmaction

COUNT = 16
ALL = list(range(COUNT))
CONSTANT = [100 * number for number in ALL]  # ms
VARIABLE = [0, 10, 20, 30, 500, 510, 520, 900, 1000, 1010, 1020, 1100, 1500, 1600]
VARIABLE += [1610, 1700]
CORNERS = {
    'upright': 'upper left',
    '90': 'upper right',
    '180': 'lower right',
    '270': 'lower left',
    'mirrored': 'upper right',
    'upside down': 'lower left',
    'transposed': 'upper left',
}
# name -> (start of the clip in s, edit list as helpers.video_clips.edit takes it, and
# what of it is seen: from, to in ms)
CUTS = {
    'whole': (Fraction(0), [], [(0, 9999)]),
    'front': (Fraction(1, 2), [], [(500, 9999)]),
    'end': (Fraction(0), [(600, 0)], [(0, 600)]),
    'both ends': (Fraction(0), [(600, 500)], [(500, 1100)]),
    'two parts': (Fraction(0), [(400, 200), (500, 1000)], [(200, 600), (1000, 1500)]),
    'pause': (Fraction(0), [(300, -1), (1800, 0)], [(0, 9999)]),
}


def see(path: str, decoder: str, indices=None) -> tuple:
    """Numbers of the frames, and the corners in which the mark is seen."""
    with closing(open_video(path, decoder)) as reader:
        indices = list(range(reader.total)) if indices is None else indices
        images = reader.read(indices)
    seen = [look(images[index]) for index in indices]
    return [number for number, _ in seen], {corner for _, corner in seen}


def check(path: str, decoder: str, numbers: list, corner: str = 'upper left') -> None:
    """All frames in a row, and some by themselves, in any order."""
    assert see(path, decoder) == (numbers, {corner})
    last = len(numbers) - 1
    for indices in ([last], [last // 2], [last // 3, last, 0, last // 3]):
        expected = [numbers[index] for index in indices]
        assert see(path, decoder, indices) == (expected, {corner})


@pytest.mark.parametrize(
    'size, pix_fmt', [((32, 52), 'yuv420p'), ((33, 53), 'yuv444p')]
)
@pytest.mark.parametrize('times', [CONSTANT, VARIABLE], ids=['constant', 'variable'])
@pytest.mark.parametrize('cut', CUTS)
def test_cuts_and_rotations(tmp_path, decoder, cut, times, size, pix_fmt):
    start, parts, spans = CUTS[cut]
    numbers = [n for a, b in spans for n in ALL if a <= times[n] < b]
    for suffix, b_frames in (('mp4', 2), ('mov', 0)):
        path = write_clip(
            tmp_path / f'a.{suffix}',
            size=size,
            pix_fmt=pix_fmt,
            times=times,
            start=start,
            options={'x264-params': f'bframes={b_frames}', 'qp': '10'},
        )
        if parts:
            edit(path, *parts)
        check(path, decoder, numbers)
        for rotation in ('90', '180', '270'):
            turn(path, rotation)
            indices = [len(numbers) - 1, 0]
            expected = [numbers[index] for index in indices]
            found = see(path, decoder, indices)
            assert found == (expected, {CORNERS[rotation]}), rotation


@pytest.mark.parametrize('name', MATRICES)
def test_display_matrix(tmp_path, decoder, name):
    path = turn(write_clip(tmp_path / 'a.mp4', size=(32, 52)), name)
    swapped = name in ('90', '270', 'transposed')
    if decoder == 'decord' and name in ('mirrored', 'upside down', 'transposed'):
        with pytest.raises(UnsupportedVideo, match='does not mirror'):
            open_video(path, decoder)
        return
    check(path, decoder, ALL, CORNERS[name])
    with closing(open_video(path, decoder)) as reader:
        assert reader.read([3])[3].shape == ((52, 32, 3) if swapped else (32, 52, 3))


OPEN_GOP = {
    'x264-params': 'open-gop=1:keyint=6:min-keyint=6:bframes=3:b-adapt=0:scenecut=0'
}
X265 = {'x265-params': 'log-level=none:qp=10'}
TS = 'it drops frames of MPEG transport streams'
AV1 = dict(codec='libsvtav1', size=(64, 68))
# name -> (suffix, arguments of write_clip, decoder -> why it is refused)
KINDS = {
    'h264 mkv': ('mkv', {}, {}),
    'h264 mkv, variable': ('mkv', dict(times=VARIABLE), {}),
    'h264 avi': ('avi', {}, {}),
    'h264 avi, variable': ('avi', dict(times=VARIABLE), {}),
    'h264 flv': ('flv', {}, {}),
    'h264 ts': ('ts', {}, dict(decord=TS)),
    'h264 ts, variable': ('ts', dict(times=VARIABLE), dict(decord=TS)),
    'h264 m2ts': ('m2ts', {}, dict(decord=TS)),
    'h264 3gp': ('3gp', {}, {}),
    'h264 raw': ('h264', {}, dict(decord='broken metadata')),
    'h264 fragments': ('mp4', dict(movflags='frag_keyframe+empty_moov'), {}),
    'h264 some fragments': ('mp4', dict(movflags='frag_keyframe'), {}),
    'h264 dash': ('mp4', dict(movflags='dash'), {}),
    'h264 open gops': ('mp4', dict(options=OPEN_GOP), {}),
    'h264 open gops mkv': ('mkv', dict(options=OPEN_GOP), {}),
    'h264 10 bit': ('mp4', dict(pix_fmt='yuv420p10le'), {}),
    'h264 ntsc': ('mp4', dict(rate=Fraction(30000, 1001)), {}),
    'h264 cut mkv': ('mkv', dict(start=Fraction(1, 2)), {}),
    'h264 cut ts': ('ts', dict(start=Fraction(1, 2)), dict(decord=TS)),
    'h264 narrow': ('mp4', dict(size=(32, 48)), dict(decord='videos of this width')),
    'h264 narrow mkv': ('mkv', dict(size=(32, 72)), dict(decord='of this width')),
    'hevc mp4': ('mp4', dict(codec='libx265', options=X265), {}),
    'hevc mkv': ('mkv', dict(codec='libx265', options=X265), {}),
    'mpeg4 mp4': ('mp4', dict(codec='mpeg4', size=(33, 53)), {}),
    'mpeg4 avi': ('avi', dict(codec='mpeg4', size=(33, 53)), {}),
    'mpeg4 b-frames': ('avi', dict(codec='mpeg4', options=dict(bf='2', qmax='2')), {}),
    'mpeg2 mpg': ('mpg', dict(codec='mpeg2video', rate=25), {}),
    'mpeg2 ts': ('ts', dict(codec='mpeg2video', rate=25), dict(decord=TS)),
    'vp8 webm': ('webm', dict(codec='libvpx', size=(33, 53)), {}),
    'vp9 webm': ('webm', dict(codec='libvpx-vp9', size=(33, 53)), {}),
    'vp9 variable': ('webm', dict(codec='libvpx-vp9', times=VARIABLE), {}),
    'vp9 mp4': ('mp4', dict(codec='libvpx-vp9'), {}),
    'av1 mp4': ('mp4', AV1, dict(decord='cannot find video', opencv='no frame')),
    'av1 mkv': ('mkv', AV1, dict(decord='cannot find video', opencv='no frame')),
    'gif': ('gif', dict(codec='gif', pix_fmt='rgb8'), dict(decord='broken metadata')),
    'gif variable': (
        'gif',
        dict(codec='gif', pix_fmt='rgb8', times=VARIABLE),
        dict(decord='broken metadata'),
    ),
    'mjpeg avi': ('avi', dict(codec='mjpeg', pix_fmt='yuvj420p', size=(33, 53)), {}),
    'wmv': ('wmv', dict(codec='wmv2'), {}),
    'prores mov': ('mov', dict(codec='prores_ks', pix_fmt='yuv422p10le'), {}),
    'ffv1 mkv': ('mkv', dict(codec='ffv1', size=(33, 53)), {}),
}


@pytest.mark.parametrize('kind', KINDS)
def test_containers_and_codecs(tmp_path, decoder, kind):
    suffix, arguments, refused = KINDS[kind]
    if arguments.get('codec', 'libx264') not in av.codecs_available:
        pytest.skip(f'PyAV was built without {arguments["codec"]}')
    path = write_clip(tmp_path / f'a.{suffix}', **arguments)
    if decoder not in refused:
        check(path, decoder, ALL)
        return
    with pytest.raises(UnsupportedVideo, match=refused[decoder]):
        see(path, decoder)
    # What the user is told, who may also leave the choice to 'auto'.
    sample = dict(type='SampleFrames', clip_len=COUNT, test_mode=True)
    cause = rf'{decoder} cannot read .*a.{suffix} \(codec .*{refused[decoder]}.*\), '
    with pytest.raises(ValueError, match=cause + "but pyav can: set decoder='pyav'"):
        ReadFrames(sample, decoder)(dict(filename=path))
    results = ReadFrames(sample)(dict(filename=path))
    assert [look(image)[0] for image in results['imgs']] == ALL


def test_codec_is_named(tmp_path):
    if 'libsvtav1' not in av.codecs_available:
        pytest.skip('PyAV was built without libsvtav1')
    path = write_clip(tmp_path / 'a.mp4', **AV1)
    sample = dict(type='SampleFrames', clip_len=COUNT)
    cause = r'opencv cannot read .*a.mp4 \(codec av1: .*\), but pyav can: set decoder='
    with pytest.raises(ValueError, match=cause):
        ReadFrames(sample, 'opencv')(dict(filename=path))


def test_without_pyav(tmp_path, monkeypatch):
    """'auto' takes of the others who can, or says that PyAV might."""
    pytest.importorskip('decord')
    sample = dict(type='SampleFrames', clip_len=COUNT, test_mode=True)
    paths = [
        write_clip(tmp_path / 'a.mp4', start=Fraction(1, 2)),
        write_clip(tmp_path / 'a.ts'),  # not with decord
        turn(write_clip(tmp_path / 'b.mp4'), 'mirrored'),
        write_clip(tmp_path / 'c.mkv', size=(32, 72)),
    ]
    gif = write_clip(tmp_path / 'a.gif', codec='gif', pix_fmt='rgb8')
    monkeypatch.setitem(sys.modules, 'av', None)
    for path, corner in zip(paths, ['upper left'] * 2 + ['upper right', 'upper left']):
        numbers = [*ALL[5:], *ALL[5:10]] if path.endswith('a.mp4') else ALL
        seen = [look(i) for i in ReadFrames(sample)(dict(filename=path))['imgs']]
        assert seen == [(number, corner) for number in numbers]
    cause = r"decord cannot read .*a.gif \(.*\), but opencv can: set decoder='opencv'"
    with pytest.raises(ValueError, match=cause):
        ReadFrames(sample, 'decord')(dict(filename=gif))
    (tmp_path / 'text.mp4').write_text('no video\n' * 100)
    with pytest.raises(ValueError, match='text.mp4 as a video .*: pip install av$'):
        ReadFrames(sample)(dict(filename=str(tmp_path / 'text.mp4')))


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
@pytest.mark.parametrize('count, gop', [(24, 24), (24, 3)])
def test_frames_far_from_the_start(tmp_path, decoder, suffix, count, gop):
    """Found by their key frame where that is near; one reader is asked twice."""
    pytest.importorskip('cv2')
    options = {'x264-params': 'bframes=2:scenecut=0:open-gop=0', 'qp': '5'}
    path = write_clip(tmp_path / f'a.{suffix}', count=count, gop=gop, options=options)
    with closing(open_video(path, decoder)) as reader:
        assert reader.total == count
        if decoder == 'pyav' or (decoder, suffix) == ('decord', 'mp4'):
            reader._read_in_order = None  # all frames from the first on
        for indices in ([22], [1, 20], [23, 0, 19, 19], [5]):
            images = reader.read(indices)
            assert sorted(images) == sorted(set(indices))
            assert all(look(images[index])[0] == index for index in indices)


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_colors_of_hd_videos(tmp_path, decoder, suffix):
    """BT.709 and its range are followed, by OpenCV where the header says so."""
    path = str(tmp_path / f'a.{suffix}')
    red = np.full((32, 52, 3), (200, 60, 30), np.uint8)
    weights = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5]])
    luma, blue = weights @ red[0, 0] / 255
    chroma_red = (200 / 255 - luma) / 1.5748
    planes = np.empty((3, 32, 52), np.uint8)
    for plane, value in zip(planes, (16 + 219 * luma, 128 + 224 * blue, 0)):
        plane[:] = round(value)
    planes[2] = round(128 + 224 * chroma_red)
    with av.open(path, 'w') as file:
        stream = file.add_stream('libx264', rate=10, options=dict(qp='1'))
        stream.height, stream.width, stream.pix_fmt = 32, 52, 'yuv444p'
        context = stream.codec_context  # an mp4 tells of all three or of none
        context.colorspace = context.color_primaries = context.color_trc = 1
        frame = av.VideoFrame.from_ndarray(planes, 'yuv444p')
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)
    with closing(open_video(path, decoder)) as reader:
        found = reader.read([0])[0][10:20, 10:20].reshape(-1, 3).mean(0)
    off = decoder == 'opencv' and suffix == 'mkv'
    np.testing.assert_allclose(found, red[0, 0], atol=16 if off else 3)
    assert suffix == 'mkv' or read_mp4(path).colors == 1


@pytest.mark.parametrize('size', [(720, 64), (64, 1280)])
def test_opencv_tells_of_colors_it_cannot_know(tmp_path, size):
    pytest.importorskip('cv2')
    path = write_clip(tmp_path / 'a.mkv', size=size, count=1)
    with pytest.warns(UserWarning, match='up to 15 levels off'):
        open_video(path, 'opencv').close()


def test_header_of_mp4(tmp_path):
    options = {'x264-params': 'bframes=2:scenecut=0:open-gop=0'}
    path = write_clip(tmp_path / 'a.mp4', options=options)
    header = read_mp4(path)
    assert header.matrix == (1 << 16, 0, 0, 1 << 16)
    assert (header.frames, header.constant) == (16, True)
    assert header.keys.tolist() == [0, 8]
    assert not header.mirrored and read_mp4(turn(path, 'mirrored')).mirrored
    assert read_mp4(edit(path, (300, 100))).frames == 3
    assert read_mp4(path).keys is None
    variable = read_mp4(write_clip(tmp_path / 'b.mov', times=VARIABLE))
    assert (variable.frames, variable.constant) == (16, False)
    assert read_mp4(write_clip(tmp_path / 'c.mp4', options=OPEN_GOP)).keys is None
    fragments = write_clip(tmp_path / 'd.mp4', movflags='frag_keyframe+empty_moov')
    assert read_mp4(fragments).frames is None
    assert read_mp4(write_clip(tmp_path / 'a.mkv')) is None
    content = (tmp_path / 'b.mov').read_bytes()
    start = content.index(b'moov')
    # Whatever byte is hit, there is an answer, and no other error.
    for place in range(start, len(content), 7):
        for value in (b'\0', b'\xff'):
            broken = tmp_path / 'broken.mov'
            broken.write_bytes(content[:place] + value + content[place + 1 :])
            read_mp4(str(broken))
    for end in range(0, len(content), 97):
        os.truncate(broken, 0)
        broken.write_bytes(content[:end])
        read_mp4(str(broken))
