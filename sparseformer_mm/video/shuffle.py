"""A control for video models: the same frames without their order."""

from pathlib import Path

import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


@TRANSFORMS.register_module()
class ShuffleFrames(BaseTransform):
    """Put the frames of each clip into random order, the same in every run.

    What a model still recognises after that needs no order of frames.

    Args:
        seed (int): of the orders; each video has its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def transform(self, results: dict) -> dict:
        """Reorder ``imgs`` within each clip of ``clip_len`` frames."""
        name = str(results.get('filename') or results.get('frame_dir', ''))
        # Wherever the data lies: the folder and the name of the video in it.
        name = '/'.join(Path(name).parts[-2:])
        rng = np.random.default_rng([self.seed, *name.encode()])
        frames, length = results['imgs'], results['clip_len']
        results['imgs'] = [
            frames[start + offset]
            for start in range(0, len(frames), length)
            for offset in rng.permutation(length)
        ]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(seed={self.seed})'
