"""Pictures of a user: found in folders, and read."""

import numpy as np
import pytest
from PIL import Image

from sparseformer_mm.engine.files import find_pictures, read_picture


def test_pictures_of_class_folders_take_turns(tmp_path):
    for name in ('b/1.png', 'b/2.jpg', 'b/3.png', 'a/9.png', 'a/note.txt', 'c/1.webp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = find_pictures([tmp_path, tmp_path / 'b', tmp_path / 'a/9.png'])
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        'a/9.png', 'b/1.png', 'c/1.webp', 'b/2.jpg', 'b/3.png',
        'b/1.png', 'b/2.jpg', 'b/3.png', 'a/9.png',
    ]  # fmt: skip


def test_pictures_that_cannot_be_read(tmp_path):
    pytest.importorskip('cv2')
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_picture(tmp_path / 'a.png'), image)
    for content, message in (
        (b'', r'b.png is empty \(0 bytes\): replace or leave it out'),
        (b'some words', 'b.png is text, not a picture: replace'),
    ):
        (tmp_path / 'b.png').write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_picture(tmp_path / 'b.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty has no picture \(.bmp, .jpeg'):
        find_pictures([tmp_path / 'empty'])
