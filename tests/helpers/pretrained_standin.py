"""The authors' classifiers in numbers, and small checkpoints in their place."""

import logging
from pathlib import Path
from typing import List

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from sparseformer_mm import SparseFormer

# With 1000 classes.
PARAMS = {'tiny': 31_522_212, 'small': 47_575_056, 'base': 81_076_996}
TOKENS = {'tiny': 49, 'small': 64, 'base': 81}
FOCUSING_DIMS = {'tiny': 256, 'small': 320, 'base': 384}
CORTEX_DIMS = {'tiny': 512, 'small': 640, 'base': 768}
DROP_PATH = {'tiny': 0.2, 'small': 0.3, 'base': 0.4}


def save_classifier(cfg: Config, path: Path) -> dict:
    """Write a classifier's checkpoint, with as many tokens as the size has.

    Args:
        cfg: of a detector or segmentor; its backbone's ``arch`` counts.
        path: of the file.

    Returns:
        dict: its weights.
    """
    torch.manual_seed(1)
    backbone = SparseFormer(
        cfg.model.backbone.arch, focusing_repeats=1, focusing_dims=64, cortex_dims=64
    ).state_dict()
    state = {f'backbone.{key}': value + 0.01 for key, value in backbone.items()}
    state['head.fc.weight'] = torch.zeros(1000, 64)
    state['head.fc.bias'] = torch.zeros(1000)
    torch.save(dict(state_dict=state, meta={}), path)
    return state


def listen() -> List[str]:
    """Lines logged from now on; call it when the runner is built."""
    lines: List[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    MMLogger.get_current_instance().addHandler(Handler())
    return lines
