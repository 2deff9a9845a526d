"""Videos that cannot be read are named, with cause and cure, wherever they are read."""

import re
import wave
from pathlib import Path

import numpy as np
import pytest

from helpers.video_clips import look, write_clip

pytest.importorskip(
    'sparseformer_mm.video.compat', reason='needs mmaction2: pip install mmaction2'
)
av = pytest.importorskip('av', reason='it writes the clips')

from mmaction.datasets import VideoDataset  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from sparseformer_mm.video import ReadFrames, transforms  # noqa: E402

pytestmark = pytest.mark.mmaction


def read(path, decoder: str, clip_len: int = 4) -> dict:
    sample = dict(type='SampleFrames', clip_len=clip_len, test_mode=True)
    return ReadFrames(sample, decoder)(dict(filename=str(path)))


def numbers(results: dict) -> list:
    return [look(image)[0] for image in results['imgs']]


def write_noise(path: Path, count: int = 20) -> bytes:
    """A video of large packets, with its header in front; its content."""
    with av.open(str(path), 'w', options=dict(movflags='faststart')) as container:
        stream = container.add_stream('libx264', rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, 'rgb24')))
        container.mux(stream.encode())
    return path.read_bytes()


def write_bad_videos(folder: Path) -> None:
    """All that the table below names but what is not there."""
    (folder / 'text.mp4').write_text('no video\n' * 100)
    (folder / 'page.mp4').write_text('<!DOCTYPE html><html>not found</html>')
    (folder / 'empty.mp4').touch()
    (folder / 'empty.mkv').touch()
    (folder / 'folder.mp4').mkdir()
    with wave.open(str(folder / 'sound.mp4'), 'wb') as sound:
        sound.setparams((1, 2, 8000, 800, 'NONE', ''))
        sound.writeframes(bytes(1600))
    for suffix in ('mp4', 'mov'):  # their header is at the end
        content = Path(write_clip(folder / f'half.{suffix}')).read_bytes()
        (folder / f'half.{suffix}').write_bytes(content[: len(content) // 2])
    for suffix in ('mkv', 'avi', 'ts', 'webm'):
        codec = 'libvpx' if suffix == 'webm' else 'libx264'
        content = Path(write_clip(folder / f'start.{suffix}', codec)).read_bytes()
        (folder / f'start.{suffix}').write_bytes(content[:100])


# file -> (type, what the message says)
CURE = 'copy or download it again, or delete its line from ann_file'
OPEN = rf'as a video \(.*\); it may be damaged, cut off or no video at all: {CURE}'
BAD = {
    'gone.mp4': (
        FileNotFoundError,
        r'there is no video \S*gone.mp4 .*paths in ann_file',
    ),
    'gone': (FileNotFoundError, r'is no video \S*gone .*paths in ann_file'),
    'folder.mp4': (ValueError, 'folder.mp4 is a folder, not a .*RawframeDataset'),
    'empty.mp4': (ValueError, rf'empty.mp4 is empty \(0 bytes\): {CURE}'),
    'empty.mkv': (ValueError, rf'empty.mkv is empty \(0 bytes\): {CURE}'),
    'text.mp4': (ValueError, f'text.mp4 {OPEN}'),
    'page.mp4': (ValueError, f'page.mp4 {OPEN}'),
    'sound.mp4': (ValueError, f'sound.mp4 {OPEN}'),
    'half.mp4': (ValueError, f'half.mp4 {OPEN}'),
    'half.mov': (ValueError, f'half.mov {OPEN}'),
    'start.mkv': (ValueError, f'start.mkv {OPEN}'),
    'start.avi': (ValueError, f'start.avi {OPEN}'),
    'start.ts': (ValueError, f'start.ts {OPEN}'),
    'start.webm': (ValueError, f'start.webm {OPEN}'),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bad')
    write_bad_videos(folder)
    write_clip(folder / 'good.mp4')
    return folder


@pytest.mark.parametrize('name', BAD)
def test_a_file_without_frames_is_named(folder, decoder, name):
    kind, cause = BAD[name]
    for choice in (decoder, 'auto'):
        with pytest.raises(kind, match=cause) as caught:
            read(folder / name, choice)
        assert '\n' not in str(caught.value)


def test_a_file_of_sound_is_told_from_a_damaged_one(folder):
    with pytest.raises(ValueError, match='it has no video stream'):
        read(folder / 'sound.mp4', 'pyav')


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('test_mode', [False, True], ids=['training', 'testing'])
def test_errors_leave_the_data_loader(folder, tmp_path, test_mode, num_workers):
    pipeline = [
        dict(
            type='sparseformer_mm.video.ReadFrames',
            sample=dict(type='SampleFrames', clip_len=4, test_mode=test_mode),
        ),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]
    for name in ('gone.mp4', 'empty.mp4', 'text.mp4', 'half.mp4'):
        kind, cause = BAD[name]
        (tmp_path / 'list.txt').write_text(f'good.mp4 0\n{name} 1\n')
        data = VideoDataset(
            str(tmp_path / 'list.txt'),
            pipeline,
            data_prefix=dict(video=str(folder)),
            test_mode=test_mode,
        )
        batches = iter(DataLoader(data, num_workers=num_workers, collate_fn=list))
        assert next(batches)[0]['inputs'].shape == (1, 3, 4, 32, 52)
        with pytest.raises(kind, match=cause):
            next(batches)
        assert not list(batches)  # at its end, the worker goes at once


def test_a_cut_off_avi_ends_where_it_was_cut(tmp_path, decoder):
    path = tmp_path / 'a.avi'
    write_clip(path, 'mjpeg', pix_fmt='yuvj420p', count=16)
    content = path.read_bytes()
    frames = [match.start() for match in re.finditer(b'00dc', content)]
    frames = [start for start in frames if start > content.index(b'movi')]
    path.write_bytes(content[: frames[10]])  # mmaction2's own step crashes here
    results = read(path, decoder, clip_len=16)
    assert results['total_frames'] == 10
    assert numbers(results) == [*range(10), *range(6)]


@pytest.mark.parametrize('suffix', ['mkv', 'ts'])
def test_a_stream_ends_where_it_was_cut(tmp_path, decoder, suffix):
    if (decoder, suffix) == ('decord', 'ts'):
        return  # refused
    path = tmp_path / f'a.{suffix}'
    content = Path(write_clip(path, options=dict(qp='5'))).read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    results = read(path, decoder, clip_len=16)
    total = results['total_frames']
    assert 4 < total < 16
    assert numbers(results) == [index % total for index in range(16)]


def test_a_damaged_video_is_named(tmp_path, decoder):
    path = tmp_path / 'a.mp4'
    content = write_noise(path)
    half = len(content) // 2
    for verb, rest in (('decode', bytes(len(content) - half)), ('(decode|open)', b'')):
        path.write_bytes(content[:half] + rest)
        cause = f'{decoder} cannot {verb} .*a.mp4 .* damaged.* cut off.*: {CURE}'
        with pytest.raises(ValueError, match=cause):
            read(path, decoder, clip_len=20)


def test_fewer_frames_than_packets(tmp_path, monkeypatch):
    """Sampled again, now from those there are."""
    path = write_clip(tmp_path / 'a.avi', count=5)
    open_video = transforms.open_video

    def promise_more(*args):
        reader = open_video(*args)
        reader.total += 3
        return reader

    monkeypatch.setattr(transforms, 'open_video', promise_more)
    results = read(path, 'pyav', clip_len=8)
    assert results['total_frames'] == 5
    assert numbers(results) == [0, 1, 2, 3, 4, 0, 1, 2]
