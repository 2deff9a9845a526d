"""The files of the video task: mp4 and frames, as readers and mmaction2 see them."""

from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('sklearn', reason='the digits come with scikit-learn')

from helpers.digits import (  # noqa: E402
    check_sources,
    fingerprint,
    make_digits,
    read_json,
)
from sparseformer_mm.digits import clips, scenes  # noqa: E402

SMALL = ['--task', 'video', '--train', '24', '--val', '16']
SIZE = 52


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    pytest.importorskip('av', reason='mp4 files are written by PyAV')
    root = tmp_path_factory.mktemp('videos') / 'set'
    output = make_digits(root, *SMALL)
    assert 'train: 24/24 clips' in output and 'val: 16/16 clips' in output
    assert '24 training and 16 validation clips of 52x52' in output
    return root


@pytest.fixture(scope='module')
def frames(tmp_path_factory):
    root = tmp_path_factory.mktemp('frames') / 'set'
    make_digits(root, *SMALL, '--format', 'frames')
    return root


def read_list(path):
    return [line.split(' ') for line in path.read_text().splitlines()]


def read_folder(folder):
    """Frames of a folder in RGB, (T, H, W, 3)."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f'img_{i:05d}.png' for i in range(1, len(names) + 1)]
    return np.stack([cv2.imread(str(folder / name)) for name in names])[..., ::-1]


def test_lists_boxes_and_balance(videos, frames):
    for split, each in (('train', 3), ('val', 2)):
        lines = read_list(videos / f'{split}.txt')
        assert lines == [
            [f'videos/{split}/{i:06d}.mp4', str(i % 8)] for i in range(8 * each)
        ]
        files = sorted((videos / f'videos/{split}').iterdir())
        assert [path.relative_to(videos).as_posix() for path in files] == [
            name for name, _ in lines
        ]
        raw_lines = read_list(frames / f'{split}.txt')
        assert raw_lines == [
            [f'frames/{split}/{i:06d}', '16', str(i % 8)] for i in range(8 * each)
        ]
        boxes = read_json(videos / f'{split}_boxes.json')
        raw_boxes = read_json(frames / f'{split}_boxes.json')
        assert list(boxes) == [name for name, _ in lines]
        assert list(raw_boxes) == [name for name, _, _ in raw_lines]
        assert list(boxes.values()) == list(raw_boxes.values())
        for index, clip_boxes in enumerate(boxes.values()):
            assert len(clip_boxes) == 16
            for x1, y1, x2, y2, label in clip_boxes:
                assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
                assert label == index % 8
        for name, number, _ in raw_lines:
            assert read_folder(frames / name).shape == (int(number), SIZE, SIZE, 3)
    for root in (videos, frames):
        assert (root / 'classes.txt').read_text().splitlines() == list(clips.MOTIONS)
    manifest = read_json(videos / 'digits_manifest.json')
    assert manifest['arguments'] == dict(
        task='video',
        train=24,
        val=16,
        size=52,
        digit_size=[13, 19],
        frames=16,
        format='mp4',
        seed=0,
    )
    assert sorted(manifest['versions']) == ['av', 'numpy', 'opencv']
    # x264 writes its settings into the file: none may depend on the machine.
    clip = (videos / 'videos/val/000000.mp4').read_bytes()
    assert b' threads=1 lookahead_threads=1 ' in clip


def test_files_show_the_drawn_clips(frames):
    pixels, labels = scenes.load_source_digits()
    for part, (split, own) in enumerate(scenes.split_sources(labels).items()):
        sampler = scenes.SceneSampler(pixels, labels, own, SIZE, (13, 19))
        boxes = read_json(frames / f'{split}_boxes.json')
        for index in range(8):
            rng = np.random.default_rng([0, part, index])
            clip = clips.compose_clip(sampler, rng, index, 16)
            name = f'frames/{split}/{index:06d}'
            assert (read_folder(frames / name) == np.stack(clip.render())).all()
            assert boxes[name] == clip.boxes()


def test_split_shares_no_source(videos):
    check_sources(videos, 24, 16)  # dealt from a pack: no source comes twice


def read_opencv(path):
    capture, pictures = cv2.VideoCapture(str(path)), []
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 16
    assert capture.get(cv2.CAP_PROP_FPS) == 8
    while True:
        there, picture = capture.read()
        if not there:
            return np.stack(pictures)[..., ::-1]
        pictures.append(picture)


def read_pyav(path):
    av = pytest.importorskip('av')
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 16
        decoded = container.decode(video=0)
        return np.stack([frame.to_ndarray(format='rgb24') for frame in decoded])


def read_decord(path):
    decord = pytest.importorskip('decord')
    reader = decord.VideoReader(str(path))
    assert len(reader) == 16
    whole = reader.get_batch(range(16)).asnumpy()
    # Any frame by itself, as a sampler asks for them.
    assert (reader.get_batch([13, 2, 9]).asnumpy() == whole[[13, 2, 9]]).all()
    return whole


@pytest.mark.parametrize('read', [read_opencv, read_pyav, read_decord])
def test_mp4_shows_the_frames(videos, frames, read):
    """Brightness within 32 dB, colours (every second pixel) within 24 dB."""
    for split, count in (('train', 24), ('val', 16)):
        for index in range(count):
            drawn = read_folder(frames / f'frames/{split}/{index:06d}').astype(float)
            found = read(videos / f'videos/{split}/{index:06d}.mp4').astype(float)
            assert found.shape == drawn.shape == (16, SIZE, SIZE, 3)
            gray = np.array([0.299, 0.587, 0.114])
            for i in range(16):
                error = found[i] - drawn[i]
                assert 10 * np.log10(255**2 / (error**2).mean()) > 24
                assert 10 * np.log10(255**2 / ((error @ gray) ** 2).mean()) > 32


@pytest.mark.parametrize('form', ['mp4', 'frames'])
def test_same_arguments_give_same_bytes(request, tmp_path, form):
    first = request.getfixturevalue('videos' if form == 'mp4' else 'frames')
    explicit = ['--size', '52', '--digit-size', '13', '19', '--frames', '16']
    again = tmp_path / 'again'
    make_digits(again, *SMALL, *explicit, '--format', form)
    assert fingerprint(again) == fingerprint(first)
    assert 'nothing to do' in make_digits(again, *SMALL, '--format', form)
    output = make_digits(again, *SMALL, '--format', form, '--frames', 8, status=1)
    assert 'other arguments' in output
    # A smaller set is the beginning of a larger one.
    fewer = tmp_path / 'fewer'
    make_digits(fewer, '--task', 'video', '--train', 9, '--val', 16, '--format', form)
    small, large = fingerprint(fewer), fingerprint(first)
    names = [name for name in small if name.startswith(('videos/', 'frames/'))]
    assert len(names) == (9 + 16) * (1 if form == 'mp4' else 16)
    assert all(small[name] == large[name] for name in names)


def test_length_and_odd_size(tmp_path):
    options = ['--size', 33, '--frames', 5, '--format', 'frames', '--seed', 4]
    make_digits(tmp_path / 'set', '--task', 'video', '--train', 3, '--val', 2, *options)
    lines = read_list(tmp_path / 'set/train.txt')
    assert [line[1:] for line in lines] == [['5', '0'], ['5', '1'], ['5', '2']]
    for name, _, _ in lines:
        assert read_folder(tmp_path / 'set' / name).shape == (5, 33, 33, 3)


def test_sample_sheet(frames):
    """Two strips of six frames per row; a pair of motions side by side."""
    sheet = cv2.imread(str(frames / 'samples.png'))[..., ::-1]
    assert sheet.shape == (8 * 120, 2 * 632, 3)
    for index in range(16):
        row, column = divmod(index, 2)
        strip = sheet[120 * row :, 632 * column :][:120, :632]
        clip = read_folder(frames / f'frames/val/{index:06d}')
        shown = np.concatenate(clip[[0, 3, 6, 9, 12, 15]], axis=1)
        assert (strip[16::2, :624:2] == shown).all()
        # The class is written above.
        assert strip[:16].any()


@pytest.mark.parametrize(
    'options, message',
    [
        (['--frames', '3'], '--frames must be at least 4'),
        (['--size', '51'], 'mp4 files need an even --size, got 51; --format frames'),
        (['--size', '48'], 'fails at a width of 48; take another --size'),
        (['--size', '72'], 'fails at a width of 72; take another --size'),
        (['--format', 'gif'], 'invalid choice'),
        (
            ['--task', 'detection', '--frames', '8'],
            '--frames is for --task video',
        ),
        (['--task', 'detection', '--format', 'mp4'], '--format is for --task video'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    output = make_digits(tmp_path / 'set', '--task', 'video', *options, status=2)
    assert message in ' '.join(output.split())
    assert not list(tmp_path.iterdir())


def test_mmaction2_reads_both_layouts(videos, frames):
    # Without it, mmaction2 cannot be imported everywhere.
    pytest.importorskip('sparseformer_mm.video.compat', exc_type=ImportError)
    from mmaction.datasets import RawframeDataset, VideoDataset

    dataset = VideoDataset(
        str(videos / 'val.txt'), [], data_prefix=dict(video=str(videos))
    )
    assert len(dataset) == 16
    for index in range(16):
        info = dataset.get_data_info(index)
        assert Path(info['filename']).is_file() and info['label'] == index % 8
    dataset = RawframeDataset(
        str(frames / 'val.txt'),
        [],
        data_prefix=dict(img=str(frames)),
        filename_tmpl='img_{:05}.png',
    )
    assert len(dataset) == 16
    for index in range(16):
        info = dataset.get_data_info(index)
        assert (info['total_frames'], info['label']) == (16, index % 8)
        for number in range(1, 17):
            name = info['filename_tmpl'].format(number)
            assert (Path(info['frame_dir']) / name).is_file()
