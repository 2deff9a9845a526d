"""Videos of a user: found, and read by a config's test pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.mmaction
pytest.importorskip('sparseformer_mm.video.compat', reason='needs mmaction2')

from mmengine.config import Config  # noqa: E402

from helpers.toy_looks import MEAN, SECOND_CLIP, STD  # noqa: E402
from sparseformer_mm.video.clips import (  # noqa: E402
    find_videos,
    frames_info,
    read_clip,
)
from sparseformer_mm.visualization.looks import _clip_boxes  # noqa: E402


def test_folders_of_videos_and_of_frames(tmp_path):
    for name in ('a/2.MP4', 'a/1.webm', 'a/cover.jpg', 'b/y/1.png', 'b/x/1.png', 'c/d'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    a, b, c = (tmp_path / name for name in 'abc')
    assert find_videos([a]) == [a / '1.webm', a / '2.MP4']
    assert find_videos([b / 'x']) == [b / 'x']
    assert find_videos([b]) == [b / 'x', b / 'y']
    assert find_videos([str(c / 'd'), b / 'y']) == [c / 'd', b / 'y']
    with pytest.raises(ValueError, match=r'folder .*c has no video \(.avi, .mkv'):
        find_videos([c])


def test_numbers_of_raw_frames(tmp_path):
    for number in (7, 8, 9):
        (tmp_path / f'img_{{a}}2_{number:05}.png').touch()
    info = frames_info(tmp_path)
    assert info['total_frames'] == 3 and info['start_index'] == 7
    template = info['filename_tmpl']
    assert template.format(8) == 'img_{a}2_00008.png'
    assert (Path(info['frame_dir']) / template.format(9)).is_file()
    (tmp_path / template.format(8)).unlink()
    with pytest.raises(ValueError, match='has no img_{a}2_00008.png; number the'):
        frames_info(tmp_path)
    (tmp_path / 'mask_00001.png').touch()
    with pytest.raises(ValueError, match='not numbered in one way; frames of a video'):
        frames_info(tmp_path)


@pytest.mark.parametrize(
    'step, whole, num_views',
    [
        ("dict(type='CenterCrop', crop_size=24)", False, 2),
        ("dict(type='CenterCrop', crop_size=(32, 24))", True, 2),
        ("dict(type='Flip', flip_ratio=1)", False, 2),
        ("dict(type='ThreeCrop', crop_size=24)", False, 6),
    ],
)
def test_boxes_do_not_hold_on_cropped_clips(toys, tmp_path, step, whole, num_views):
    """Where the view shows another part of the frame than the boxes are given for."""
    toy = toys('video')
    resize = "dict(type='Resize', scale=(32, 24), keep_ratio=False)"
    cfg = Config.fromfile(toy.derive(tmp_path, (resize, f'{resize}, {step}')))
    clip = read_clip(toy.root / 'known.mp4', cfg, view=num_views - 1)
    assert (clip.whole, clip.num_views) == (whole, num_views)
    # Crop by crop, the clips of each.
    assert clip.frames.tolist() == SECOND_CLIP and clip.size == (48, 40)
    boxes = np.tile([12.0, 10, 24, 30], (12, 1))
    expected = [[[0.25, 0.25, 0.5, 0.75]]] * 4 if whole else []
    assert _clip_boxes(clip, boxes).tolist() == expected
    assert _clip_boxes(clip, boxes[:11]).shape == (0, 4)  # the clip has frame 11


def test_raw_frames_are_the_video(toys, tmp_path):
    toy = toys('video')
    raw = toy.derive(
        tmp_path,
        ("dict(type='OpenCVInit'),", ''),
        ('OpenCVDecode', 'RawFrameDecode'),
    )
    frames = read_clip(toy.root / 'frames/known', Config.fromfile(raw))
    video = read_clip(toy.root / 'known.mp4', Config.fromfile(toy.config))
    assert torch.equal(frames.data['inputs'], video.data['inputs'])
    assert frames.frames.tolist() == video.frames.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('settings', [dict(mean=MEAN, std=STD), {}])
def test_frames_come_back_from_the_preprocessor(toys, to_rgb, settings):
    from mmaction.models import ActionDataPreprocessor

    pixels = torch.randint(0, 256, (3, 2, 5, 4), dtype=torch.uint8)
    preprocessor = ActionDataPreprocessor(
        format_shape='NCTHW', to_rgb=to_rgb, **settings
    )
    data = preprocessor(dict(inputs=[pixels[None]], data_samples=[]), False)
    normalisation = toys('video').host.read_normalisation(preprocessor)
    seen = normalisation.undo(data['inputs'][:, 0])[0]
    np.testing.assert_array_equal(seen, pixels.permute(1, 2, 3, 0))
