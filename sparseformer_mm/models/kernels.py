"""Kernels in C++ for CPUs: compiled once on the user's machine, and optional.

Without them everything is computed in plain torch, to the same numbers but for
rounding. ``tools/train.py`` and ``tools/test.py`` compile them where there is no GPU;
elsewhere :func:`build_kernels` does. What was compiled lies where torch keeps
extensions (``TORCH_EXTENSIONS_DIR``, or ``~/.cache/torch_extensions``), under a name
for its source, torch and the processor's vector extensions, and the next model that is
built in any process finds it there. ``SPARSEFORMER_MM_KERNELS=0`` in the environment
does without.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from . import flops

_SOURCE = Path(__file__).parents[1] / 'csrc' / 'self_attention.cpp'
_NAME = 'sparseformer_mm_kernels'  # as the source says
_FLAGS = ['-O3', '-fopenmp', '-ffp-contract=fast']
_FLAGS += ['-fno-math-errno', '-fno-trapping-math']
_VECTORS = {
    'AVX512': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma'],
    'AVX2': ['-mavx2', '-mfma'],
}

# torch.ops of the kernels, or None; load() sets them.
OPS = None
_looked = False
_library = None


def _flags() -> list:
    return _FLAGS + _VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])


def kernel_file() -> Path:
    """Where the compiled kernels for this torch and this processor are, or would be."""
    made_of = [torch.__version__, platform.machine(), *_flags()]
    digest = hashlib.sha256(_SOURCE.read_bytes() + repr(made_of).encode()).hexdigest()
    root = os.environ.get('TORCH_EXTENSIONS_DIR', '~/.cache/torch_extensions')
    return Path(root).expanduser() / _NAME / f'{digest[:16]}.so'


def are_wanted() -> bool:
    """False if the environment says ``SPARSEFORMER_MM_KERNELS=0``."""
    return os.environ.get('SPARSEFORMER_MM_KERNELS') != '0'


def load() -> bool:
    """Take up what was compiled, at the first call; returns whether there is anything.

    What is there but does not load is left alone, with a warning.
    """
    global _looked
    if _looked:
        return OPS is not None
    _looked = True
    file = kernel_file()
    if not are_wanted() or not file.is_file():
        return False
    try:
        torch.ops.load_library(str(file))
    except OSError as error:
        warnings.warn(
            f'{file} cannot be loaded ({error}), so attention is computed without it, '
            'more slowly. Delete the file; then '
            '`python -c "import sparseformer_mm; sparseformer_mm.build_kernels()"` '
            'compiles it anew',
            stacklevel=2,
        )
        return False
    _take_up()
    return True


def _shapes(qkv: Tensor, num_heads: int):
    batch, tokens, channels = qkv.shape
    stats = qkv.new_empty(batch * num_heads, 2, tokens)
    return qkv.new_empty(batch, tokens, channels // 3), stats


def _take_up():
    global OPS, _library
    _library = torch.library.Library(_NAME, 'IMPL')  # says it as long as it lasts
    _library.impl('self_attention', _shapes, 'Meta')
    OPS = torch.ops.sparseformer_mm_kernels
    flops.register(
        {
            f'{_NAME}.self_attention': flops.own_attention_flop,
            f'{_NAME}.self_attention_backward': flops.own_attention_backward_flop,
        }
    )


def build_kernels() -> Path:
    """Compile the kernels for this machine, unless that has been done (ten seconds).

    This process and all later ones then use them on a CPU in float32, where attention
    takes a half to a quarter of its time (docs/speed.md). Needs a C++ compiler that
    knows OpenMP and vectors as GCC does, and ninja.

    Returns:
        Path of what was compiled.

    Raises:
        RuntimeError: if it cannot be compiled here, with the reason. Models work all
            the same.
    """
    file = kernel_file()
    if load():
        return file
    without = 'Models work without, only slower on a CPU'
    if not are_wanted():
        raise RuntimeError(
            'SPARSEFORMER_MM_KERNELS=0 is set, which says that no kernels are wanted: '
            'unset it first'
        )
    compiler = os.environ.get('CXX', 'c++')
    if sys.platform == 'win32' or shutil.which(compiler.split()[0]) is None:
        raise RuntimeError(
            f'no C++ compiler to build kernels with ({compiler}): install g++ 8 or '
            f'newer, or name one in CXX (Windows has none that fits). {without}'
        )
    try:
        from torch.utils import cpp_extension  # slow to import; wants setuptools

        file.parent.mkdir(parents=True, exist_ok=True)
        # Processes that build at the same time do not meet in a folder of their own.
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            cpp_extension.load(
                _NAME,
                [str(_SOURCE)],
                extra_cflags=_flags(),
                build_directory=folder,
                is_python_module=False,
            )
            os.replace(Path(folder) / f'{_NAME}.so', file)
    except (
        ImportError,
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
    ) as error:
        lines = str(error).strip().splitlines()
        said = [line for line in lines if 'error' in line.lower()] or lines or ['']
        raise RuntimeError(
            f'the kernels of {_SOURCE} cannot be compiled: {said[-1].strip()}. They '
            'need g++ 8 or newer (or what CXX names), ninja, setuptools and '
            f'leave to write to {file.parent} (TORCH_EXTENSIONS_DIR names another '
            f'folder). {without}'
        ) from error
    _take_up()
    return file
