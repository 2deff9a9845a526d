"""What the header of an mp4, mov or 3gp file says about the frames of its video.

For the decoders that do not follow it. The boxes are those of the ISO base media file
format (ISO/IEC 14496-12).
"""

import os
import struct
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

_FIRST_BOXES = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip', b'styp')


class Mp4Video(NamedTuple):
    """The first video track.

    ``frames``: how many a player shows, after the edit list; None for a fragmented
    file, whose header does not say. ``matrix``: where right (a, b) and down (c, d) of a
    picture point to on the screen. ``keys``: numbers of the key frames, (K,), or None
    where those from the last one on may not be enough for a frame (hidden frames, open
    groups of pictures). ``constant``: all frames last equally long. ``colors``: number
    of the matrix from YCbCr to RGB (ISO/IEC 23091-2: 1 is BT.709, 5 and 6 BT.601), 2 if
    the header does not say.
    """

    frames: Optional[int]
    matrix: Tuple[int, int, int, int]
    keys: Optional[np.ndarray]
    constant: bool
    colors: int

    @property
    def mirrored(self) -> bool:
        a, b, c, d = self.matrix
        return a * d < b * c


def _split(data: memoryview) -> Iterator[Tuple[bytes, memoryview]]:
    """Kind and payload of the boxes that follow each other in ``data``."""
    while len(data) >= 8:
        size, kind = struct.unpack_from('>I4s', data)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from('>Q', data, 8)
            head = 16
        size = size or len(data)
        if size < head or size > len(data):
            raise ValueError(f'box {kind} of {size} bytes in {len(data)}')
        yield bytes(kind), data[head:size]
        data = data[size:]


def _find(data: memoryview, *path: bytes) -> Optional[memoryview]:
    """The first box along a path of kinds."""
    for kind in path:
        data = next((part for name, part in _split(data) if name == kind), None)
        if data is None:
            return None
    return data


def _read_moov(path: str) -> Optional[memoryview]:
    with open(path, 'rb') as file:
        end = os.fstat(file.fileno()).st_size
        start = 0
        while start + 8 <= end:
            file.seek(start)
            size, kind = struct.unpack('>I4s', file.read(8))
            if start == 0 and kind not in _FIRST_BOXES:
                return None
            head = 8
            if size == 1:
                (size,) = struct.unpack('>Q', file.read(8))
                head = 16
            size = size or end - start
            if size < head:
                return None
            if kind == b'moov':
                return memoryview(file.read(min(size, end - start) - head))
            start += size
    return None


def _timescale(header: memoryview) -> int:
    """Ticks per second in a movie's or a track's header."""
    return struct.unpack_from('>I', header, 20 if header[0] else 12)[0]


def _table(box: Optional[memoryview], *columns: str) -> np.ndarray:
    """The rows behind version, flags and count, as int64."""
    if box is None:
        return np.zeros((0, len(columns)), np.int64)
    kind = np.dtype([(str(index), f'>{name}') for index, name in enumerate(columns)])
    (count,) = struct.unpack_from('>I', box, 4)
    rows = np.frombuffer(box, kind, count, 8)
    return np.stack([rows[name].astype(np.int64) for name in kind.names], 1)


def _times(samples: memoryview) -> np.ndarray:
    """When each sample is shown, (N,) ticks, in the order in which they are decoded."""
    counts, steps = _table(_find(samples, b'stts'), 'u4', 'u4').T
    if counts.sum() > 1 << 26:
        raise ValueError('more samples than a header can mean')
    steps = np.repeat(steps, counts)
    times = np.cumsum(steps) - steps
    offsets = _table(_find(samples, b'ctts'), 'u4', 'i4')
    return times + np.repeat(offsets[:, 1], offsets[:, 0]) if len(offsets) else times


def _colors(samples: memoryview) -> int:
    """The matrix coefficients of the first kind of samples."""
    kinds = _find(samples, b'stsd')
    entry = next((entry for _, entry in _split(kinds[8:])), None)
    if entry is None:
        return 2
    for kind, color in _split(entry[78:]):  # behind the fixed part of a picture's
        if kind == b'colr' and bytes(color[:4]) in (b'nclx', b'nclc'):
            return struct.unpack_from('>H', color, 8)[0]
    return 2


def _parse(path: str) -> Optional[Mp4Video]:
    moov = _read_moov(path)
    if moov is None:
        return None
    for kind, track in _split(moov):
        if kind != b'trak':
            continue
        media = _find(track, b'mdia')
        if bytes(_find(media, b'hdlr')[8:12]) == b'vide':
            break
    else:
        return None
    header = _find(track, b'tkhd')
    a, b, _, c, d = struct.unpack_from('>5i', header, 52 if header[0] else 40)
    samples = _find(media, b'minf', b'stbl')
    times, colors = _times(samples), _colors(samples)
    if _find(moov, b'mvex') is not None or not len(times):
        return Mp4Video(None, (a, b, c, d), None, False, colors)

    edits = _find(track, b'edts', b'elst')
    wide = edits is not None and edits[0]
    rows = _table(edits, *(('i8', 'i8') if wide else ('u4', 'i4')), 'u4')
    rows = rows[rows[:, 1] >= 0]  # the others only wait
    shown = np.zeros(len(times), np.int64)
    for length, start, _ in rows:
        length = length * _timescale(_find(media, b'mdhd'))
        length = length / _timescale(_find(moov, b'mvhd'))
        # Times of zero length go on to the end, and so does what rounds to less.
        stop = start + round(length) if length else np.inf
        shown += (times >= start) & (times < stop)
    if not len(rows):
        shown += 1

    sync = _table(_find(samples, b'stss'), 'u4')[:, 0] - 1
    keys = sync if _find(samples, b'stss') is not None else np.arange(len(times))
    if (shown != 1).any() or not len(keys) or keys[0] != 0 or keys[-1] >= len(times):
        keys = None
    else:
        group = np.searchsorted(keys, np.arange(len(times)), 'right') - 1
        if (times < times[keys[group]]).any():
            keys = None
    steps = np.diff(np.sort(times))
    constant = not len(steps) or bool(np.ptp(steps) * 10 <= steps.min())
    return Mp4Video(int(shown.sum()), (a, b, c, d), keys, constant, colors)


def read_mp4(path: str) -> Optional[Mp4Video]:
    """The video of a file, or None: another container, no video in it, or damaged."""
    try:
        return _parse(path)
    except (ValueError, TypeError, IndexError, struct.error, MemoryError):
        return None
