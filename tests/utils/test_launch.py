"""Processes of one training: started the right way, with the same batch norms."""

import functools
import os
import platform
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sparseformer_mm.models import kernels
from sparseformer_mm.utils.errors import explain_errors
from sparseformer_mm.utils.launch import (
    _without_sync_bn,
    add_common_arguments,
    prepare_config,
    prepare_kernels,
)


def parse(*argv):
    parser = ArgumentParser()
    parser.add_argument('config')
    add_common_arguments(parser)
    return parser.parse_args([str(part) for part in argv])


def test_processes_that_know_nothing_of_each_other_are_refused(tmp_path, monkeypatch):
    config = tmp_path / 'plain.py'
    config.write_text('model = dict(type="ToyModel")\n')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as error:
        prepare_config(parse(config))
    assert '2 processes were started' in str(error.value)
    assert 'add --launcher pytorch' in str(error.value)
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert prepare_config(parse(config)).work_dir == './work_dirs/plain'


def test_sync_bn_of_a_model_becomes_bn():
    model = Config(
        dict(
            backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
            heads=[dict(norm_cfg=dict(type='BN')), dict(norm=dict(type='MMSyncBN'))],
        )
    )
    assert _without_sync_bn(model._cfg_dict) == 2
    assert model.backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert [model.heads[0].norm_cfg.type, model.heads[1].norm.type] == ['BN', 'BN']
    assert _without_sync_bn(model._cfg_dict) == 0


FREED = """
import resource
import torch
from sparseformer_mm.utils.launch import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**22) for _ in range(8)]  # of 16 MiB each, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
print(faults(), keep_freed_memory())
faults(), faults()
print(faults(), keep_freed_memory())
"""
HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')


@pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc'
    or torch.cuda.is_available()
    or (HUGE_PAGES.is_file() and '[always]' in HUGE_PAGES.read_text()),
    reason='for glibc, pages of usual size and no GPU',
)
def test_freed_memory_is_kept(monkeypatch):
    def run():
        out = subprocess.run(
            [sys.executable, '-c', FREED], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        return [int(out[-4]), out[-3], int(out[-2]), out[-1]]

    for name in list(os.environ):
        if name.startswith(('MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD', 'THP_MEM')):
            monkeypatch.delenv(name)
    before, done, after, again = run()
    assert before > 100 and after < before / 20
    assert (done, again) == ('True', 'True')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '131072')
    before, done, after, again = run()
    assert after > before / 2
    assert (done, again) == ('False', 'False')


AVERAGE = """
import os
import sys
import torch
from sparseformer_mm.engine import AverageBatchNormHook

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
)
model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
with torch.no_grad():
    model[0].running_mean += torch.tensor([1.0, 5.0]) * rank
    model[0].running_var += rank
    model[1].weight.fill_(rank)
runner = type('Runner', (), dict(model=model))
AverageBatchNormHook().after_train_iter(runner, 0)
torch.save(model.state_dict(), f'{folder}/{rank}.pth')
# Taking a group down, torch 2.1 now and then waits for a thread that waits for it.
os._exit(0)
"""


@pytest.mark.slow
def test_batch_norms_have_the_mean_statistics_of_all_processes(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-c', AVERAGE]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for rank in (0, 1):
        state = torch.load(tmp_path / f'{rank}.pth')
        assert state['0.running_mean'].tolist() == [0.5, 2.5]
        assert state['0.running_var'].tolist() == [1.5, 1.5]
        assert (state['1.weight'] == rank).all()  # the optimizer's affair


@pytest.mark.parametrize('cuda, fails', [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_what_succeeds_without_a_gpu_takes_no_group_down(monkeypatch, cuda, fails):
    calls = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: bool(cuda))
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    take_down = functools.partial(calls.append, 'down')
    monkeypatch.setattr(torch.distributed, 'destroy_process_group', take_down)
    try:
        with explain_errors():
            if fails:
                raise KeyError('mine')
    except KeyError:
        calls.append('raised')
    assert calls == ['down'] * (cuda or fails) + ['raised'] * fails


def test_kernels_that_cannot_be_compiled_are_a_warning(
    no_kernels, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(kernels, 'are_wanted', lambda: True)
    monkeypatch.setenv('CXX', 'no-such-compiler')
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    prepare_kernels()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('warning: the kernels for this CPU cannot be compiled')
    assert 'no-such-compiler' in line and 'SPARSEFORMER_MM_KERNELS=0' in line


@pytest.mark.parametrize('why', ['there is a GPU', 'not wanted', 'there they are'])
def test_kernels_are_not_compiled_where(no_kernels, monkeypatch, capsys, why):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: why == 'there is a GPU')
    monkeypatch.setattr(kernels, 'are_wanted', lambda: why != 'not wanted')
    monkeypatch.setattr(kernels, 'load', lambda: why == 'there they are')
    monkeypatch.setattr(kernels, '_compile', lambda folder: pytest.fail('compiled'))
    prepare_kernels()
    assert capsys.readouterr().out == ''


def test_compiling_kernels_is_said_before(no_kernels, monkeypatch, capsys, tmp_path):
    said = []

    def compile_(folder):
        said.append(capsys.readouterr().out)
        raise RuntimeError('nothing came of it')

    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(kernels, 'are_wanted', lambda: True)
    monkeypatch.setattr(kernels, 'what_lacks', lambda: None)
    monkeypatch.setattr(kernels, '_compile', compile_)
    prepare_kernels()
    assert said == ['compiling the kernels for this CPU (once, about 20 seconds)\n']
    assert 'cannot be compiled: nothing came of it' in capsys.readouterr().out
