"""Frames for mmaction2's pipelines, from video files, frame folders or arrays."""

import importlib
import os
import re
from typing import Any, List, Tuple

import mmcv
import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

# decoder -> (what to import, what pip calls it), the order is the one of 'auto'
_DECODERS = dict(
    decord=('decord', 'decord'),
    pyav=('av', 'av'),
    opencv=('cv2', 'opencv-python'),
)
_CURE = 'copy or download it again, or delete its line from ann_file'
# decord pads the rows of frames which are 1, 2, 4, 8, 16, 24, 48 or 72 pixels wide,
# and then fails on their size.
_NARROW = 'it cannot read videos of this width'


def _reason(error: Exception) -> str:
    """Type and first line, without decord's time stamps and C++ file names."""
    lines = str(error).strip().splitlines() or ['']
    text = re.sub(r'^(\[[\d:]+\] \S+: )+', '', lines[0])
    return f'{type(error).__name__}: {text[:200]}'


def _find_decoders(decoder: str) -> List[str]:
    """Those of the names asked for that can be imported, at least one."""
    if decoder not in ('auto', *_DECODERS):
        raise ValueError(f"decoder='{decoder}' is none of auto, {', '.join(_DECODERS)}")
    names = list(_DECODERS) if decoder == 'auto' else [decoder]
    found = []
    for name in names:
        try:
            importlib.import_module(_DECODERS[name][0])
            found.append(name)
        except ImportError as error:
            reason = error
    if not found:
        packages = ' or '.join(_DECODERS[name][1] for name in names)
        raise ImportError(
            f"decoder='{decoder}' needs {packages} ({_reason(reason)}): pip install "
            f'{_DECODERS[names[0]][1]}'
        )
    return found


def _find_video(filename: str) -> str:
    """The path of an existing file with something in it.

    As mmaction2's decord step does, a name without extension may mean an mp4.
    """
    path = os.fspath(filename)
    if not os.path.splitext(path)[1] and not os.path.exists(path):
        path = path + '.mp4' if os.path.isfile(path + '.mp4') else path
    if os.path.isdir(path):
        raise ValueError(
            f'{path} is a folder, not a video file: read raw frames with '
            "RawframeDataset, with input_format='rawframes' of the inferencer, or "
            'from a dictionary with frame_dir, total_frames and filename_tmpl'
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'there is no video {path} (seen from {os.getcwd()}): check '
            'data_prefix=dict(video=...) and the paths in ann_file'
        )
    if os.path.getsize(path) == 0:
        raise ValueError(f'the video {path} is empty (0 bytes): {_CURE}')
    return path


def _open_video(path: str, decoder: str) -> Tuple[Any, int, float]:
    """A reader, the number of frames and frames per second (0 if unknown)."""
    if decoder == 'decord':
        import decord

        # From its path: on a cut off file in memory, decord ends the process.
        reader = decord.VideoReader(path, num_threads=1)
        return reader, len(reader), reader.get_avg_fps()
    if decoder == 'opencv':
        reader = mmcv.VideoReader(path)
        return reader, len(reader), reader.fps
    import av

    # Many containers (mkv, webm, ts, fragmented mp4) do not say how many frames
    # they hold, others do not hold what they say: count the packets.
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError('it has no video stream')
        fps = float(container.streams.video[0].average_rate or 0)
        total = sum(packet.size > 0 for packet in container.demux(video=0))
    return av.open(path), total, fps


class _PyAVDecode(BaseTransform):
    """mmaction2's own step keeps every frame up to the last one that is asked for,
    and continues with the first frame where a video ends too early."""

    def transform(self, results: dict) -> dict:
        """Decode ``frame_inds``; the last frame stands for those beyond the end."""
        inds = results['frame_inds'].tolist()
        wanted, end = set(inds), max(inds)
        images, frame = {}, None
        for index, frame in enumerate(results['video_reader'].decode(video=0)):
            if index in wanted:
                images[index] = frame.to_ndarray(format='rgb24')
            if index == end:
                break
        if frame is None:
            raise ValueError('no frame can be decoded')
        if index < end:
            images[index] = frame.to_ndarray(format='rgb24')
        results['imgs'] = [images[min(i, index)] for i in inds]
        return results


@TRANSFORMS.register_module()
class ReadFrames(BaseTransform):
    """Sample and read frames, whatever they are stored in.

    It stands for three of mmaction2's steps (init, sampling, decoding), for the same
    pipeline to read video files (``filename``, from ``VideoDataset``), raw frames
    (``frame_dir``, from ``RawframeDataset``) and arrays (``array``, T x H x W x 3, from
    ``MMAction2Inferencer``). A sampler of mmaction2 picks the frames; it loops a video
    which is shorter than the clip. Where frames cannot be had, one error names the
    file, the cause and the cure; it survives the way out of a data loader's worker.

    A video that is damaged or cut off is an error, except where decord and PyAV find
    whole frames up to its new end: these are the video then. OpenCV does not tell, and
    repeats the last good frame.

    Args:
        sample (dict): A sampler of mmaction2, such as ``SampleFrames``,
            ``UniformSample`` or ``DenseSampleFrames``.
        decoder (str): For video files: 'decord', 'pyav', 'opencv', or 'auto', the
            first of them that is installed, and the second for videos of a width that
            decord cannot read (48 or 72 pixels, and some below). decord is fast, but
            drops the first frames of MPEG-TS and fragmented mp4 files with B-frames.

    Raises:
        ImportError: if the decoder is not installed.
        FileNotFoundError: if a video, a folder or a frame in it does not exist.
        ValueError: if a video or a frame cannot be read, or not be sampled from.

    Example:
        >>> pipeline = [
        ...     dict(
        ...         type='sparseformer_mm.video.ReadFrames',
        ...         sample=dict(type='SampleFrames', clip_len=32, frame_interval=4),
        ...     ),
        ...     dict(type='Resize', scale=(-1, 256)),
        ... ]
    """

    def __init__(self, sample: dict, decoder: str = 'auto') -> None:
        self.sampler = TRANSFORMS.build(sample)
        self.decoder, *others = _find_decoders(decoder)
        self.spare_decoder = others[0] if others else None
        self.decode = dict(
            decord=TRANSFORMS.build(dict(type='DecordDecode')),
            pyav=_PyAVDecode(),
            opencv=TRANSFORMS.build(dict(type='OpenCVDecode')),
            folder=TRANSFORMS.build(dict(type='RawFrameDecode')),
            array=TRANSFORMS.build(dict(type='ArrayDecode')),
        )

    def transform(self, results: dict) -> dict:
        """Add ``imgs``, a list of H x W x 3 uint8 arrays in RGB, and their layout.

        Clips follow each other in ``imgs``, with ``clip_len`` frames each.
        """
        # MMAction2Inferencer puts DecordInit in front of pipelines that begin with
        # anything but an init step.
        results.pop('video_reader', None)
        results.setdefault('modality', 'RGB')
        if 'array' in results:
            name = self._read_array(results)
        elif 'frame_dir' in results:
            name = self._read_folder(results)
        elif 'filename' in results:
            name = self._read_video(results)
        else:
            raise ValueError(
                'ReadFrames needs a filename, a frame_dir or an array; the data set '
                f'gives {sorted(results)}'
            )
        shapes = sorted({image.shape for image in results['imgs']})
        if len(shapes) > 1:
            raise ValueError(
                f'the frames of {name} differ in size ({shapes}): bring them to one '
                'size, or delete its line from ann_file'
            )
        # Each its own: Flip works in place, and a looped frame would be flipped twice.
        results['imgs'] = [np.array(image, order='C') for image in results['imgs']]
        results['original_shape'] = results['img_shape'] = shapes[0][:2]
        return results

    def _sample(self, results: dict, name: str) -> None:
        """Let the sampler choose ``frame_inds`` of ``total_frames``."""
        total = results['total_frames']
        try:
            self.sampler(results)
            shape = (-1, results['num_clips'], results['clip_len'])
            results['frame_inds'].reshape(shape)  # as FormatShape will
        except Exception as error:
            raise ValueError(
                f'{self.sampler} cannot sample the {total} frames of {name} '
                f'({_reason(error)}): change sample=dict(...) of ReadFrames'
            ) from error

    def _read_video(self, results: dict) -> str:
        path = _find_video(results['filename'])
        try:
            self._decode_video(results, path, self.decoder)
        except ValueError as error:
            if self.spare_decoder is None or _NARROW not in str(error):
                raise
            self._decode_video(results, path, self.spare_decoder)
        return path

    def _decode_video(self, results: dict, path: str, decoder: str) -> None:
        try:
            reader, total, fps = _open_video(path, decoder)
        except Exception as error:
            raise ValueError(
                f'{decoder} cannot open {path} as a video ({_reason(error)}); it may '
                f'be damaged, cut off or no video at all: {_CURE}'
            ) from error
        try:
            if total < 1:
                raise ValueError(
                    f'{decoder} finds no frames in {path}; it may be damaged, cut off '
                    f'or no video at all: {_CURE}'
                )
            results.update(
                filename=path, video_reader=reader, total_frames=total, avg_fps=fps
            )
            results.setdefault('start_index', 0)
            self._sample(results, path)
            inds = results['frame_inds']
            if inds.min() < 0 or inds.max() >= total:
                raise ValueError(
                    f'frames {inds.min()} to {inds.max()} were sampled from {path}, '
                    f'which has 0 to {total - 1}: set start_index=0 of the data set'
                )
            try:
                self.decode[decoder](results)
            except Exception as error:
                others = [f"'{name}'" for name in _DECODERS if name != decoder]
                cause = (
                    f'{_NARROW}: set'
                    if 'size must exactly match' in str(error)
                    else f'it is damaged or cut off: {_CURE}, or try'
                )
                raise ValueError(
                    f'{decoder} cannot decode {path} ({_reason(error)}); {cause} '
                    f'decoder={" or ".join(others)} of ReadFrames'
                ) from error
        finally:
            results.pop('video_reader', None)
            if decoder == 'pyav':
                reader.close()

    def _read_array(self, results: dict) -> str:
        shape = np.shape(results['array'])
        if len(shape) != 4 or shape[0] < 1 or shape[-1] != 3:
            raise ValueError(
                f'an array of frames has the shape (T, H, W, 3), not {tuple(shape)}'
            )
        results['total_frames'] = shape[0]
        results.setdefault('start_index', 0)
        self._sample(results, 'the array')
        self.decode['array'](results)
        return 'the array'

    def _read_folder(self, results: dict) -> str:
        folder = results['frame_dir']
        if os.path.isfile(folder):
            raise ValueError(
                f'{folder} is a file, not a folder of frames: list videos in a '
                'VideoDataset with data_prefix=dict(video=...)'
            )
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f'there is no folder of frames {folder} (seen from {os.getcwd()}): '
                'check data_prefix=dict(img=...) and the paths in ann_file'
            )
        results.setdefault('start_index', 1)
        results.setdefault('filename_tmpl', 'img_{:05}.jpg')
        if (results.get('total_frames') or 0) < 1:
            raise ValueError(
                f'total_frames={results.get("total_frames")} of {folder}: '
                + self._describe(results)
            )
        self._sample(results, folder)
        try:
            self.decode['folder'](results)
        except Exception as error:
            self._explain(results, error)
        return folder

    @staticmethod
    def _describe(results: dict) -> str:
        """What is in the folder, and what that has to be compared with."""
        names = sorted(os.listdir(results['frame_dir']))
        found = f', from {names[0]} to {names[-1]}' if names else ''
        return (
            f'the folder holds {len(names)} files{found}; make the number of frames in '
            f"ann_file, filename_tmpl='{results['filename_tmpl']}' and "
            f'start_index={results["start_index"]} of the data set agree with them'
        )

    def _explain(self, results: dict, error: Exception) -> None:
        """Raise an error which names the frame that could not be read."""
        offset = results.get('offset', 0)
        for index in sorted(set(results['frame_inds'].tolist())):
            try:
                name = results['filename_tmpl'].format(index + offset)
            except (IndexError, KeyError, ValueError):
                break  # not a name for RGB frames
            path = os.path.join(results['frame_dir'], name)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f'there is no frame {path}, although {results["total_frames"]} '
                    f'frames are listed: {self._describe(results)}'
                ) from error
            try:
                image = mmcv.imread(path)
            except Exception:
                image = None
            if image is None:
                raise ValueError(
                    f'the frame {path} ({os.path.getsize(path)} bytes) cannot be '
                    'decoded: copy or extract it again, or delete the line of its '
                    'folder from ann_file'
                ) from error
        raise ValueError(
            f'the frames of {results["frame_dir"]} cannot be read '
            f'({_reason(error)}): {self._describe(results)}'
        ) from error

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sample={self.sampler}, decoder={self.decoder!r})'
