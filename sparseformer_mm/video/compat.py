"""Let mmaction2 1.2.0, its last release, be imported and used.

Two things stand in the way of its import: it asserts mmcv < 2.2 without using
anything that changed there, and its wheel lacks the folder
``mmaction/models/localizers/drn``, which it imports. With numpy 2, its
``ColorJitter`` ends in an OverflowError whenever it draws a negative hue. In bfloat16
(``--amp`` on a CPU), its heads cannot count hits, since numpy has no such type. (Its
transforms for skeletons, which numpy 2 breaks too, are not looked after.)

Besides, its lists of videos are checked line by line as they are read (see
``lists.py``); empty lines and a byte order mark are no hindrance.

Importing this module cures that, in this process only, and only where needed: nothing
on disk changes, and an mmaction2 without these faults is left alone. The tools of
this package do so; elsewhere add

    custom_imports = dict(imports=['sparseformer_mm.video.compat'])

to the config. It must run before ``mmaction.models`` is imported for the first time.
Where data loaders start their workers by 'spawn', the main script has to import it
at its top: a worker runs that first, and takes mmaction2's data set out of its
parcel next.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from importlib.machinery import ModuleSpec
from multiprocessing import current_process
from pathlib import Path
from typing import List

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.utils import digit_version

from .lists import check_video_dataset, read_lines

_FIRST_REFUSED_MMCV = '2.2.0'
_DRN = 'mmaction.models.localizers.drn'


class DRN:
    """Stands for the localizer whose code the release forgot."""

    def __init__(self, *args, **kwargs):
        raise ImportError(
            'DRN is not in the released mmaction2 1.2.0; install '
            'mmaction2 from its source repository to use it'
        )


def _import_mmaction() -> List[str]:
    """Import the package itself, past its assertion on mmcv."""
    try:
        importlib.import_module('mmaction')
        return []
    except AssertionError:
        import mmcv

        version = mmcv.__version__
        if digit_version(version) < digit_version(_FIRST_REFUSED_MMCV):
            raise  # it has another reason
    mmcv.__version__ = '2.1.0'
    try:
        importlib.import_module('mmaction')
    finally:
        mmcv.__version__ = version
    return [f'its limit on mmcv (here {version}) was lifted']


def _fill_localizers() -> List[str]:
    """Put a module where the release has none, if it means to import it."""
    if 'mmaction.models' in sys.modules or _DRN in sys.modules:
        return []
    folder = Path(sys.modules['mmaction'].__file__).parent / 'models' / 'localizers'
    imports = folder / '__init__.py'
    if (folder / 'drn').is_dir() or not imports.is_file():
        return []
    if 'from .drn' not in imports.read_text('utf-8'):
        return []
    for name in (_DRN, f'{_DRN}.drn'):
        stand_in = importlib.util.module_from_spec(
            ModuleSpec(name, loader=None, is_package=True)
        )
        stand_in.DRN = DRN
        sys.modules[name] = stand_in
    return ['a stand-in was put for the localizer DRN, which the release lacks']


def _shift_hue(img: np.ndarray, factor: float) -> np.ndarray:
    """Turn the hue of an RGB image with values from 0 to 255.

    Args:
        img (np.ndarray): (H, W, 3), float.
        factor (float): -0.5 to 0.5, in units of 255 of OpenCV's 180 steps of hue.
    """
    import cv2

    pixels = np.clip(img, 0, 255).astype(np.uint8)
    hue, saturation, value = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    hue = (hue.astype(np.int16) + int(factor * 255)) % 180
    turned = cv2.merge([hue.astype(np.uint8), saturation, value])
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB).astype(np.float32)


def _mend_hue() -> List[str]:
    """Replace the method that adds a negative int to uint8."""
    if digit_version(np.__version__) < digit_version('2.0.0'):
        return []
    from mmaction.datasets.transforms.processing import ColorJitter

    try:
        ColorJitter.adjust_hue(np.zeros((1, 1, 3), np.float32), -0.1)
        return []
    except OverflowError:
        ColorJitter.adjust_hue = staticmethod(_shift_hue)
    return [f'the hue of ColorJitter was mended for numpy {np.__version__}']


def _mend_bfloat16() -> List[str]:
    """Let heads take the loss and the accuracy of bfloat16 scores in float32."""
    try:
        from mmaction.models.heads.base import BaseHead
    except (ImportError, AssertionError):
        return []  # whoever needs the models is told why there are none

    loss_by_feat = BaseHead.loss_by_feat
    try:
        source = inspect.getsource(loss_by_feat)
    except OSError:
        return []  # compiled files only: leave it alone
    if 'cls_scores.detach().cpu().numpy()' not in source:
        return []

    @functools.wraps(loss_by_feat)
    def loss_in_float32(self, cls_scores, data_samples):
        if cls_scores.dtype is torch.bfloat16:
            cls_scores = cls_scores.float()
        return loss_by_feat(self, cls_scores, data_samples)

    # Its source is this function's: a second time finds nothing to do.
    del loss_in_float32.__wrapped__
    BaseHead.loss_by_feat = loss_in_float32
    return ['heads were taught bfloat16']


def _check_lists() -> None:
    """Have an error name the line of a list that cannot be meant."""
    try:
        from mmaction.datasets import rawframe_dataset, video_dataset
    except (ImportError, AssertionError):
        return  # whoever needs the data sets is told why there are none
    if video_dataset.list_from_file is read_lines:
        return

    def check_first(load):
        @functools.wraps(load)
        def load_data_list(self):
            check_video_dataset(self)
            return load(self)

        return load_data_list

    for module, name in (
        (video_dataset, 'VideoDataset'),
        (rawframe_dataset, 'RawframeDataset'),
    ):
        module.list_from_file = read_lines
        dataset = getattr(module, name)
        dataset.load_data_list = check_first(dataset.load_data_list)


def apply() -> List[str]:
    """Import mmaction and fill its gaps.

    Returns:
        list: a sentence per thing that was done; empty where nothing was needed.

    Raises:
        ModuleNotFoundError: if mmaction2 is not installed.
    """
    if importlib.util.find_spec('mmaction') is None:
        raise ModuleNotFoundError(
            'sparseformer_mm.video needs mmaction2: pip install mmaction2==1.2.0',
            name='mmaction',
        )
    done = _import_mmaction() + _fill_localizers() + _mend_hue() + _mend_bfloat16()
    _check_lists()
    # One process speaks for those that share its work: the other ranks, and those it
    # starts itself as new interpreters, such as workers of data loaders.
    rank = os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0'
    if done and rank == '0' and current_process().name == 'MainProcess':
        version = sys.modules['mmaction'].__version__
        print_log(f'mmaction2 {version}: {"; ".join(done)}', 'current')
    return done


apply()
