"""tools/train.py and tools/test.py."""

import json
import pickle
import re
import sys

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.registry import DefaultScope  # noqa: E402

from helpers.scripts import load_tool, run_tool  # noqa: E402
from helpers.toy_training import ROOT, make_data, run, write_config  # noqa: E402

TRAIN, TEST = load_tool('train'), load_tool('test')
COMMAND = [sys.executable, ROOT / 'tools/train.py', 'toy.py']
CHECKPOINT = 'work_dirs/toy/epoch_1.pth'
TRUSTED = dict(map_location='cpu', weights_only=False)


@pytest.fixture(autouse=True)
def scope():
    """Leave the scope that a runner enters."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


def accuracy(log: str) -> float:
    return float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, toy.py and one epoch trained by the command."""
    folder = tmp_path_factory.mktemp('train')
    write_config(folder / 'toy.py', make_data(folder / 'data'))
    log = run([*COMMAND, '--auto-scale-lr', '--seed', '3'], folder)
    return folder, log


@pytest.fixture
def inside(trained, monkeypatch):
    """Work in that folder, with the log of the training."""
    folder, log = trained
    monkeypatch.chdir(folder)
    return folder, log


def fail(tool, *argv) -> str:
    """Run a tool and return what it prints; it has to end with an error."""
    status, output = run_tool(tool, *argv)
    assert status == 1, output
    return output


def succeed(*argv) -> None:
    """Test the trained model in this process."""
    status, output = run_tool(TEST, 'toy.py', CHECKPOINT, *argv)
    assert status == 0, output


def test_trains_from_any_folder(trained):
    folder, log = trained
    assert 'Epoch(train) [1][4/4]' in log
    # 1e-3 at the base batch of 12, scaled to the batch of 6.
    assert 'lr: 5.0000e-04' in log
    work_dir = folder / 'work_dirs' / 'toy'
    assert (work_dir / 'epoch_1.pth').is_file()
    assert 'seed=3' in (work_dir / 'toy.py').read_text()


def test_test_repeats_the_accuracy_of_training(inside):
    folder, log = inside
    succeed('--out', 'out.json', '--work-dir', 'tested')
    (metrics,) = folder.glob('tested/*/*.json')
    top1 = json.loads(metrics.read_text())['accuracy/top1']
    assert top1 == pytest.approx(accuracy(log), abs=1e-3)
    predictions = json.loads((folder / 'out.json').read_text())
    assert len(predictions) == 15
    hits = [p['pred_label'] == p['gt_label'] for p in predictions]
    assert 100 * sum(hits) / 15 == pytest.approx(top1)


def test_resume_goes_on_with_bfloat16_on_a_cpu(trained):
    folder, _ = trained
    options = ['--resume', '--amp', '--cfg-options', 'train_cfg.max_epochs=2']
    log = run([*COMMAND, *options], folder, CUDA_VISIBLE_DEVICES='-1')
    assert 'bfloat16, no loss scaling' in log
    assert 'iter: 4' in log
    assert 'Epoch(train) [1]' not in log
    assert 'Epoch(train) [2][4/4]' in log
    saved = torch.load(folder / 'work_dirs/toy/epoch_2.pth', **TRUSTED)
    assert saved['meta']['iter'] == 8
    assert all(torch.isfinite(w).all() for w in saved['state_dict'].values())


def test_missing_files(inside):
    assert 'no config file none.py' in fail(TRAIN, 'none.py')
    missing = 'no checkpoint file none.pth'
    assert missing in fail(TEST, 'toy.py', 'none.pth')
    assert missing in fail(TRAIN, 'toy.py', '--resume', 'none.pth')
    assert 'must end in .pkl or .json' in fail(
        TEST, 'toy.py', 'none.pth', '--out', 'x.txt'
    )


def test_an_image_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    write_config(tmp_path / 'toy.py', make_data(tmp_path / 'data', train=2))
    broken = tmp_path / 'data/train/class1/1.png'
    broken.write_bytes(broken.read_bytes()[:40])
    monkeypatch.chdir(tmp_path)
    error = fail(TRAIN, 'toy.py').splitlines()[-1]
    assert error.endswith('no image that can be decoded: replace or remove it')
    assert 'data/train/class1/1.png' in error


def test_damaged_checkpoints(inside):
    folder, _ = inside
    whole = (folder / CHECKPOINT).read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], 'is cut off'),
        (b'', 'is empty'),
        (b'<html>404</html>', 'is a web page'),
    ):
        (folder / 'cut.pth').write_bytes(content)
        for tool, argv in ((TEST, ['cut.pth']), (TRAIN, ['--resume', 'cut.pth'])):
            error = fail(tool, 'toy.py', *argv)
            assert error.startswith('error: cut.pth (') and said in error
    # What only reading tells.
    torch.save([torch.ones(2)], folder / 'list.pth')
    assert 'list.pth: holds a list, not weights' in fail(TEST, 'toy.py', 'list.pth')


def test_config_errors(inside, monkeypatch):
    folder, _ = inside
    broken = folder / 'broken.py'
    broken.write_text('model = dict(')
    assert 'cannot read config' in fail(TRAIN, broken)
    broken.write_text("default_scope = 'mmnothing'")
    assert "'mmnothing' is none of mmpretrain" in fail(TRAIN, broken)
    broken.write_text("default_scope = 'mmpretrain'\nmodel = dict()")
    assert 'has no train_dataloader' in fail(TRAIN, broken)
    assert 'has no test_dataloader' in fail(TEST, broken, 'none.pth')
    options = ('--auto-scale-lr', '--cfg-options', 'auto_scale_lr={}')
    assert 'needs auto_scale_lr' in fail(TRAIN, 'toy.py', *options)
    monkeypatch.delenv('RANK', raising=False)
    assert 'torchrun' in fail(TRAIN, 'toy.py', '--launcher', 'pytorch')


def test_missing_library_names_both_installs(tmp_path, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'mmdet' else find_spec(name, *rest),
    )
    (tmp_path / 'det.py').write_text("default_scope = 'mmdet'")
    error = fail(TRAIN, tmp_path / 'det.py')
    assert 'onedl-mmdetection' in error and 'mmdet==' in error
    assert error.count('\n') == 1


def test_checkpoint_of_another_model_is_refused(inside):
    folder, _ = inside
    other = folder / 'other.pth'
    torch.save(dict(state_dict={'head.fc.weight': torch.zeros(3, 32)}), other)
    error = fail(TEST, 'toy.py', 'other.pth')
    assert 'other.pth does not fit the model of toy.py' in error
    assert 'tensors loaded' in error
    # A backbone that fits does not make up for a head that does not.
    saved = torch.load(folder / CHECKPOINT, **TRUSTED)
    del saved['state_dict']['head.fc.weight']
    torch.save(saved, other)
    assert 'head.fc.weight' in fail(TEST, 'toy.py', 'other.pth')
    status, output = run_tool(TEST, 'toy.py', 'other.pth', '--allow-partial')
    assert status == 0, output


def test_tta_and_pictures(inside):
    folder, _ = inside
    succeed('--tta', '--out', 'tta.pkl')
    assert len(pickle.loads((folder / 'tta.pkl').read_bytes())) == 15
    shown = ['--show-dir', 'shown', '--interval', 5]
    succeed(*shown, '--out', 'metrics.json', '--out-item', 'metrics')
    assert list((folder / 'shown').rglob('*.png'))
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert 0 <= metrics['accuracy/top1'] <= 100
    assert 'without --tta' in fail(TEST, 'toy.py', CHECKPOINT, '--tta', '--show')
