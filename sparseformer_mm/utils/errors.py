"""How a command-line tool ends when something is wrong: in one line with the cure."""

import pickle
import re
from contextlib import contextmanager
from typing import Iterator, NoReturn

import mmengine
import torch

from ..models.layouts import CheckpointError

__all__ = ['explain_errors', 'fail']


def fail(message: str) -> NoReturn:
    """End a command-line tool with one line on stderr and status 1."""
    raise SystemExit(f'error: {message}')


@contextmanager
def explain_errors() -> Iterator[None]:
    """Add the cure to errors of the runner, and clean up after it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if 'weights_only' not in str(error):
            raise
        fail(
            f'mmengine {mmengine.__version__} cannot read checkpoints of its '
            f'own runner with torch {torch.__version__} (2.6 and later load '
            'plain weights only). Use onedl-mmengine, or torch before 2.6, '
            'or, for a file you trust, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'
        )
    except CheckpointError as error:
        fail(str(error))
    except ValueError as error:
        # What mmengine's datasets say when nothing is left to train or test on.
        if 'need at least one array to concatenate' not in str(error):
            raise
        fail(
            'a data set of the config has no picture: check that its ann_file lists '
            'images and, with filter_cfg, that they have boxes of the classes in '
            'metainfo, or (mmseg) that img_path holds files that end in img_suffix'
        )
    except AssertionError as error:
        # mmcv's loaders name the file at the end of a long traceback.
        match = re.search(r'failed to load image: (.*)', str(error))
        if match is None:
            raise
        fail(f'{match[1]} is no image that can be decoded: replace or remove it')
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
