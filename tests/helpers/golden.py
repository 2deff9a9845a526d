"""The authors' code on random weights in float64 (tests/data), and its models."""

from pathlib import Path

import numpy as np
import torch

from sparseformer_mm import SparseFormer

DATA = Path(__file__).parents[1] / 'data'

# The architecture behind the first paper's files, but for tokens and points.
GOLDEN_ARCH = dict(
    focusing_dims=64,
    cortex_dims=128,
    focusing_repeats=2,
    cortex_depth=2,
    feat_channels=16,
    num_heads=64,
)
IMAGE_ARCH = dict(GOLDEN_ARCH, num_tokens=9, num_points=9)
VIDEO_ARCH = dict(GOLDEN_ARCH, num_tokens=4, num_points=36)

BOOTSTRAPPED_SIZES = dict(
    num_tokens=8,
    num_points=9,
    focusing_dims=64,
    focusing_repeats=2,
    cortex_dims=128,
    cortex_depth=3,
    feat_channels=16,
)


class Golden(dict):
    """Arrays of one file as tensors, by name."""

    def __init__(self, name: str):
        with np.load(DATA / name) as file:
            super().__init__({k: torch.from_numpy(file[k]) for k in file.files})

    def part(self, prefix: str = 'state/'):
        """The entries under a prefix, without it."""
        return {k[len(prefix) :]: v for k, v in self.items() if k.startswith(prefix)}


def golden_model(state, arch, dtype=torch.float64, **kwargs):
    model = SparseFormer(arch, **kwargs).to(dtype)
    model.load_state_dict(state)
    return model.eval()


def classify(pooled, state):
    """The authors' classifier, from a state under this package's names."""
    weight, bias = state['head.weight'].to(pooled), state['head.bias'].to(pooled)
    return pooled @ weight.t() + bias
