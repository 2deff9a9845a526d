"""elastic_curve.py: its figures are those of test.py and get_flops.py."""

import json
import re

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from helpers import toy_classifier, toy_video
from helpers.scripts import load_tool, run_tool
from sparseformer_mm.models.elastic import answer_when_certain
from sparseformer_mm.utils.configs import load_config

curve = load_tool('analysis_tools/elastic_curve')


@pytest.fixture(autouse=True)
def scope():
    """Leave the scope that a runner enters."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


def save_noise(config) -> torch.nn.Module:
    """A checkpoint beside a config, of a model whose answers differ."""
    cfg = load_config(str(config))
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
    for name, param in model.named_parameters():
        if 'token_rois' not in name:
            param.data.add_(torch.randn_like(param) * 0.15)
    torch.save(dict(state_dict=model.state_dict()), config.parent / 'noise.pth')
    return model


def rows_of(*argv) -> list:
    status, output = run_tool(curve, *argv, '--device', 'cpu', '--json', 'curve.json')
    assert status == 0, output
    assert 'multiply-adds (M) | ms each | top-1' in output
    with open('curve.json', encoding='utf-8') as file:
        return json.load(file)


@pytest.mark.mmpretrain
def test_pictures(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    monkeypatch.chdir(tmp_path)
    data = toy_classifier.make_data(tmp_path / 'data', train=1, val=7)
    config = toy_classifier.write_config(tmp_path / 'toy.py', data)
    save_noise(config)
    sure = ['0.5', '0.7', '0.9', '0.99']
    options = '--tokens 4 1 2 --start 1 2 --markdown --certainty'
    rows = rows_of('toy.py', 'noise.pth', *options.split(), *sure)
    ways = [row['tokens'] for row in rows]
    assert ways == [[1], [2], [4], *4 * [[1, 2, 4]], *4 * [[2, 4]]]
    one, two, four, *certain = rows
    assert all(row['samples'] == 21 and row['milliseconds'] > 0 for row in rows)

    test, get_flops = load_tool('test'), load_tool('analysis_tools/get_flops')
    for row in (one, two, four):
        option = f'model.backbone.test_tokens={row["tokens"][0]}'
        argv = ['toy.py', 'noise.pth', '--work-dir', 'tested', '--cfg-options', option]
        status, output = run_tool(test, *argv)
        assert status == 0, output
        top1 = float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])
        assert row['top1'] == pytest.approx(top1, abs=1e-3)
        argv = ['toy.py', '--shape', 32, 32, '--json', '--cfg-options', option]
        _, output = run_tool(get_flops, *argv)
        assert row['macs'] == json.loads(output[output.index('{') :])['macs']
    assert one['macs'] < two['macs'] < four['macs']

    divided = 0
    for row in certain:
        shares = {int(k): share for k, share in row['answered_with'].items()}
        assert sum(shares.values()) == pytest.approx(1)
        divided += 0 < shares[row['tokens'][0]] < 1
        left, macs = 1.0, 0.0
        for fixed in (one, two, four):
            (number,) = fixed['tokens']
            if number in shares:
                macs += left * fixed['macs']
                left -= shares[number]
        assert row['macs'] == pytest.approx(macs)
    assert divided  # by some threshold, of the pictures


@pytest.mark.mmaction
def test_videos(tmp_path, monkeypatch):
    pytest.importorskip('sparseformer_mm.video', reason='needs mmaction2')
    monkeypatch.chdir(tmp_path)
    config = toy_video.make_toy(tmp_path, epochs=2)
    model = save_noise(config)
    status, output = run_tool(curve, 'toy.py', 'noise.pth', '--tokens', 2)
    assert status == 1 and 'gives 3 views of a video, and here is one' in output
    config.write_text(f'{config.read_text()}\ntest_dataloader = val_dataloader\n')
    argv = 'toy.py noise.pth --tokens 2 4 --certainty 1.1 --max-samples 10'
    few, full, never = rows_of(*argv.split())
    assert few['samples'] == 10 and full['macs'] > few['macs']
    assert never['answered_with'] == {'2': 0, '4': 1}
    assert never['macs'] == few['macs'] + full['macs']
    assert never['top1'] == full['top1']
    # A video is answered with its tubes: copies in time run together.
    clips = torch.rand(2, 3, 8, 24, 24)
    found = answer_when_certain(
        model, clips, [2, 4], 2, lambda x: model(x[:, None], stage='head')
    )
    assert found.logits.shape == (2, 3) and found.num_tokens.tolist() == [4, 4]


@pytest.mark.mmpretrain
@pytest.mark.parametrize(
    'options, message',
    [
        ('--tokens 5', 'the model has 1 to 4 tokens'),
        ('--tokens 2 4 --start 3 --certainty 0.5', '--start 3 must be one of'),
        ('--batch-size 0', '--batch-size must be at least 1'),
    ],
)
def test_errors(options, message, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain', reason='needs mmpretrain')
    monkeypatch.chdir(tmp_path)
    data = toy_classifier.make_data(tmp_path / 'data', train=1, val=1)
    save_noise(toy_classifier.write_config(tmp_path / 'toy.py', data))
    status, output = run_tool(curve, 'toy.py', 'noise.pth', *options.split())
    assert status and message in output
