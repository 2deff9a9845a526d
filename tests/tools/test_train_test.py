"""tools/train.py and tools/test.py."""

import ast
import json
import os
import pickle
import re
import sys

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from helpers.scripts import ROOT, load_tool, run, run_tool  # noqa: E402
from helpers.toy_classifier import make_data, write_config  # noqa: E402

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
    config = (work_dir / 'toy.py').read_text()
    assert 'seed=3' in config
    on_cpu = not torch.cuda.is_available()
    assert ('sparseformer_mm.FusedOptimizerHook' in config) == on_cpu


def test_test_repeats_the_accuracy_of_training(inside):
    folder, log = inside
    (folder / 'out.pkl').write_text('mine')
    succeed('--out', 'out.json', '--work-dir', 'tested')
    assert (folder / 'out.pkl').read_text() == 'mine'
    assert not list(folder.glob('.out*'))
    (metrics,) = folder.glob('tested/*/*.json')
    top1 = json.loads(metrics.read_text())['accuracy/top1']
    assert top1 == pytest.approx(accuracy(log), abs=1e-3)
    predictions = json.loads((folder / 'out.json').read_text())
    assert len(predictions) == 15
    assert predictions[0]['img_path'].endswith('val/class0/0.png')
    assert predictions[14]['img_path'].endswith('val/class2/4.png')
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
    assert 'is no picture that can be decoded, or a damaged one' in error
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


def test_what_only_reading_tells(inside):
    """Through the tools that load a model, and training from weights."""
    folder, _ = inside
    state = torch.load(folder / CHECKPOINT, **TRUSTED)['state_dict']
    torch.save([torch.ones(2)], folder / 'list.pth')
    pair = {f'{name}.{key}': state[key] for name in 'ab' for key in state}
    torch.save(dict(a=state, b=state), folder / 'two.pth')
    torch.save(dict(state_dict=pair), folder / 'pair.pth')
    picture = 'data/val/class0/0.png'
    vis_focus = load_tool('visualization/vis_focus')
    for name, said in (
        ('list.pth', 'list.pth: holds a list, not weights'),
        ('two.pth', "several SparseFormers, under 'a.backbone.' and 'b.backbone.'"),
        ('pair.pth', "'state_dict.a.backbone.' and 'state_dict.b.backbone.'"),
    ):
        hook = 'default_hooks.names.type=sparseformer_mm.ConvertCheckpointHook'
        assert said in fail(TEST, 'toy.py', name, '--cfg-options', hook)
        if name == 'list.pth':
            assert said in fail(vis_focus, 'toy.py', name, picture)
            assert said in fail(TRAIN, 'toy.py', '--resume', name)
        else:
            assert 'no training to go on' in fail(TRAIN, 'toy.py', '--resume', name)
    options = ['--cfg-options', hook, 'load_from=pair.pth', 'work_dir=new']
    assert 'several SparseFormers' in fail(TRAIN, 'toy.py', *options)


def test_outputs_that_cannot_be_written(inside):
    folder, _ = inside
    (folder / 'taken').write_text('mine')
    for flag in ('--out=taken/x.json', '--work-dir=taken', '--show-dir=taken/x'):
        assert 'cannot write' in fail(TEST, 'toy.py', CHECKPOINT, flag)
    assert 'cannot write taken' in fail(TRAIN, 'toy.py', '--work-dir', 'taken')
    assert (folder / 'taken').read_text() == 'mine'


def test_weights_that_training_starts_from_are_checked_first(inside):
    (inside[0] / 'page.pth').write_bytes(b'<!doctype html>')
    init_cfg = 'model.backbone.init_cfg'
    for options in (
        ['load_from=page.pth'],
        [f'{init_cfg}.type=Pretrained', f'{init_cfg}.checkpoint=page.pth'],
    ):
        error = fail(TRAIN, 'toy.py', '--work-dir', 'new', '--cfg-options', *options)
        assert 'page.pth (15 bytes) is a web page' in error


def test_only_a_training_can_be_resumed(inside):
    folder, _ = inside
    saved = torch.load(folder / CHECKPOINT, **TRUSTED)
    torch.save(saved['state_dict'], folder / 'weights.pth')
    error = fail(TRAIN, 'toy.py', '--resume', 'weights.pth')
    assert 'weights.pth holds weights but no training' in error
    assert '--cfg-options load_from=' in error
    error = fail(TRAIN, 'toy.py', '--resume', 'work_dirs/toy')
    assert 'work_dirs/toy is a folder' in error
    assert 'such as work_dirs/toy/epoch_' in error


def test_what_is_resumed(inside, tmp_path, capsys):
    """The newest whole file, whatever a killed process left."""
    folder, _ = inside
    whole = (folder / CHECKPOINT).read_bytes()
    assert TRAIN.find_resumable(str(tmp_path)) == (None, {})
    for name in ('epoch_2.pth', 'epoch_10.pth', 'best_acc_epoch_11.pth'):
        (tmp_path / name).write_bytes(whole)
    note = tmp_path / 'last_checkpoint'
    for noted, expected in (
        (None, 'epoch_10.pth'),
        ('', 'epoch_10.pth'),
        ('somewhere/else/epoch_2.pth', 'epoch_2.pth'),
        ('gone.pth', 'epoch_10.pth'),
    ):
        if noted is not None:
            note.write_text(noted)
        assert TRAIN.find_resumable(str(tmp_path)) == (str(tmp_path / expected), {})
    note.write_text(str(tmp_path / 'epoch_10.pth'))
    (tmp_path / 'epoch_10.pth').write_bytes(whole[:-99])
    found, damaged = TRAIN.find_resumable(str(tmp_path))
    assert found == str(tmp_path / 'epoch_2.pth')
    assert list(damaged) == [str(tmp_path / 'epoch_10.pth')]
    assert 'is cut off' in damaged[str(tmp_path / 'epoch_10.pth')]

    # --resume, and resume = True in a config.
    for flag, cfg in (
        ('auto', Config(dict(work_dir=str(tmp_path)))),
        (None, Config(dict(work_dir=str(tmp_path), resume=True))),
    ):
        TRAIN.set_resume(cfg, flag)
        assert cfg.resume and cfg.load_from == found
        output = capsys.readouterr().out
        assert f'cannot resume from {tmp_path}/epoch_10.pth' in output
        assert output.endswith(f'resuming from {found}\n')
    cfg = Config(dict(work_dir=str(tmp_path)))
    TRAIN.set_resume(cfg, None)
    assert 'load_from' not in cfg and 'may write over' in capsys.readouterr().out
    cfg.work_dir, cfg.load_from = str(tmp_path / 'new'), str(tmp_path / 'epoch_2.pth')
    TRAIN.set_resume(cfg, 'auto')
    assert not cfg.resume and cfg.load_from.endswith('epoch_2.pth')


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


STAT = """cpu  900 0 100 8000 100 0 0 0 0 0
cpu0 {} 0 50 4000 50 0 0 5 0 0
cpu1 400 0 50 {} 50 0 0 0 0 0
cpu2 {} 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_how_threads_wait_is_said_before_torch_is_there():
    source = (ROOT / 'tools/train.py').read_text('utf-8')
    parts = [ast.unparse(node) for node in ast.parse(source).body]
    said = parts.index("if __name__ == '__main__':\n    share_cores()")
    assert said < parts.index('import torch')


def test_busy_cores_are_counted_from_the_kernel():
    before = STAT.format(500, 4000, 0)
    # Four ticks of work on the first, five of idling on the second.
    after = STAT.format(504, 4005, 5)
    assert TRAIN.busy_cores(before, after, [0, 1]) == 1
    assert TRAIN.busy_cores(before, after, [1]) == 0
    assert TRAIN.busy_cores(before, after, [0, 1, 2]) == 2
    half = STAT.format(502, 4002, 0).replace('4000 50 0 0 5', '4001 51 0 0 5')
    assert TRAIN.busy_cores(before, half, [0]) == 0.5
    assert TRAIN.busy_cores(before, before, [0, 1]) == 0  # no time has passed
    assert TRAIN.busy_cores('', after, [0, 7]) == 0


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='Linux only')
@pytest.mark.parametrize(
    'busy, user, expected',
    [
        (1.0, {}, '1000'),
        (0.2, {}, None),
        # Three cores and one busy: two threads have two for themselves.
        (1.0, dict(OMP_NUM_THREADS='2'), None),
        (2.0, dict(OMP_NUM_THREADS='2'), '1000'),
        (2.0, dict(OMP_NUM_THREADS='two'), None),
        (2.0, dict(GOMP_SPINCOUNT='7'), '7'),
        (2.0, dict(OMP_WAIT_POLICY='active'), None),
    ],
)
def test_threads_wait_without_spinning_where_others_work(
    busy, user, expected, monkeypatch
):
    environment = dict(user)
    monkeypatch.setattr(TRAIN.os, 'environ', environment)
    monkeypatch.setattr(TRAIN.os, 'sched_getaffinity', lambda pid: {0, 1, 5})
    monkeypatch.setattr(TRAIN, 'busy_cores', lambda *states: busy)
    TRAIN.share_cores()
    assert environment.get('GOMP_SPINCOUNT') == expected
