"""get_flops.py and benchmark.py."""

import importlib.util
import json
import sys

import pytest
import torch

from helpers.toy_training import ROOT, write_config
from sparseformer_mm.utils.configs import build_model


def load(name: str):
    path = ROOT / 'tools' / 'analysis_tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


get_flops, benchmark = load('get_flops'), load('benchmark')


def flops(capsys, *argv) -> dict:
    get_flops.main([*argv, '--json'])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    'arch, params, giga_macs',
    [
        ('tiny', 31_522_212, 2.18),
        ('small', 47_575_056, 3.99),
        ('base', 81_076_996, 7.99),
    ],
)
def test_published_sizes(capsys, arch, params, giga_macs):
    report = flops(capsys, f'sparseformer-{arch}')
    assert report['params'] == params
    # Five times, each token multiplies 36 x C features with C x C and 36 x 36 weights.
    tokens = dict(tiny=49, small=64, base=81)[arch]
    mixing = 5 * tokens * (36 * 96 * 96 + 36 * 36 * 96)
    assert report['macs'] - report['macs_as_published'] == mixing
    assert report['macs'] / 1e9 == pytest.approx(giga_macs, rel=0.01)
    for key in ('params', 'macs'):
        assert sum(p[key] for p in report['parts'].values()) == report[key]
    assert {'backbone.stem', 'backbone.focusing', 'backbone.cortex', 'head'} <= set(
        report['parts']
    )


def test_table_explains_the_published_figures(capsys):
    get_flops.main(['sparseformer-tiny', '--shape', '64', '64'])
    out = capsys.readouterr().out
    assert '31,522,212' in out and 'leaves out: 1.90 G' in out


def test_flops_of_a_config(capsys, tmp_path):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'toy.py', tmp_path)
    report = flops(
        capsys,
        str(config),
        '--shape',
        '32',
        '48',
        '--cfg-options',
        'model.backbone.arch.num_tokens=2',
    )
    assert report['parts']['head']['macs'] == 32 * 3
    stem = 16 * 24 * 7 * 7 * 3 * 16
    assert report['parts']['backbone.stem']['macs'] == stem


def test_model_shipped_by_a_library(capsys):
    pytest.importorskip('mmpretrain')
    report = flops(capsys, 'mmpretrain:resnet18')
    assert report['params'] == 11_689_512
    assert report['macs'] / 1e9 == pytest.approx(1.81, rel=0.01)


@pytest.mark.parametrize(
    'argv, message',
    [
        (['sparseformer-tiny', '--shape', '3'], '--shape must be H W or T H W'),
        (['sparseformer-tiny', '--shape', '8', '9', '9'], 'needs --shape H W'),
        (['none.py'], 'no config file none.py'),
        (['tiny'], 'neither a config file nor'),
    ],
)
def test_get_flops_errors(capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        get_flops.main(argv)
    assert message in capsys.readouterr().err + str(end.value)


@pytest.fixture
def minis(tmp_path, monkeypatch):
    """Two small models, by names that the benchmark knows."""

    def build(name, options=None):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, int(name), 4, 4),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * int(name), 10),
        )

    monkeypatch.setattr(benchmark, 'build_model', build)
    return tmp_path


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_benchmark(minis, capsys, mode):
    benchmark.main(
        [
            '4',
            '8',
            '--mode',
            mode,
            '--shape',
            '32',
            '32',
            '--batch-size',
            '2',
            '--rounds',
            '3',
            '--seconds',
            '0.002',
            '--device',
            'cpu',
            '--amp',
            'bf16',
            '--channels-last',
            '--no-memory',
            '--markdown',
            '--json',
            str(minis / 'out.json'),
        ]
    )
    out = capsys.readouterr().out
    assert out.startswith(f'{mode}, batch 2, 32x32, bf16, channels-last')
    assert '| model' in out
    result = json.loads((minis / 'out.json').read_text())
    assert result['environment']['torch'] == torch.__version__
    assert result['settings']['baseline'] == '4'
    first, second = result['models']
    assert first['over_baseline']['range'] == [1, 1]
    ratios = sorted(b / a for a, b in zip(first['rounds'], second['rounds']))
    assert len(ratios) == 3
    assert second['over_baseline']['median'] == pytest.approx(ratios[1])
    assert second['over_baseline']['range'] == pytest.approx(ratios[::2])
    assert second['baseline_over']['median'] == pytest.approx(1 / ratios[1])


def test_benchmark_training_step_trains(minis):
    args = benchmark.parse_args(
        [
            '4',
            '--mode',
            'train',
            '--shape',
            '32',
            '32',
            '--batch-size',
            '2',
            '--device',
            'cpu',
        ]
    )
    model = benchmark.build_model('4')
    before = [p.clone() for p in model.parameters()]
    benchmark.make_step(model, args)()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_benchmark_peak_memory_in_its_own_process(tmp_path):
    argv = [
        'sparseformer-tiny',
        '--shape',
        '32',
        '32',
        '--batch-size',
        '1',
        '--device',
        'cpu',
        '--threads',
        '1',
    ]
    peaks = benchmark.measure_memory(benchmark.parse_args(argv), argv)
    weights = 4 * 31_522_212 / 2**20
    assert weights < peaks['sparseformer-tiny'] < 3 * weights


@pytest.mark.parametrize(
    'argv, message',
    [
        (['a', 'a'], 'only once'),
        (['a', '--baseline', 'b'], 'not one of'),
        (['a', '--batch-size', '0'], 'must be positive'),
        (['a', '--device', 'cpu', '--amp', 'fp16'], 'bf16 on a CPU'),
    ],
)
def test_benchmark_errors(capsys, argv, message):
    with pytest.raises(SystemExit):
        benchmark.parse_args(argv)
    assert message in capsys.readouterr().err


def test_dense_outputs_have_a_loss_too():
    outputs = [torch.ones(2, 3, 4, 4), (torch.ones(2, 5, 6),)]
    assert benchmark._loss(outputs, torch.zeros(2).long()) == 2


def test_pretrained_weights_are_not_fetched(tmp_path):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'toy.py', tmp_path)
    config.write_text(
        config.read_text()
        + (
            "model['backbone']['init_cfg'] = dict(\n"
            "    type='Pretrained', checkpoint='http://nowhere.invalid/x.pth')\n"
        )
    )
    build_model(str(config))
