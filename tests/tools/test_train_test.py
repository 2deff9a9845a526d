"""tools/train.py and tools/test.py, as a user runs them."""

import json
import pickle
import re
import runpy
import sys

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from helpers.toy_training import ROOT, make_data, run, write_config  # noqa: E402

TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
TRUSTED = dict(map_location='cpu', weights_only=False)


def accuracy(log: str) -> float:
    return float(re.findall(r'accuracy/top1: ([\d.]+)', log)[-1])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data, toy.py and one epoch trained by the command."""
    folder = tmp_path_factory.mktemp('train')
    write_config(folder / 'toy.py', make_data(folder / 'data'))
    log = run(
        [sys.executable, TRAIN, 'toy.py', '--auto-scale-lr', '--seed', '3'], folder
    )
    return folder, log


def test_trains_from_any_folder(trained):
    folder, log = trained
    assert 'Epoch(train) [1][4/4]' in log
    # 1e-3 at the base batch of 12, scaled to the batch of 6.
    assert 'lr: 5.0000e-04' in log
    work_dir = folder / 'work_dirs' / 'toy'
    assert (work_dir / 'epoch_1.pth').is_file()
    assert 'seed=3' in (work_dir / 'toy.py').read_text()


def test_test_repeats_the_accuracy_of_training(trained):
    folder, log = trained
    tested = run(
        [
            sys.executable,
            TEST,
            'toy.py',
            'work_dirs/toy/epoch_1.pth',
            '--out',
            'out.json',
        ],
        folder,
    )
    assert accuracy(tested) == accuracy(log)
    predictions = json.loads((folder / 'out.json').read_text())
    assert len(predictions) == 15
    hits = [p['pred_label'] == p['gt_label'] for p in predictions]
    assert 100 * sum(hits) / 15 == pytest.approx(accuracy(log), abs=1e-3)


def test_resume_goes_on_with_bfloat16_on_a_cpu(trained):
    folder, _ = trained
    log = run(
        [
            sys.executable,
            TRAIN,
            'toy.py',
            '--resume',
            '--amp',
            '--cfg-options',
            'train_cfg.max_epochs=2',
        ],
        folder,
        CUDA_VISIBLE_DEVICES='-1',
    )
    assert 'bfloat16, no loss scaling' in log
    assert 'iter: 4' in log
    assert 'Epoch(train) [1]' not in log
    assert 'Epoch(train) [2][4/4]' in log
    saved = torch.load(folder / 'work_dirs/toy/epoch_2.pth', **TRUSTED)
    assert saved['meta']['iter'] == 8
    assert all(torch.isfinite(w).all() for w in saved['state_dict'].values())


def call(monkeypatch, script, *arguments) -> str:
    """Run a tool in this process and return the error it ends with."""
    monkeypatch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name='__main__')
    return str(end.value)


def test_missing_files(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    assert 'no config file none.py' in call(monkeypatch, TRAIN, 'none.py')
    assert 'no checkpoint file none.pth' in call(
        monkeypatch, TEST, 'toy.py', 'none.pth'
    )
    assert 'no checkpoint file none.pth' in call(
        monkeypatch, TRAIN, 'toy.py', '--resume', 'none.pth'
    )
    assert 'must end in .pkl or .json' in call(
        monkeypatch, TEST, 'toy.py', 'none.pth', '--out', 'x.txt'
    )


def test_an_image_that_cannot_be_decoded_is_named(trained, tmp_path, monkeypatch):
    write_config(tmp_path / 'toy.py', make_data(tmp_path / 'data'))
    broken = tmp_path / 'data/train/class1/3.png'
    broken.write_bytes(broken.read_bytes()[:40])
    monkeypatch.chdir(tmp_path)
    error = call(monkeypatch, TRAIN, 'toy.py')
    assert error.endswith('no image that can be decoded: replace or remove it')
    assert 'data/train/class1/3.png' in error


def test_damaged_checkpoints(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    whole = (folder / 'work_dirs/toy/epoch_1.pth').read_bytes()
    for content in (whole[: len(whole) // 2], b'', b'<html>404</html>'):
        (folder / 'cut.pth').write_bytes(content)
        assert 'cut.pth' in (error := call(monkeypatch, TEST, 'toy.py', 'cut.pth'))
        assert 'cut off or no PyTorch checkpoint' in error


def test_config_errors(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    broken = folder / 'broken.py'
    broken.write_text('model = dict(')
    assert 'cannot read config' in call(monkeypatch, TRAIN, broken)
    broken.write_text("default_scope = 'mmnothing'")
    assert "'mmnothing' is none of mmpretrain" in call(monkeypatch, TRAIN, broken)
    broken.write_text("default_scope = 'mmpretrain'\nmodel = dict()")
    assert 'has no train_dataloader' in call(monkeypatch, TRAIN, broken)
    assert 'has no test_dataloader' in call(monkeypatch, TEST, broken, 'none.pth')
    assert 'needs auto_scale_lr' in call(
        monkeypatch,
        TRAIN,
        'toy.py',
        '--auto-scale-lr',
        '--cfg-options',
        'auto_scale_lr={}',
    )
    monkeypatch.delenv('RANK', raising=False)
    assert 'torchrun' in call(monkeypatch, TRAIN, 'toy.py', '--launcher', 'pytorch')


def test_missing_library_names_both_installs(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'mmdet' else found(name, *rest),
    )
    (tmp_path / 'det.py').write_text("default_scope = 'mmdet'")
    error = call(monkeypatch, TRAIN, tmp_path / 'det.py')
    assert 'onedl-mmdetection' in error and 'mmdet==' in error
    assert error.count('\n') == 0


def test_checkpoint_of_another_model_is_refused(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    torch.save(
        dict(state_dict={'head.fc.weight': torch.zeros(3, 32)}), folder / 'other.pth'
    )
    error = call(monkeypatch, TEST, 'toy.py', 'other.pth')
    assert 'other.pth does not fit the model of toy.py' in error
    assert 'tensors loaded' in error
    # A backbone that fits does not make up for a head that does not.
    saved = torch.load(folder / 'work_dirs/toy/epoch_1.pth', **TRUSTED)
    del saved['state_dict']['head.fc.weight']
    torch.save(saved, folder / 'other.pth')
    error = call(monkeypatch, TEST, 'toy.py', 'other.pth')
    assert 'head.fc.weight' in error
    monkeypatch.setattr(
        sys, 'argv', ['test.py', 'toy.py', 'other.pth', '--allow-partial']
    )
    runpy.run_path(str(TEST), run_name='__main__')


def test_tta_and_pictures(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    checkpoint = 'work_dirs/toy/epoch_1.pth'
    for arguments in (
        ['--tta', '--out', 'tta.pkl'],
        [
            '--show-dir',
            'shown',
            '--interval',
            '5',
            '--out',
            'metrics.json',
            '--out-item',
            'metrics',
        ],
    ):
        monkeypatch.setattr(sys, 'argv', ['test.py', 'toy.py', checkpoint, *arguments])
        runpy.run_path(str(TEST), run_name='__main__')
    assert len(pickle.loads((folder / 'tta.pkl').read_bytes())) == 15
    assert list((folder / 'shown').rglob('*.png'))
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert 0 <= metrics['accuracy/top1'] <= 100
    error = call(monkeypatch, TEST, 'toy.py', checkpoint, '--tta', '--show')
    assert 'without --tta' in error
