"""Kernels in C++ for CPUs: compiled once on the user's machine, and optional.

Without them everything is computed in plain torch, to the same numbers but for
rounding. ``tools/train.py`` and ``tools/test.py`` compile them where there is no GPU;
elsewhere :func:`build_kernels` does. What was compiled lies where torch keeps
extensions (``TORCH_EXTENSIONS_DIR``, or ``~/.cache/torch_extensions``), under a name
for their sources, torch and the processor's vector extensions, and every process that
is started later finds it there. ``SPARSEFORMER_MM_KERNELS=0`` in the environment does
without.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import torch
from torch import Tensor

from . import flops

_FOLDER = Path(__file__).parents[1] / 'csrc'
_NAME = 'sparseformer_mm_kernels'  # as the sources say
# OpenMP for the compiler only: linked, it would bring a second pool of threads beside
# torch's. In standard C++ GCC fuses no product with a sum unless told to.
_FLAGS = ['-O3', '-fopenmp', '-ffp-contract=fast']
_VECTORS = {
    'AVX512': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma'],
    'AVX2': ['-mavx2', '-mfma'],
}

# torch.ops of the kernels, or None; load() sets it.
OPS = None
_file = None
_looked = False
_library = None


def _flags() -> List[str]:
    return _FLAGS + _VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])


def _files(suffix: str) -> List[Path]:
    return sorted(_FOLDER.glob(f'*.{suffix}'))


def kernel_file() -> Path:
    """Where the compiled kernels for this torch and this processor are, or would be."""
    made_of = [torch.__version__, torch._C._GLIBCXX_USE_CXX11_ABI, platform.machine()]
    made_of += [*platform.libc_ver(), *_flags()]
    sources = b''.join(file.read_bytes() for file in _files('h') + _files('cpp'))
    digest = hashlib.sha256(sources + repr(made_of).encode()).hexdigest()
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
    if not are_wanted():
        return False
    try:
        file = kernel_file()
        if not file.is_file():
            return False
        torch.ops.load_library(str(file))
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f'the kernels for this CPU cannot be loaded ({error}), so models '
            'are slower. '
            '`python -c "import sparseformer_mm; sparseformer_mm.build_kernels()"` '
            'compiles them anew; SPARSEFORMER_MM_KERNELS=0 does not look for them',
            stacklevel=2,
        )
        return False
    _take_up(file)
    return True


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Context in which this process goes forward in plain torch."""
    global OPS, _looked
    before = OPS, _looked
    OPS, _looked = None, True
    try:
        yield
    finally:
        OPS, _looked = before


def _like_attention(qkv: Tensor, num_heads: int):
    batch, tokens, channels = qkv.shape
    stats = qkv.new_empty(batch * num_heads, 2, tokens)
    return qkv.new_empty(batch, tokens, channels // 3), stats


# What each gives, for compilers. (They make loops of their own that read maps, which
# are as fast as the kernel.)
_SHAPES = dict(
    self_attention=_like_attention,
    self_attention_backward=lambda qkv, *_: qkv.new_empty(qkv.shape),
)


def _take_up(file: Path):
    global OPS, _file, _looked, _library
    _library = torch.library.Library(_NAME, 'IMPL')  # says it as long as it lasts
    for name, like in _SHAPES.items():
        _library.impl(name, like, 'Meta')
    OPS, _file, _looked = getattr(torch.ops, _NAME), file, True
    flops.register(
        {
            f'{_NAME}.self_attention': flops.own_attention_flop,
            f'{_NAME}.self_attention_backward': flops.own_attention_backward_flop,
        }
    )


def _compiler() -> List[str]:
    return os.environ.get('CXX', '').split() or ['c++']


def _search_path() -> str:
    """Where programs are, those of this interpreter's environment last: it need not be
    activated."""
    return os.pathsep.join(
        [os.environ.get('PATH', os.defpath), sysconfig.get_path('scripts')]
    )


def what_lacks() -> Optional[str]:
    """What the kernels need to be compiled and is not here, with the cure; or None."""
    if sys.platform != 'linux':
        return 'they are made for Linux'
    compiler = _compiler()[0]
    if shutil.which(compiler) is None:
        return f'there is no C++ compiler {compiler}: install g++, or name one in CXX'
    if shutil.which('ninja', path=_search_path()) is None:
        return 'there is no ninja: pip install ninja'
    return None


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Other processes wait here; the lock of one that dies is free."""
    import fcntl  # not on Windows

    with open(folder / 'lock', 'a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(folder: Path) -> Path:
    """Compile and load; the file is in ``folder``."""
    from torch.utils import cpp_extension  # slow to import; wants setuptools

    # torch numbers what it is asked for under one name.
    name = f'{_NAME}_{folder.name}'
    # Its check of the compiler takes CXX for one word.
    with _environment(
        PATH=_search_path(),
        CXX=' '.join(_compiler()),
        TORCH_DONT_CHECK_COMPILER_ABI='1',
    ):
        cpp_extension.load(
            name,
            list(map(str, _files('cpp'))),
            extra_cflags=_flags(),
            build_directory=str(folder),
            is_python_module=False,
        )
    return folder / f'{name}.so'


def _load_again() -> bool:
    """Without a warning: what does not load is compiled anew."""
    global _looked
    _looked = OPS is not None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return load()


def build_kernels(say: Callable[[str], None] = print) -> Path:
    """Compile the kernels for this machine, unless that has been done (20 seconds).

    This process and all later ones then use them on a CPU in float32, for attention
    among tokens and for reading the map (docs/speed.md#kernels). Needs Linux, g++,
    ninja.

    Args:
        say: is told before it begins.

    Returns:
        Path of what was compiled.

    Raises:
        RuntimeError: if it cannot be compiled here, with the reason. Models work all
            the same.
    """
    if not are_wanted():
        raise RuntimeError(
            'SPARSEFORMER_MM_KERNELS=0 is set, which says that no kernels are wanted: '
            'unset it first'
        )
    if _load_again():
        return _file
    lacks = what_lacks()
    if lacks:
        raise RuntimeError(
            f'the kernels for this CPU cannot be compiled: {lacks}. Models work '
            'without, only slower'
        )
    try:
        file = kernel_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(file.parent):
            if _load_again():  # what it waited for
                return _file
            say('compiling the kernels for this CPU (once, about 20 seconds)')
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                made = _compile(Path(folder))
                _take_up(file)
                os.replace(made, file)
    except (
        ImportError,
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
    ) as error:
        lines = str(error).strip().splitlines()
        said = [line for line in lines if 'error' in line.lower()] or lines or ['']
        raise RuntimeError(
            f'the kernels for this CPU cannot be compiled: {said[-1].strip()}. They '
            'need g++ 8 or newer (or what CXX names), setuptools, and leave to write '
            'to and run what is in the folder that TORCH_EXTENSIONS_DIR names '
            '(~/.cache/torch_extensions). Models work without, only slower'
        ) from error
    return file
