"""The frames of a video file as a player shows them, by PyAV, decord or OpenCV.

Each reader has ``total``, the number of frames, ``fps``, frames per second (0 if
unknown), and ``read(indices)``: a dictionary of RGB images (H, W, 3), uint8, contiguous
or not. ``read`` corrects ``total`` where the file ends earlier than it says, and leaves
out the images beyond.
"""

import bisect
import importlib
import re
import warnings
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from .mp4 import read_mp4

# decoder -> (what to import, what pip calls it), in the order of 'auto'
DECODERS = dict(
    pyav=('av', 'av'),
    decord=('decord', 'decord'),
    opencv=('cv2', 'opencv-python'),
)
CURE = 'copy or download it again, or delete its line from ann_file'


class UnsupportedVideo(ValueError):
    """This decoder cannot read the file, or would give other frames than a player."""


def reason(error: Exception) -> str:
    """Type and first line, without decord's time stamps and C++ file names."""
    lines = str(error).strip().splitlines() or ['']
    text = re.sub(r'^(\[[\d:]+\] \S+: )+', '', lines[0])
    if isinstance(error, UnsupportedVideo):
        return text
    return f'{type(error).__name__}: {text[:200]}'


def find_decoders(decoder: str) -> List[str]:
    """Those of the names asked for that can be imported, at least one.

    Raises:
        ImportError: if there is none.
    """
    if decoder not in ('auto', *DECODERS):
        raise ValueError(f"decoder='{decoder}' is none of auto, {', '.join(DECODERS)}")
    names = list(DECODERS) if decoder == 'auto' else [decoder]
    found = []
    for name in names:
        try:
            importlib.import_module(DECODERS[name][0])
            found.append(name)
        except ImportError as error:
            failure = error
    if not found:
        packages = ' or '.join(DECODERS[name][1] for name in names)
        raise ImportError(
            f"decoder='{decoder}' needs {packages} ({reason(failure)}): pip install "
            f'{DECODERS[names[0]][1]}'
        )
    return found


def _turn(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Show a picture whose right is (a, b) on the screen, and whose down is (c, d)."""
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class PyAVReader:
    """The reference: libavformat and libavcodec follow edit lists, as players do.

    Frames are counted in the order in which they are shown. Where time stamps are to be
    trusted, the nearest key frame before is looked up; the time stamps of what
    comes out prove that it was the right place, else everything is decoded.
    """

    def __init__(self, path: str) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._reformatter = VideoReformatter()  # keeps its tables between frames
        self._container = av.open(path)
        try:
            self._stream = self._choose_stream(self._container)
            # Many containers do not say how many frames they hold, others do not hold
            # what they say, and edit lists hide frames.
            packets = [
                (packet.pts, packet.is_keyframe, packet.is_discard)
                for packet in self._container.demux(self._stream)
                if packet.size
            ]
            times = [time for time, _, hidden in packets if not hidden]
            self.total = len(times)
            self.fps = float(self._stream.average_rate or 0)
            codec = self._stream.codec_context.codec  # canonical: av1, not libdav1d
            self.codec = getattr(codec, 'canonical_name', codec.name)
            self._times: Optional[List[int]] = None
            if (
                len(times) == len(packets)
                and None not in times
                and len(set(times)) == len(times)
                and re.search('mp4|matroska', self._container.format.name)
            ):
                self._times = sorted(times)
                self._keys = sorted(time for time, is_key, _ in packets if is_key)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    @staticmethod
    def _choose_stream(container) -> Any:
        streams = container.streams
        if not streams.video:
            raise ValueError('it has no video stream')
        # What ffmpeg takes, not the picture on a cover; PyAV 13 and later tell.
        best = streams.best('video') if hasattr(streams, 'best') else None
        stream = best or streams.video[0]
        stream.codec_context.thread_count = 1  # the workers of a loader share the cores
        return stream

    def read(self, indices: Sequence[int]) -> Dict[int, np.ndarray]:
        wanted = sorted(set(indices))
        images = self._read_by_time(wanted) if self._times else None
        return self._read_in_order(wanted) if images is None else images

    def _read_by_time(self, wanted: List[int]) -> Optional[Dict[int, np.ndarray]]:
        from av.error import FFmpegError

        images, now, frames = {}, None, iter(())
        try:
            for index in wanted:
                time = self._times[index]
                before = bisect.bisect_right(self._keys, time)
                if before == 0:
                    return None
                key = self._keys[before - 1]
                if now is None or key > now:
                    self._container.seek(key, stream=self._stream)
                    frames = self._container.decode(self._stream)
                for frame in frames:
                    now = frame.pts
                    if now is None or now >= time:
                        break
                if now != time:
                    return None
                images[index] = self._to_rgb(frame)
        except FFmpegError:
            return None
        return images

    def _read_in_order(self, wanted: List[int]) -> Dict[int, np.ndarray]:
        import av

        images, count, last = {}, 0, wanted[-1]
        wanted = set(wanted)
        with av.open(self._path) as container:
            for frame in container.decode(self._choose_stream(container)):
                if count in wanted:
                    images[count] = self._to_rgb(frame)
                count += 1
                if count > last:
                    return images
        self.total = count
        return images

    def _to_rgb(self, frame) -> np.ndarray:
        colors = {}
        if frame.colorspace in (1, 7, 9):  # BT.709, SMPTE 240M, BT.2020
            # PyAV 16 and earlier take BT.601 unless told to convert.
            colors = dict(
                dst_colorspace=5, src_color_range=frame.color_range, dst_color_range=2
            )
        image = self._reformatter.reformat(frame, format='rgb24', **colors)
        image = image.to_ndarray()
        matrix = frame.side_data.get('DISPLAYMATRIX')
        if matrix is not None:
            a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]
            image = _turn(image, a, b, c, d)
        return image


class DecordReader:
    """decord 0.6 finds its way only in files without surprises.

    It counts the frames that an edit list hides, and misses its frame where decoding
    cannot start afresh at each key frame. There, it has to read everything.
    """

    codec = ''
    # It pads rows of 2, 3, 4, 6, 8, 12, 16, 24, 48 or 72 pixels, takes that for more
    # colors, and may fail on the size.
    _NARROW = 'it cannot read videos of this width'

    def __init__(self, path: str) -> None:
        import decord

        header = read_mp4(path)
        if header is not None and header.mirrored:
            raise UnsupportedVideo('it does not mirror, as the display matrix asks')
        with open(path, 'rb') as file:
            head = file.read(197)
        # In m2ts files, four bytes come before each packet.
        if head[::188] == b'GG' or head[4::192] == b'GG':
            raise UnsupportedVideo('it drops frames of MPEG transport streams')
        # From its path: on a cut off file in memory, decord ends the process. With the
        # least tolerance above none it does not repeat frames in place of lost ones.
        self._path, self._options = path, dict(num_threads=1, fault_tol=1e-9)
        self._reader = decord.VideoReader(path, **self._options)
        self.total = len(self._reader)
        if header is not None and header.frames is not None:
            self.total = min(self.total, header.frames)
        self.fps = self._reader.get_avg_fps()
        self._jumps = header is not None and header.keys is not None

    def close(self) -> None:
        self._reader = None

    def read(self, indices: Sequence[int]) -> Dict[int, np.ndarray]:
        wanted = sorted(set(indices))
        if not self._jumps:
            return self._read_in_order(wanted)
        try:
            return dict(zip(wanted, self._reader.get_batch(wanted).asnumpy()))
        except Exception as error:
            if 'size must exactly match' in str(error):
                raise UnsupportedVideo(self._NARROW) from error
            raise

    def _read_in_order(self, wanted: List[int]) -> Dict[int, np.ndarray]:
        import decord

        # Neither its seek nor its skip_frames can be trusted.
        reader = decord.VideoReader(self._path, **self._options)
        images, last = {}, wanted[-1]
        wanted = set(wanted)
        for index in range(last + 1):
            frame = reader.next()
            if frame.shape[-1] != 3:
                raise UnsupportedVideo(self._NARROW)
            if index in wanted:
                images[index] = frame.asnumpy()
        return images


# What red and blue weigh in luma, by the number of the matrix: BT.709, SMPTE 240M,
# BT.2020 and, in SD, BT.601.
_LUMA = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 6: (0.299, 0.114)}


def _to_ycbcr(matrix: int) -> np.ndarray:
    """The matrix from RGB to Y, Cb and Cr, (3, 3)."""
    red, blue = _LUMA[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [luma, ([0, 0, 1] - luma) / 2 / (1 - blue), ([1, 0, 0] - luma) / 2 / (1 - red)]
    )


class OpenCVReader:
    """OpenCV follows edit lists, but neither counts nor finds frames by them.

    It takes the colors of each video for those of BT.601. Where the header of an mp4
    says that they are others, as in HD, they are set right, but for those that were
    clipped; elsewhere they may stay up to 15 levels off, of which a warning tells. It
    passes over damaged packets.
    """

    def __init__(self, path: str) -> None:
        import cv2

        self._header = read_mp4(path)
        self._path = path
        self._open()
        self._colors = None
        colors = self._header.colors if self._header is not None else 2
        if colors == 2:
            height = self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            width = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
            if height >= 720 or width >= 1280:  # of films, bars are cut off
                warnings.warn(
                    'OpenCV reads the colors of HD videos up to 15 levels off where no '
                    "header of an mp4 tells which they are: for a player's, pip "
                    'install av',
                    stacklevel=2,
                )
        elif colors in (1, 7, 9):
            right = np.linalg.inv(_to_ycbcr(colors))
            self._colors = right @ _to_ycbcr(6)
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)
        if self._header is not None and self._header.frames is not None:
            self.total = self._header.frames
        else:
            while self._grab():
                pass
            self.total = self._position
            self._open()

    def _open(self) -> None:
        import cv2

        self._capture = cv2.VideoCapture(self._path)
        if self._header is not None:  # it does not mirror; 4.11 does not rotate either
            self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        self.codec = bytes(code >> shift & 255 for shift in (0, 8, 16, 24)).decode(
            'latin-1'
        )
        self._position = 0  # of the next frame
        if not self._grab():
            raise UnsupportedVideo('it decodes no frame')

    def close(self) -> None:
        self._capture.release()

    def _grab(self) -> bool:
        grabbed = self._capture.grab()
        self._position += grabbed
        return grabbed

    def read(self, indices: Sequence[int]) -> Dict[int, np.ndarray]:
        import cv2

        wanted = sorted(set(indices))
        keys = None
        if self._header is not None and self._header.constant:
            keys = self._header.keys
        if self._position > wanted[0] + 1:
            self._open()
        images = {}
        for index in wanted:
            # It steps back by 16 frames to look for a key frame.
            if keys is not None and (keys[keys < index - 16] > self._position).any():
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
                self._position = index
            while self._position <= index:
                if not self._grab():
                    raise ValueError(
                        f'only {self._position} of {self.total} frames can be decoded'
                    )
            image = cv2.cvtColor(self._capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            if self._colors is not None:
                image = cv2.transform(image, self._colors)
            if self._header is not None:
                image = _turn(image, *self._header.matrix)
            images[index] = image
        return images


_READERS = dict(pyav=PyAVReader, decord=DecordReader, opencv=OpenCVReader)


def open_video(path: str, decoder: str) -> Any:
    """A reader of an existing file; the caller closes it.

    Raises:
        UnsupportedVideo: if the decoder cannot open it, or finds no frames in it.
    """
    try:
        reader = _READERS[decoder](path)
    except UnsupportedVideo:
        raise
    except Exception as error:
        raise UnsupportedVideo(reason(error)) from error
    if reader.total < 1:
        reader.close()
        raise UnsupportedVideo('it finds no frames')
    return reader


def explain(
    path: str, decoder: str, error: UnsupportedVideo, tried: Sequence[str]
) -> str:
    """Which other decoder reads the file, or else what may be wrong with it."""
    for other in DECODERS:
        if other in tried:
            continue
        try:
            find_decoders(other)
            reader = open_video(path, other)
        except (ImportError, UnsupportedVideo):
            continue
        try:
            if reader.read([0, reader.total - 1]):
                codec = f'codec {reader.codec}: ' if reader.codec else ''
                return (
                    f'{decoder} cannot read {path} ({codec}{error}), but {other} can: '
                    f"set decoder='{other}' of ReadFrames"
                )
        except Exception:
            continue
        finally:
            reader.close()
    more = ''
    try:
        find_decoders('pyav')
    except ImportError:
        more = '. The package av reads most kinds of videos: pip install av'
    return (
        f'{decoder} cannot open {path} as a video ({error}); it may be damaged, cut '
        f'off or no video at all: {CURE}{more}'
    )
