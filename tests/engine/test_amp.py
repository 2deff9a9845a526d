"""Mixed precision without a GPU, and what it costs."""

import warnings

import pytest
import torch

from sparseformer_mm.engine import amp

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for CPUs')


@pytest.mark.parametrize('cost, warned', [(7.04, True), (0.5, False)])
def test_a_warning_says_what_bfloat16_costs(monkeypatch, cost, warned):
    monkeypatch.setattr(amp, 'bfloat16_cost', lambda: cost)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        amp.BFloat16OptimWrapper(optimizer=optimizer)
    said = [str(warning.message) for warning in caught]
    assert len(said) == warned
    assert not warned or ('7.0 times' in said[0] and 'Train without' in said[0])


def test_the_cost_is_that_of_the_products(monkeypatch):
    """Clocks that run three times as fast beside bfloat16 give three times as much."""
    time, seconds = [0.0], {torch.bfloat16: 3.0, torch.float32: 1.0}

    def clock():
        return time[0]

    def ones(size, dtype):
        class Matrix:
            def __matmul__(self, other):
                time[0] += seconds[dtype]

        return Matrix()

    monkeypatch.setattr(amp, 'perf_counter', clock)
    monkeypatch.setattr(amp.torch, 'ones', ones)
    assert amp.bfloat16_cost.__wrapped__() == 3.0
    monkeypatch.undo()
    assert amp.bfloat16_cost() > 0
