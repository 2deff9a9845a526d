"""How a command-line tool ends when something is wrong: in one line with the cure."""

import pickle
from contextlib import contextmanager
from typing import Iterator, NoReturn

import mmengine
import torch

from ..engine.data_errors import explain_data_error, stop_workers
from ..engine.model_errors import explain_model_error
from ..models.finding import CheckpointError

__all__ = ['explain_errors', 'fail']


def fail(message: str) -> NoReturn:
    """End a command-line tool with one line on stderr and status 1."""
    raise SystemExit(f'error: {message}')


@contextmanager
def explain_errors() -> Iterator[None]:
    """Add the cure to errors of the runner, and clean up after it."""
    done = False
    try:
        yield
        done = True
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
    except Exception as error:
        stop_workers(error)
        message = explain_data_error(error) or explain_model_error(error)
        if message is None:
            raise
        fail(message)
    finally:
        # Taking gloo's threads down, torch 2.1 now and then waits for one that waits
        # for it; what succeeds without a GPU leaves by finish() of launch.py.
        leaves = done and not torch.cuda.is_available()
        if torch.distributed.is_initialized() and not leaves:
            torch.distributed.destroy_process_group()
