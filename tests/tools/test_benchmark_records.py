"""benchmark.py --record-stages: the same model, with and without a recording."""

import json
from collections import Counter

import pytest
import torch
from test_analysis_tools import benchmark
from torch.utils._python_dispatch import TorchDispatchMode

from sparseformer_mm import SparseFormer

ARCH = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=16,
    cortex_depth=1,
    num_heads=4,
    feat_channels=8,
)
ARGV = ['x', '--shape', '32', '32', '--batch-size', '2', '--device', 'cpu']


@pytest.fixture
def recorded(monkeypatch):
    """By the names of its models: how many stages each forward pass recorded."""
    seen: dict = {}

    def build(name, options=None):
        torch.manual_seed(0)
        model = SparseFormer(ARCH)
        calls = seen.setdefault(len(seen), [])

        def after(module, args, kwargs, output):
            stages = kwargs.get('stages')
            calls.append(None if stages is None else len(stages))

        model.register_forward_hook(after, with_kwargs=True)
        return model

    monkeypatch.setattr(benchmark, 'build_model', build)
    return seen


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_every_second_row_records(recorded, tmp_path, capsys, mode):
    file = tmp_path / 'out.json'
    extra = ['--rounds', '3', '--seconds', '0.001', '--warmup', '1', '--no-memory']
    benchmark.main(
        [*ARGV, *extra, '--mode', mode, '--record-stages', '--json', str(file)]
    )
    result = json.loads(file.read_text())
    assert [model['name'] for model in result['models']] == ['x', 'x+stages']
    assert result['settings']['baseline'] == 'x'
    assert {len(model['rounds']) for model in result['models']} == {3}
    plain, recording = recorded.values()
    assert len(plain) >= 5 and set(plain) == {None}
    # Two of the repeats and the cortex's, anew each time.
    assert len(recording) >= 5 and set(recording) == {3}
    assert '\nx+stages ' in capsys.readouterr().out


def test_without_the_option_nothing_records(recorded):
    args = benchmark.parse_args(ARGV)
    assert args.models == ['x']
    benchmark.make_step(benchmark.build('x', args), args)()
    assert recorded == {0: [None]}


def test_other_models_have_nothing_to_record(monkeypatch):
    monkeypatch.setattr(benchmark, 'build_model', lambda *_: torch.nn.Linear(1, 1))
    args = benchmark.parse_args(['y', '--record-stages'])
    assert args.models == ['y', 'y+stages']
    benchmark.build('y', args)
    with pytest.raises(SystemExit, match='no SparseFormer in y; leave it out'):
        benchmark.build('y+stages', args)


def test_recording_costs_views_only():
    """Which operations run: no clock is as exact."""

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names: list = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.name())
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    model = SparseFormer(ARCH).eval()
    images = torch.rand(2, 3, 32, 32)
    names, outputs = [], []
    for stages in (None, []):
        with torch.no_grad(), Count() as count:
            outputs.append(model(images, stages=stages)[0])
        names.append(Counter(count.names))
    assert len(stages) == 3
    assert torch.equal(*outputs)
    assert not names[0] - names[1]
    # RoIs and points of each stage, for the whole batch: no copies.
    assert names[1] - names[0] == {'aten::expand': 2 * 3}
