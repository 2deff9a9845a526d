"""get_flops.py and benchmark.py."""

import json
import sys

import pytest
import torch

from helpers.scripts import load_tool, run_tool
from helpers.toy_classifier import write_config
from sparseformer_mm.models import kernels
from sparseformer_mm.utils.configs import build_model

get_flops = load_tool('analysis_tools/get_flops')
benchmark = load_tool('analysis_tools/benchmark')
SMALL = ['--shape', '32', '32', '--device', 'cpu']


def flops(arguments: str) -> dict:
    status, output = run_tool(get_flops, *arguments.split(), '--json')
    assert status == 0, output
    return json.loads(output[output.index('{') :])  # after warnings, if any


@pytest.mark.parametrize(
    'arch, params, giga_macs',
    [
        ('tiny', 31_522_212, 2.18),
        ('small', 47_575_056, 3.99),
        ('base', 81_076_996, 7.99),
    ],
)
def test_published_sizes(arch, params, giga_macs):
    report = flops(f'sparseformer-{arch}')
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


def test_table_explains_the_published_figures():
    _, out = run_tool(get_flops, 'sparseformer-tiny', '--shape', 64, 64)
    assert '31,522,212' in out and 'leaves out: 1.90 G' in out


def test_flops_of_a_config(tmp_path):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'toy.py', tmp_path)
    options = 'model.backbone.arch.num_tokens=2'
    report = flops(f'{config} --shape 32 48 --cfg-options {options}')
    assert report['parts']['head']['macs'] == 32 * 3
    stem = 16 * 24 * 7 * 7 * 3 * 16
    assert report['parts']['backbone.stem']['macs'] == stem
    for part in ('backbone', 'features'):  # it has no neck
        of_part = flops(f'{config} --shape 32 48 --cfg-options {options} --part {part}')
        assert of_part['macs'] == report['macs'] - 32 * 3
        assert 'head' not in of_part['parts']


def test_features_are_backbone_and_neck():
    pytest.importorskip('mmdet')
    name = 'mmdet:retinanet_r50_fpn_1x_coco'
    backbone, features = (
        flops(f'{name} --shape 64 64 --part {part}')
        for part in ('backbone', 'features')
    )
    neck = features['parts'].pop('neck')
    assert features['parts'] == backbone['parts'] and neck['macs'] > 0
    assert features['params'] == backbone['params'] + neck['params']


def test_model_shipped_by_a_library():
    pytest.importorskip('mmpretrain')
    report = flops('mmpretrain:resnet18')
    assert report['params'] == 11_689_512
    assert report['macs'] / 1e9 == pytest.approx(1.81, rel=0.01)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('sparseformer-tiny --shape 3', '--shape must be H W or T H W'),
        ('sparseformer-tiny --shape 8 9 9', 'needs --shape H W'),
        ('none.py', 'no config file none.py'),
        ('tiny', 'neither a config file nor'),
    ],
)
def test_get_flops_errors(arguments, message):
    status, output = run_tool(get_flops, *arguments.split())
    assert status and message in output


@pytest.fixture
def minis(tmp_path, monkeypatch):
    """Two small models, by names that the benchmark knows."""

    def build(name, options=None, part='model'):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, int(name), 4, 4),
            torch.nn.Flatten(),
            torch.nn.Linear(64 * int(name), 10),
        )

    monkeypatch.setattr(benchmark, 'build_model', build)
    return tmp_path


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_benchmark(minis, mode):
    options = f'--mode {mode} --batch-size 2 --rounds 3 --seconds 0.002 --amp bf16 '
    options += f'--channels-last --no-memory --markdown --json {minis}/out.json'
    status, out = run_tool(benchmark, '4', '8', *SMALL, *options.split())
    assert status == 0, out
    out = out[out.index(f'{mode}, model, batch') :]  # after the progress
    assert out.startswith(f'{mode}, model, batch 2, 32x32, bf16, channels-last')
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


def test_benchmark_tells_what_products_take(minis):
    options = f'--rounds 1 --seconds 0.01 --products --json {minis}/out.json'
    options += ' --as-tools --mode train --no-memory --device cpu'
    status, out = run_tool(benchmark, '64', *SMALL, *options.split())
    if torch.cuda.is_available():
        assert status == 2 and '--as-tools' in out
        return
    assert status == 0, out
    assert 'as the tools run' in out and 'products alone, images/s' in out
    (model,) = json.loads((minis / 'out.json').read_text())['models']
    assert model['products_per_second'] > 0


def test_benchmark_without_kernels(compiled, monkeypatch, tmp_path):
    names, asked = [], []

    class Model(torch.nn.Linear):
        def forward(self, images):
            asked.append((self.number, kernels.OPS is compiled))
            return super().forward(images.mean((2, 3)))

    def build(name, *_):
        names.append(name)
        model = Model(3, 4)
        model.number = len(names)
        return model

    monkeypatch.setattr(benchmark, 'build_model', build)
    options = f'--rounds 2 --seconds 0.001 --no-memory --json {tmp_path}/out.json'
    options += ' --without-kernels --baseline'
    argv = ['x', *SMALL, *options.split(), 'x without kernels']
    status, out = run_tool(benchmark, *argv)
    assert status == 0, out
    result = json.loads((tmp_path / 'out.json').read_text())
    assert [model['name'] for model in result['models']] == ['x', 'x without kernels']
    assert result['settings']['without_kernels']
    assert names == ['x', 'x']
    assert set(asked) == {(1, True), (2, False)}
    monkeypatch.setattr(kernels, 'load', lambda: False)
    status, out = run_tool(benchmark, *argv)
    assert status == 1 and '--without-kernels: there are none' in out


def test_benchmark_training_step_trains(minis):
    args = benchmark.parse_args(['4', *SMALL, '--mode', 'train', '--batch-size', '2'])
    model = benchmark.build_model('4')
    before = [p.clone() for p in model.parameters()]
    benchmark.make_step('4', model, args)()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_benchmark_peak_memory_in_its_own_process(tmp_path):
    argv = ['sparseformer-tiny', *SMALL, '--batch-size', '1', '--threads', '1']
    peaks = benchmark.measure_memory(benchmark.parse_args(argv), argv)
    weights = 4 * 31_522_212 / 2**20
    assert weights < peaks['sparseformer-tiny'] < 3 * weights


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('a a', 'only once'),
        ('a --without-kernels --device cuda', 'for CPUs'),
        ('a --baseline b', 'not one of'),
        ('a --batch-size 0', 'must be positive'),
        ('a --device cpu --amp fp16', 'bf16 on a CPU'),
        ('a --compile-mode max-autotune', 'is for --compile'),
    ],
)
def test_benchmark_errors(arguments, message):
    status, output = run_tool(benchmark, *arguments.split())
    assert status == 2 and message in output


def test_pretrained_weights_are_not_fetched(tmp_path):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'toy.py', tmp_path)
    weights = "dict(type='Pretrained', checkpoint='http://nowhere.invalid/x.pth')"
    text = f"{config.read_text()}\nmodel['backbone']['init_cfg'] = {weights}\n"
    config.write_text(text)
    build_model(str(config))
