"""Kernels in C++ agree with plain torch, and are found, built and missed properly."""

import copy
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from helpers.numerics import assert_near
from sparseformer_mm import build, build_kernels
from sparseformer_mm.models import kernels, self_attention
from sparseformer_mm.models.blocks import Attention
from sparseformer_mm.models.self_attention import self_attention as attend


def exact(qkv, num_heads, cotangent):
    """Output and gradient by torch, in 64 bits."""
    qkv = qkv.double().requires_grad_()
    heads = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in qkv.chunk(3, -1))
    out = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    (grad,) = torch.autograd.grad(out, qkv, cotangent.double())
    return out.float(), grad.float()


def ours(ops, qkv, num_heads, cotangent):
    out, stats = ops.self_attention(qkv, num_heads)
    return out, ops.self_attention_backward(qkv, out, stats, cotangent, num_heads)


@pytest.mark.parametrize('width', self_attention._KERNEL_WIDTHS)
@pytest.mark.parametrize('tokens', [0, 1, 5, 16, 49, 130])
@pytest.mark.parametrize('score', [1.0, 100.0])
def test_agrees_with_torch(compiled, width, tokens, score):
    """Vectors that are full or not, steps of four or not, with a maximum or none."""
    torch.manual_seed(0)
    qkv = torch.randn(2, tokens, 3 * 5 * width)
    qkv[..., : 10 * width] *= score**0.5
    cotangent = torch.randn(2, tokens, 5 * width)
    found = ours(compiled, qkv, 5, cotangent)
    # Scores have 24 bits.
    assert_near(found, exact(qkv, 5, cotangent), 1e-5 * max(1, score / 10))


def test_strides(compiled):
    torch.manual_seed(0)
    qkv = torch.randn(60, 7, 2).permute(2, 1, 0)
    cotangent = torch.randn(20, 7, 2).permute(2, 1, 0)
    assert_near(ours(compiled, qkv, 5, cotangent), exact(qkv, 5, cotangent), 1e-5)


def test_nan_and_infinity_show(compiled):
    qkv = torch.randn(1, 9, 24)
    for bad in (float('nan'), float('inf')):
        for column in (0, 8, 16):  # of a query, a key, a value
            broken = qkv.clone()
            broken[0, 3, column] = bad
            out, _ = compiled.self_attention(broken, 2)
            expected, _ = exact(broken, 2, qkv[..., :8])
            assert torch.equal(out.isfinite(), expected.isfinite())


def test_what_nan_does_not_reach_is_right(compiled):
    """Beside a query that is NaN, scores of hundreds, and a small last row."""
    torch.manual_seed(0)
    qkv = torch.randn(1, 9, 24) * 20
    qkv[0, 8] /= 1e3
    cotangent = torch.randn(1, 9, 8)
    clean = ours(compiled, qkv, 2, cotangent)
    qkv[0, 3, :8] = float('nan')
    broken = ours(compiled, qkv, 2, cotangent)
    others = [row for row in range(9) if row != 3]
    assert broken[0][0, 3].isnan().all()
    assert torch.equal(broken[0][0, others], clean[0][0, others])
    assert torch.equal(broken[1][0, others, :8], clean[1][0, others, :8])


def test_threads_make_no_difference(compiled):
    torch.manual_seed(0)
    qkv, cotangent = torch.randn(3, 50, 3 * 40), torch.randn(3, 50, 40)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ours(compiled, qkv, 5, cotangent))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found))


@pytest.mark.parametrize(
    'qkv, heads',
    [
        (torch.ones(1, 2, 12).double(), 1),
        (torch.ones(2, 12), 1),
        (torch.ones(1, 2, 13), 1),
        (torch.ones(1, 2, 12), 3),  # no multiple
        (torch.ones(1, 2, 12), 0),
        (torch.ones(1, 2, 0), 1),
        (torch.ones(1, 2, 21), 1),  # no kernel of width 7
    ],
)
def test_others_are_refused(compiled, qkv, heads):
    with pytest.raises(RuntimeError, match='self_attention'):
        compiled.self_attention(qkv, heads)


def test_a_gradient_of_another_shape_is_refused(compiled):
    qkv = torch.ones(1, 2, 12)
    out, stats = compiled.self_attention(qkv, 1)
    for wrong in (
        (out, stats, out[:, :1]),
        (out[:, :1], stats, out),
        (out, stats[..., :1], out),
        (out, stats, out.double()),
    ):
        with pytest.raises(RuntimeError, match='self_attention_backward'):
            compiled.self_attention_backward(qkv, *wrong, 1)


def test_a_model_with_and_without(compiled, request):
    torch.manual_seed(0)
    model = build('nano', num_classes=5, num_heads=12)
    images = torch.rand(2, 3, 64, 64)

    def run():
        with FlopCounterMode(display=False) as counter:
            out = model(images)
            grads = torch.autograd.grad(out.logsumexp(1).sum(), model.parameters())
        with torch.inference_mode():
            assert_near([model(images)], [out.detach()], 1e-5)
        own = torch.ops.sparseformer_mm_kernels.self_attention
        return [out, *grads], counter.get_flop_counts()['Global'], own

    with_kernels, counts, own = run()
    request.getfixturevalue('no_kernels')
    without, plain_counts, _ = run()
    assert_near(with_kernels, without, 1e-4)
    assert own in counts and own not in plain_counts
    assert sum(counts.values()) == sum(plain_counts.values())


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_two_build_at_once_and_a_third_finds_it(compiled, tmp_path):
    """Into the folder of the environment, which neither has made yet."""
    folder = {'TORCH_EXTENSIONS_DIR': str(tmp_path / 'new')}
    code = (
        'import sparseformer_mm, torch\n'
        'from sparseformer_mm.models import kernels\n'
        'print(kernels.load(), sparseformer_mm.build_kernels())\n'
        'print(kernels.OPS.self_attention(torch.ones(1, 2, 12), 1)[0].sum().item())'
    )
    both = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            env={**os.environ, **folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines() for process in both]
    (file,) = (tmp_path / 'new').rglob('*.*')
    # The other one waits.
    one_says = 'compiling the kernels for this CPU (once, about 20 seconds)'
    expected = [f'False {file}', '8.0']
    assert sorted(outputs, key=len) == [expected, [one_says, *expected]]
    assert python(code, **folder) == [f'True {file}', '8.0']
    code = code.split('print')[0] + 'print(kernels.load())'
    assert python(code, SPARSEFORMER_MM_KERNELS='0', **folder) == ['False']


@pytest.mark.slow
def test_fails_once_and_is_built_then(compiled, tmp_path):
    """In one process, as in a notebook; what does not load is compiled anew."""
    code = (
        'import os, sparseformer_mm, torch, warnings\n'
        'from sparseformer_mm.models import kernels\n'
        'os.environ["CXX"] = "false and more"\n'
        'try:\n'
        '    sparseformer_mm.build_kernels()\n'
        'except RuntimeError as error:\n'
        '    print(str(error)[:20])\n'
        'print(os.environ["CXX"])\n'
        'os.environ["CXX"] = ""\n'
        'kernels.kernel_file().write_bytes(b"broken")\n'
        'warnings.simplefilter("error")\n'
        'sparseformer_mm.build_kernels()\n'
        'os.environ["CXX"] = "no-such-compiler"\n'
        'print(sparseformer_mm.build_kernels() == kernels.kernel_file())\n'
        'print(kernels.OPS.self_attention(torch.ones(1, 2, 12), 1)[0].sum().item())'
    )
    code = code.replace('build_kernels()', 'build_kernels(lambda message: None)')
    found = python(code, TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert found == ['the kernels for this', 'false and more', 'True', '8.0']


def test_nowhere_to_look(nothing_yet, monkeypatch):
    """No home: models are built all the same."""
    monkeypatch.setattr(
        kernels, 'kernel_file', lambda: Path('~nobody-at-all').expanduser()
    )
    with pytest.warns(UserWarning, match='cannot be loaded'):
        assert not kernels.load()


@pytest.mark.parametrize('nothing', ['', ' '])
def test_an_empty_compiler_is_the_default(monkeypatch, nothing):
    monkeypatch.delenv('CXX', raising=False)
    expected = kernels.what_lacks()
    monkeypatch.setenv('CXX', nothing)
    assert kernels.what_lacks() == expected


def test_ninja_of_an_environment_that_is_not_activated(monkeypatch, tmp_path):
    compiler = tmp_path / 'c++'
    compiler.write_text('')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(sys, 'platform', 'linux')
    scripts = tmp_path / 'scripts'
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(scripts))
    assert kernels.what_lacks() == 'there is no ninja: pip install ninja'
    scripts.mkdir()
    (scripts / 'ninja').write_text('')
    (scripts / 'ninja').chmod(0o755)
    assert kernels.what_lacks() is None


def test_they_are_built_where_they_can_be(built_kernels):
    if kernels.what_lacks() or not kernels.are_wanted():
        pytest.skip(built_kernels)
    assert built_kernels is None
    assert kernels.OPS is not None


def test_forward_mode_is_refused(compiled):
    """Not answered without a tangent."""
    with torch.autograd.forward_ad.dual_level():
        qkv = torch.autograd.forward_ad.make_dual(
            torch.ones(1, 2, 12), torch.ones(1, 2, 12)
        )
        with pytest.raises(NotImplementedError, match='jvp'):
            attend(qkv, 1)


def test_without_values(compiled):
    """What compilers know of the results is so."""
    qkv = torch.ones(2, 5, 24)
    out, stats = compiled.self_attention(qkv, 2)
    told = compiled.self_attention(qkv.to('meta'), 2)
    assert [x.shape for x in told] == [out.shape, stats.shape]
    args = qkv, out, stats, out
    told = compiled.self_attention_backward(*(x.to('meta') for x in args), 2)
    assert told.shape == compiled.self_attention_backward(*args, 2).shape


def test_a_model_from_a_file_has_them(compiled, monkeypatch):
    looked = []
    model = build('nano')
    layers = [x for x in model.modules() if isinstance(x, Attention)]
    monkeypatch.setattr(kernels, 'load', lambda: looked.append(1))
    copy.deepcopy(model)
    assert len(looked) == len(layers) > 1


@pytest.fixture
def nothing_yet(no_kernels, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, '_looked', False)
    monkeypatch.delenv('SPARSEFORMER_MM_KERNELS', raising=False)
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    return tmp_path


def test_what_cannot_be_loaded_is_said_and_left_alone(nothing_yet):
    file = kernels.kernel_file()
    file.parent.mkdir()
    file.write_bytes(b'broken')
    with pytest.warns(UserWarning, match=f'be loaded .*{file}.*compiles them anew'):
        assert not kernels.load()
    assert not kernels.load()  # says it once
    assert file.read_bytes() == b'broken'


def test_no_compiler(nothing_yet, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler -x')
    with pytest.raises(RuntimeError, match='no C.. compiler no-such-compiler: install'):
        build_kernels()
    assert list(nothing_yet.iterdir()) == []


@pytest.mark.parametrize(
    'says', ['exit 1', 'test "$1" = --version || { echo "error: ideas" >&2; exit 1; }']
)
def test_a_compiler_that_fails(nothing_yet, monkeypatch, tmp_path_factory, says):
    compiler = tmp_path_factory.mktemp('bin') / 'c++'
    compiler.write_text(f'#!/bin/sh\n{says}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    monkeypatch.setattr(kernels, 'what_lacks', lambda: None)
    with pytest.raises(RuntimeError, match='cannot be compiled: .*need g'):
        build_kernels()
    assert [path.name for path in nothing_yet.rglob('*.*')] == []


def test_a_folder_that_cannot_be_written(nothing_yet, monkeypatch):
    file = nothing_yet / 'file'
    file.write_text('mine')
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(file))
    monkeypatch.setattr(kernels, 'what_lacks', lambda: None)
    with pytest.raises(RuntimeError, match='leave to write to and'):
        build_kernels()
    assert file.read_text() == 'mine'


def test_not_wanted(nothing_yet, monkeypatch):
    monkeypatch.setenv('SPARSEFORMER_MM_KERNELS', '0')
    with pytest.raises(RuntimeError, match='SPARSEFORMER_MM_KERNELS=0.*unset'):
        build_kernels()


def test_one_file_for_each_processor_and_source(monkeypatch, tmp_path):
    found = set()
    for vectors in ('DEFAULT', 'AVX2', 'AVX512'):
        monkeypatch.setattr(
            torch.backends.cpu, 'get_cpu_capability', lambda found=vectors: found
        )
        found.add(kernels.kernel_file())
    sources = tmp_path / 'csrc'
    shutil.copytree(kernels._FOLDER, sources)
    monkeypatch.setattr(kernels, '_FOLDER', sources)
    assert kernels.kernel_file() in found
    (sources / 'notes').mkdir()
    (sources / 'sampling.cpp.swp').write_bytes(b'')
    assert kernels.kernel_file() in found
    for name in ('lanes.h', 'sampling.cpp', 'self_attention.cpp'):
        with open(sources / name, 'a') as file:
            file.write('\n')
        found.add(kernels.kernel_file())
    assert len(found) == 3 + 3
