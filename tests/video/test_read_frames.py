"""Frames out of video files, folders of frames and arrays."""

import gc
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)

from mmaction.datasets import RawframeDataset, VideoDataset  # noqa: E402
from mmaction.registry import TRANSFORMS  # noqa: E402

from sparseformer_mm.video import ReadFrames  # noqa: E402

pytestmark = pytest.mark.mmaction

HEIGHT, WIDTH = 32, 50
PACKAGES = dict(decord='decord', pyav='av', opencv='cv2')


def draw(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB (H, W, 3): green tells the number of the frame, red and blue the order."""
    return np.full((height, width, 3), (220, 20 + 5 * index, 40), np.uint8)


def numbers(images) -> list:
    """The number of each frame; lossy codecs move a colour by a few units."""
    means = [image.reshape(-1, 3).mean(0) for image in images]
    for red, _, blue in means:
        assert abs(red - 220) < 12 and abs(blue - 40) < 12, 'not in RGB'
    return [round((green - 20) / 5) for _, green, _ in means]


def write_video(path: Path, count: int, codec: str = 'mp4v') -> str:
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*codec), 10, (WIDTH, HEIGHT)
    )
    assert writer.isOpened()
    for index in range(count):
        writer.write(np.ascontiguousarray(draw(index)[..., ::-1]))
    writer.release()
    return str(path)


def write_with_av(path: Path, count: int, size, codec: str, pix_fmt: str) -> str:
    av = pytest.importorskip('av')
    if codec not in av.codecs_available:
        pytest.skip(f'PyAV was built without {codec}')
    # The index in front: a file without its end can be opened.
    options = dict(movflags='faststart') if path.suffix == '.mp4' else {}
    with av.open(str(path), 'w', options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
            picture = noise if codec == 'libx264' else draw(index, *size)
            frame = av.VideoFrame.from_ndarray(picture, 'rgb24')
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


def cut(path: str, share: float) -> str:
    """Leave the first ``share`` of a file."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return path


def read(path: str, decoder: str, **sample) -> dict:
    sample = dict(dict(type='SampleFrames', clip_len=4, test_mode=True), **sample)
    return ReadFrames(sample, decoder)(
        dict(filename=path, label=3, start_index=0, modality='RGB')
    )


def test_frames_and_layout(tmp_path, decoder):
    path = write_video(tmp_path / 'a.mp4', 10)
    results = read(path, decoder, frame_interval=2, num_clips=2)
    # Clips of 1 + 3 x 2 frames, the first and the last that fit into 10.
    assert numbers(results['imgs']) == [0, 2, 4, 6, 3, 5, 7, 9]
    for image in results['imgs']:
        assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        assert image.flags.c_contiguous
    assert (results['num_clips'], results['clip_len']) == (2, 4)
    assert results['original_shape'] == results['img_shape'] == (HEIGHT, WIDTH)
    assert (results['total_frames'], results['avg_fps']) == (10, 10)
    assert (results['label'], results['modality']) == (3, 'RGB')
    assert 'video_reader' not in results


def test_frames_are_those_of_mmaction2s_own_steps(tmp_path, decoder):
    path = write_video(tmp_path / 'a.mp4', 10)
    name = dict(decord='Decord', pyav='PyAV', opencv='OpenCV')[decoder]
    sample = dict(type='SampleFrames', clip_len=5, frame_interval=3, num_clips=2)
    expected = dict(filename=path, start_index=0, modality='RGB')
    np.random.seed(5)
    for step in (dict(type=f'{name}Init'), sample, dict(type=f'{name}Decode')):
        expected = TRANSFORMS.build(step)(expected)
    np.random.seed(5)
    found = read(path, decoder, **sample, test_mode=False)
    assert found['frame_inds'].tolist() == expected['frame_inds'].tolist()
    np.testing.assert_array_equal(found['imgs'], expected['imgs'])
    for key in ('img_shape', 'original_shape', 'num_clips', 'clip_len', 'total_frames'):
        assert found[key] == expected[key]


@pytest.mark.parametrize('count', [1, 3])
def test_a_video_shorter_than_the_clip_is_looped(tmp_path, decoder, count):
    path = write_video(tmp_path / 'a.mp4', count)
    loop = [index % count for index in range(8)]
    for num_clips in (1, 3):
        for test_mode in (True, False):
            sample = dict(clip_len=8, num_clips=num_clips, test_mode=test_mode)
            results = read(path, decoder, **sample)
            assert numbers(results['imgs']) == loop * num_clips
            assert results['num_clips'] == num_clips


def test_frames_of_a_loop_can_be_changed_in_place(tmp_path, decoder):
    """As mmaction2's Flip does."""
    path = write_video(tmp_path / 'a.mp4', 2)
    results = read(path, decoder, clip_len=6)
    flip = TRANSFORMS.build(dict(type='Flip', flip_ratio=1))
    for image in results['imgs']:
        image[:, 0] = 0
    for image in flip(results)['imgs']:
        assert (image[:, -1] == 0).all() and (image[:, 0] > 0).all()


@pytest.mark.parametrize('test_mode', [True, False])
@pytest.mark.parametrize('count', [1, 2, 9])
def test_other_samplers(tmp_path, decoder, count, test_mode):
    path = write_video(tmp_path / 'a.mp4', count)
    segments = read(
        path, decoder, type='UniformSample', clip_len=4, test_mode=test_mode
    )
    found = numbers(segments['imgs'])
    assert len(found) == 4 and found == sorted(found) and found[-1] < count
    if count == 9 and test_mode:
        assert found == [1, 3, 5, 7]
    dense = read(
        path,
        decoder,
        type='DenseSampleFrames',
        clip_len=1,
        num_clips=3,
        sample_range=6,
        num_sample_positions=2,
        test_mode=test_mode,
    )
    found = numbers(dense['imgs'])
    assert len(found) == (6 if test_mode else 3)
    start = found[0]
    assert found[:3] == [(start + step) % count for step in (0, 2, 4)]


def test_frames_that_the_container_does_not_count(tmp_path, decoder):
    path = write_video(tmp_path / 'a.mkv', 10)
    if decoder == 'pyav':
        own = TRANSFORMS.build(dict(type='PyAVInit'))(dict(filename=path))
        assert own['total_frames'] == 0  # so that mmaction2's own steps fail
    results = read(path, decoder, clip_len=10)
    assert results['total_frames'] == 10
    assert numbers(results['imgs']) == list(range(10))


def test_extension_may_be_left_out(tmp_path, decoder):
    path = write_video(tmp_path / 'a.mp4', 3)
    assert numbers(read(path[:-4], decoder, clip_len=3)['imgs']) == [0, 1, 2]
    # And a file may have none.
    os.rename(path, path[:-4])
    assert numbers(read(path[:-4], decoder, clip_len=3)['imgs']) == [0, 1, 2]


def test_start_index_of_frame_folders_is_refused_for_videos(tmp_path, decoder):
    path = write_video(tmp_path / 'a.mp4', 4)
    step = ReadFrames(dict(type='SampleFrames', clip_len=4, test_mode=True), decoder)
    with pytest.raises(ValueError, match='frames 1 to 4 .*a.mp4, .*start_index=0'):
        step(dict(filename=path, start_index=1))
    assert numbers(step(dict(filename=path))['imgs']) == [0, 1, 2, 3]


def test_sampler_that_does_not_fit_is_named(tmp_path):
    array = np.stack([draw(index) for index in range(5)])
    # Both are faults of mmaction2: a division by zero, and clips it does not draw.
    for sample in (
        dict(type='SampleFrames', clip_len=2, twice_sample=True, test_mode=True),
        dict(type='UniformSample', clip_len=4, num_clips=2),
    ):
        cause = f'{sample["type"]}.* cannot sample the 5 frames of the array .*sample='
        with pytest.raises(ValueError, match=cause):
            ReadFrames(sample)(dict(array=array))


def test_no_file_stays_open(tmp_path, decoder):
    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('needs /proc')
    good = write_video(tmp_path / 'a.mp4', 5)
    bad = cut(write_video(tmp_path / 'b.mp4', 5), 0.5)
    read(good, decoder)
    gc.collect()
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(5):
        results = read(good, decoder)
        with pytest.raises(ValueError):
            read(bad, decoder)
        with pytest.raises(ValueError):
            read(good, decoder, twice_sample=True)
    gc.collect()
    assert len(os.listdir('/proc/self/fd')) == before
    pickle.dumps(results)  # there is no reader in it


def make_folder(folder: Path, count: int, ending: str = 'png') -> str:
    folder.mkdir()
    for index in range(count):
        name = str(folder / f'img_{index + 1:05}.{ending}')
        cv2.imwrite(name, draw(index)[..., ::-1])
    return str(folder)


def read_folder(folder: str, **info) -> dict:
    step = ReadFrames(dict(type='SampleFrames', clip_len=8, test_mode=True))
    info = dict(
        dict(total_frames=6, start_index=1, filename_tmpl='img_{:05}.png'), **info
    )
    return step(dict(frame_dir=folder, label=0, modality='RGB', **info))


def test_frames_in_a_folder(tmp_path):
    folder = make_folder(tmp_path / 'a', 6)
    results = read_folder(folder)
    assert numbers(results['imgs']) == [0, 1, 2, 3, 4, 5, 0, 1]
    np.testing.assert_array_equal(results['imgs'][3], draw(3))
    assert results['img_shape'] == results['original_shape'] == (HEIGHT, WIDTH)
    # A part of a longer video, as RawframeDataset(with_offset=True) says it.
    part = read_folder(folder, total_frames=3, offset=2)
    assert numbers(part['imgs']) == [2, 3, 4, 2, 3, 4, 2, 3]
    single = make_folder(tmp_path / 'single', 1)
    assert numbers(read_folder(single, total_frames=1)['imgs']) == [0] * 8


def test_a_folder_that_lacks_frames_is_named(tmp_path):
    folder = make_folder(tmp_path / 'a', 6)
    held = 'the folder holds 6 files, from img_00001.png to img_00006.png'
    for info, kind, cause in (
        (dict(total_frames=7), FileNotFoundError, f'a/img_00007.png, .* 7 .*: {held}'),
        (dict(total_frames=0), ValueError, f'total_frames=0 of .*a: {held}'),
        (dict(total_frames=None), ValueError, f'total_frames=None of .*a: {held}'),
        (dict(start_index=0), FileNotFoundError, 'img_00000.png, .*start_index=0 of'),
        (
            dict(filename_tmpl='img_{:05}.jpg'),
            FileNotFoundError,
            f"img_00001.jpg, .*{held}.*filename_tmpl='img_",
        ),
        (dict(filename_tmpl='{}_{}.png'), ValueError, f'/a cannot be read .*{held}'),
    ):
        info = dict(dict(total_frames=6), **info)
        with pytest.raises(kind, match=cause):
            read_folder(folder, **info)
    with pytest.raises(FileNotFoundError, match='no folder of frames .*b .*ann_file'):
        read_folder(str(tmp_path / 'b'))
    with pytest.raises(FileNotFoundError, match='img_00001.png.*holds 0 files'):
        read_folder(make_folder(tmp_path / 'none', 0))


def test_a_bad_frame_is_named(tmp_path):
    folder = make_folder(tmp_path / 'a', 6)
    frame = tmp_path / 'a' / 'img_00003.png'
    for content in (b'', b'no picture', frame.read_bytes()[:40]):
        frame.write_bytes(content)
        cause = rf'img_00003.png \({len(content)} bytes\) cannot be decoded: '
        with pytest.raises(ValueError, match=cause):
            read_folder(folder)
    cv2.imwrite(str(frame), draw(2, 20, 30))
    with pytest.raises(ValueError, match=r'frames of .*a differ.*\(20, 30, 3\)'):
        read_folder(folder)


def test_frames_in_an_array():
    array = np.stack([draw(index) for index in range(6)])
    step = ReadFrames(dict(type='SampleFrames', clip_len=8, test_mode=True))
    results = step(dict(array=array))
    np.testing.assert_array_equal(results['imgs'], array[[0, 1, 2, 3, 4, 5, 0, 1]])
    assert (results['total_frames'], results['img_shape']) == (6, (HEIGHT, WIDTH))
    results['imgs'][0][:] = 0
    assert array.all() and results['imgs'][6].all()  # copies
    for wrong in (array[0], array[..., :2], array[:0]):
        with pytest.raises(ValueError, match=r'has the shape \(T, H, W, 3\), not \('):
            step(dict(array=wrong))
    with pytest.raises(ValueError, match='needs a filename, a frame_dir or an array'):
        step(dict(label=3))


def test_decoder_that_is_not_installed(tmp_path, monkeypatch):
    sample = dict(type='SampleFrames', clip_len=8)
    with pytest.raises(ValueError, match="'ffmpeg' is none of auto, pyav, decord"):
        ReadFrames(sample, 'ffmpeg')
    for name, package in PACKAGES.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            pip = dict(opencv='opencv-python').get(name, package)
            with pytest.raises(ImportError, match=f'pip install {pip}$'):
                ReadFrames(sample, name)
    # 'auto' takes the next one.
    path = write_video(tmp_path / 'a.mp4', 8)
    for name in ('av', 'decord'):
        monkeypatch.setitem(sys.modules, name, None)
        assert numbers(ReadFrames(sample)(dict(filename=path))['imgs']) == [*range(8)]
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(ImportError, match='needs av or decord or opencv-python'):
        ReadFrames(sample)


PIPELINE = [
    dict(
        type='sparseformer_mm.video.ReadFrames',
        sample=dict(type='SampleFrames', clip_len=4, num_clips=2, test_mode=True),
    ),
    dict(type='ThreeCrop', crop_size=HEIGHT),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]


def test_data_sets_read_the_same_pictures(tmp_path):
    pytest.importorskip('av')
    write_with_av(tmp_path / 'a.mkv', 6, (HEIGHT, WIDTH), 'ffv1', 'bgr0')
    make_folder(tmp_path / 'a', 6)
    (tmp_path / 'videos.txt').write_text('a.mkv 4\n')
    (tmp_path / 'folders.txt').write_text('a 6 4\n')
    videos = VideoDataset(
        str(tmp_path / 'videos.txt'),
        PIPELINE,
        data_prefix=dict(video=str(tmp_path)),
        test_mode=True,
    )
    folders = RawframeDataset(
        str(tmp_path / 'folders.txt'),
        PIPELINE,
        data_prefix=dict(img=str(tmp_path)),
        filename_tmpl='img_{:05}.png',
        test_mode=True,
    )
    one, other = videos[0], folders[0]
    # 2 clips x 3 crops; the crops of a frame of one colour are equal.
    assert one['inputs'].shape == (6, 3, 4, HEIGHT, HEIGHT)
    np.testing.assert_array_equal(one['inputs'], other['inputs'])
    green = one['inputs'][:, 1, :, 0, 0]
    assert sorted(green.tolist()) == [[20, 25, 30, 35]] * 3 + [[30, 35, 40, 45]] * 3
    assert one['data_samples'].gt_label.item() == 4
