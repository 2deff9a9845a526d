"""The authors' classifiers in numbers, and small checkpoints in their place."""

import logging
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from sparseformer_mm import SparseFormer

# With 1000 classes.
PARAMS = {'tiny': 31_522_212, 'small': 47_575_056, 'base': 81_076_996}
TOKENS = {'tiny': 49, 'small': 64, 'base': 81}
FOCUSING_DIMS = {'tiny': 256, 'small': 320, 'base': 384}
CORTEX_DIMS = {'tiny': 512, 'small': 640, 'base': 768}
DROP_PATH = {'tiny': 0.2, 'small': 0.3, 'base': 0.4}


def backbone_params(arch: str, tokens: Optional[int] = None) -> int:
    """Parameters without a classifier, of as many tokens as ``arch`` has or others."""
    count = PARAMS[arch] - 1000 * (CORTEX_DIMS[arch] + 1)
    # An embedding and a box for each token.
    more = (tokens or TOKENS[arch]) - TOKENS[arch]
    return count + more * (FOCUSING_DIMS[arch] + 4)


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


def assert_starts_from(state: dict, model: nn.Module) -> None:
    """A model initialises itself from an image classifier of fewer or as many tokens.

    All of its backbone is loaded, but for tokens where they are more: their embeddings
    come from a normal distribution, centers of RoIs are uniform, sizes one half; and
    for what restores maps. The log says so.
    """
    lines = listen()
    model.init_weights()
    loaded = model.state_dict()
    backbone = {key for key in state if key.startswith('backbone.')}
    own = ['backbone.latent.token_embeddings', 'backbone.latent.token_rois']
    embeddings, rois = (loaded[key] for key in own)
    tokens, theirs = len(rois), len(state[own[1]])
    kept = backbone if tokens == theirs else backbone - set(own)
    for key in kept:
        assert torch.equal(loaded[key], state[key]), key
    (report,) = {line for line in lines if line.startswith('SparseFormer: ')}
    maps = [key for key in loaded if key.startswith('backbone.map_decoder.')]
    assert f'{len(kept)}/{len(backbone) + len(maps)} tensors loaded' in report
    if tokens == theirs:
        assert 're-initialised' not in report
        return
    new = 'no map decoder in the checkpoint; ' if maps else ''
    new += 're-initialised: latent.token_embeddings, latent.token_rois'
    new = f'{tokens} tokens here, {theirs} in the checkpoint; {new}'
    assert f'{new}, map_decoder.' in report if maps else report.endswith(new)
    assert embeddings.shape == (tokens, 64)
    assert abs(embeddings.mean()) < 0.04
    assert 0.86 < embeddings.std() < 0.9  # cut at two deviations
    assert (rois[:, 2:] == 0.5).all()
    for axis in (0, 1):
        counts = torch.histc(rois[:, axis], 4, 0, 1)
        assert counts.sum() == tokens and counts.min() > 0.16 * tokens, counts


def listen() -> List[str]:
    """Lines logged from now on; call it when the runner is built."""
    lines: List[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    MMLogger.get_current_instance().addHandler(Handler())
    return lines
