"""Tiny clips whose frames tell their number and which way is up.

Frames are gray, the brighter the later; a red mark is in the upper left corner. Cuts
without coding anew, rotation and mirrors are written into the header of mp4 and mov.
"""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np

STEP = 9  # of brightness, from frame to frame: 25 frames at most

# Where the axes of a picture point to on the screen, as a display matrix says.
MATRICES = {
    '90': (0, 1, -1, 0),
    '180': (-1, 0, 0, -1),
    '270': (0, -1, 1, 0),
    'mirrored': (-1, 0, 0, 1),
    'upside down': (1, 0, 0, -1),
    'transposed': (0, 1, 1, 0),
}


def draw(number: int, height: int, width: int) -> np.ndarray:
    """RGB (H, W, 3) of one frame."""
    image = np.full((height, width, 3), 20 + STEP * number, np.uint8)
    image[:8, :8] = (255, 0, 0)
    return image


def write_clip(
    path: Path,
    codec: str = 'libx264',
    count: int = 16,
    size: Tuple[int, int] = (32, 52),
    pix_fmt: str = 'yuv420p',
    rate: int = 10,
    times: Optional[Sequence[int]] = None,
    gop: int = 8,
    start: Fraction = Fraction(0),
    options: Optional[dict] = None,
    **container,
) -> str:
    """Write ``count`` frames.

    Args:
        size: (height, width).
        times: when each is shown, in ms; by default at a constant ``rate``.
        gop: most frames from one key frame to the next.
        start: as of ``ffmpeg -ss START -c copy``: time 0, in seconds. Files in mp4 and
            mov get an edit list that hides what comes before.
        options: of the encoder; ``container``: of the muxer.
    """
    import av

    unit = Fraction(1, 1000) if times else Fraction(1, rate)
    with av.open(str(path), 'w', options=container) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = unit
        packets = []
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), 'rgb24')
            frame.pts, frame.time_base = times[number] if times else number, unit
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            shift = int(start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            file.mux(packet)
    return str(path)


def turn(path: str, name: str) -> str:
    """Write one of ``MATRICES`` into the header of the only track."""
    content = bytearray(Path(path).read_bytes())
    place = content.index(b'tkhd') + 4
    place += 52 if content[place] else 40
    a, b, c, d = MATRICES[name]
    rows = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack('>9i', *rows)
    Path(path).write_bytes(content)
    return path


def edit(path: str, *parts: Tuple[int, int]) -> str:
    """Replace the edit list of a file whose header is at its end.

    Args:
        parts: (length in ms, start in ms, or -1 for a pause) of what is shown.
    """
    content = bytearray(Path(path).read_bytes())
    scale = content.index(b'mdhd') + 4
    (scale,) = struct.unpack_from('>I', content, scale + (20 if content[scale] else 12))
    # What B-frames need before the first frame.
    place = content.index(b'elst') - 4
    (old,) = struct.unpack_from('>I', content, place)
    (first,) = struct.unpack_from('>i', content, place + 20)
    new = struct.pack('>I4sII', 16 + 12 * len(parts), b'elst', 0, len(parts))
    for length, start in parts:
        start = first + start * scale // 1000 if start >= 0 else -1
        new += struct.pack('>Iii', length, start, 1 << 16)
    for kind in (b'moov', b'trak', b'edts'):
        outer = content.index(kind) - 4
        (size,) = struct.unpack_from('>I', content, outer)
        struct.pack_into('>I', content, outer, size + len(new) - old)
    content[place : place + old] = new
    Path(path).write_bytes(content)
    return path


def look(image: np.ndarray) -> Tuple[int, str]:
    """Number of a frame, and the corner in which the mark is."""
    height, width = image.shape[:2]
    middle = image[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4]
    corners = {
        'upper left': image[2:6, 2:6],
        'upper right': image[2:6, -6:-2],
        'lower left': image[-6:-2, 2:6],
        'lower right': image[-6:-2, -6:-2],
    }
    redness = {
        name: float(part[..., 0].mean()) - float(part[..., 1].mean())
        for name, part in corners.items()
    }
    marked = [name for name, value in redness.items() if value > 100]
    return round((middle.mean() - 20) / STEP), ' and '.join(marked)
