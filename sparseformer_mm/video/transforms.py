"""Frames for mmaction2's pipelines, from video files, frame folders or arrays."""

import os
from contextlib import closing

import mmcv
import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from .decoding import (
    CURE,
    DECODERS,
    UnsupportedVideo,
    explain,
    find_decoders,
    open_video,
    reason,
)


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
        raise ValueError(f'the video {path} is empty (0 bytes): {CURE}')
    return path


@TRANSFORMS.register_module()
class ReadFrames(BaseTransform):
    """Sample and read frames, whatever they are stored in.

    It stands for three of mmaction2's steps (init, sampling, decoding), for the same
    pipeline to read video files (``filename``, from ``VideoDataset``), raw frames
    (``frame_dir``, from ``RawframeDataset``) and arrays (``array``, T x H x W x 3, from
    ``MMAction2Inferencer``). A sampler of mmaction2 picks the frames; it loops a video
    which is shorter than the clip. Where frames cannot be had, one error names the
    file, the cause and the cure; it survives the way out of a data loader's worker.

    Frames of a video file are those that a player shows, in its order: frame ``i`` is
    the i-th picture on the screen, whatever the frame rate, after the edit list of an
    mp4 or mov file (as of a clip cut without coding it anew), and upright, as its
    display matrix says. Pixels stay as they are stored where a player would stretch
    them to another aspect ratio. A decoder that would give other frames is refused, by
    an error that names one that does not.

    A video that is damaged or cut off is an error, except where a decoder finds whole
    frames up to its new end: these are the video then. OpenCV passes over damage inside
    of files other than mp4 and mov.

    Args:
        sample (dict): A sampler of mmaction2, such as ``SampleFrames``,
            ``UniformSample`` or ``DenseSampleFrames``.
        decoder (str): For video files: 'pyav', 'decord', 'opencv', or 'auto', for each
            file the first of them that is installed and can read it. PyAV reads the
            most kinds, and need not decode all frames before those it is asked for in
            mp4, mov, mkv and webm files; the others need not in plain mp4 and mov files
            only. decord reads neither AV1 nor GIF nor MPEG-TS. OpenCV does not read
            AV1, and shifts the colors of HD videos by up to 15 levels.

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
        self.decoder = decoder
        self._decoders = find_decoders(decoder)
        self.decode = dict(
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
                f'({reason(error)}): change sample=dict(...) of ReadFrames'
            ) from error

    def _read_video(self, results: dict) -> str:
        path = _find_video(results['filename'])
        results['filename'] = path
        results.setdefault('start_index', 0)
        errors = {}
        for decoder in self._decoders:
            try:
                with closing(open_video(path, decoder)) as reader:
                    self._decode_video(results, reader, decoder)
                return path
            except UnsupportedVideo as error:
                errors[decoder] = error
        decoder, error = next(iter(errors.items()))
        raise ValueError(explain(path, decoder, error, list(errors))) from error

    def _decode_video(self, results: dict, reader, decoder: str) -> None:
        path = results['filename']
        total = None
        while total != reader.total:  # which reading may correct
            total = reader.total
            if total < 1:
                raise UnsupportedVideo('no frame can be decoded')
            results.update(total_frames=total, avg_fps=reader.fps)
            self._sample(results, path)
            inds = results['frame_inds'].tolist()
            if min(inds) < 0 or max(inds) >= total:
                raise ValueError(
                    f'frames {min(inds)} to {max(inds)} were sampled from {path}, '
                    f'which has 0 to {total - 1}: set start_index=0 of the data set'
                )
            try:
                images = reader.read(inds)
            except UnsupportedVideo:
                raise
            except Exception as error:
                others = [f"'{name}'" for name in DECODERS if name != decoder]
                raise ValueError(
                    f'{decoder} cannot decode {path} ({reason(error)}); it is damaged '
                    f'or cut off: {CURE}, or try decoder={" or ".join(others)} of '
                    'ReadFrames'
                ) from error
        results['imgs'] = [images[index] for index in inds]

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
            f'({reason(error)}): {self._describe(results)}'
        ) from error

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sample={self.sampler}, decoder={self.decoder!r})'
