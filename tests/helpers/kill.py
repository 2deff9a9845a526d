"""A hook that kills its own process as a machine does that is switched off."""

import os
import signal

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

# Appended to a config.
CONFIG = """
custom_imports = dict(imports=['helpers.kill'])
custom_hooks = [dict(type='KillHook')]
"""


def _put_half(self, content: bytes, path: str) -> None:
    with open(path, 'wb') as file:
        file.write(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class KillHook(Hook):
    """Kills in iteration ``$KILL_AT``, or, with ``$KILL_WRITING``, when half of the
    first checkpoint from then on is written. Without the first, never."""

    def __init__(self):
        at = os.environ.get('KILL_AT')
        self.at = float('inf') if at is None else int(at)
        self.writing = 'KILL_WRITING' in os.environ

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter >= self.at and not self.writing:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        if runner.iter >= self.at and self.writing:
            LocalBackend.put = _put_half
