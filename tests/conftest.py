import gc
import importlib.util
import logging
import os
import tempfile
from collections import OrderedDict

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from helpers.golden import Golden
from sparseformer_mm.host import LIBRARIES
from sparseformer_mm.models import kernels

# Inductor takes up what it compiled for vector extensions that this run may be without.
os.environ.setdefault(
    'TORCHINDUCTOR_CACHE_DIR',
    f'{tempfile.gettempdir()}/torchinductor_{getattr(os, "getuid", int)()}_'
    + torch.backends.cpu.get_cpu_capability().lower().replace(' ', '_'),
)

# They are imported where they are needed; some register what may be registered once.
collect_ignore = ['helpers']


def pytest_collection_modifyitems(items):
    """Files with slow tests first: no worker has one left when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What the libraries made when they were imported stays: a garbage collection, as
    mmengine does one for each data set, need not look through it (half a second)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def built_kernels():
    """All tests run with them where they can be built; else this is why not."""
    try:
        kernels.build_kernels()
    except RuntimeError as error:
        return str(error)
    return None


@pytest.fixture
def compiled():
    """Their operators."""
    if kernels.OPS is None:
        pytest.skip('no kernels here')
    return kernels.OPS


@pytest.fixture
def no_kernels():
    with kernels.without():
        yield


@pytest.fixture(autouse=True)
def library(request, monkeypatch):
    """The scope of the library that a test is marked with, or none, whatever an earlier
    test of this process was in."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    marked = [name for name in LIBRARIES if request.node.get_closest_marker(name)]
    if len(marked) == 1:
        DefaultScope.get_instance('test', scope_name=marked[0])


@pytest.fixture(autouse=True)
def visualizers():
    """None that a run of an earlier test made: mmengine finds them by the second in
    which a run began, and one that begins in the same second wrote into its folder."""
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


@pytest.fixture
def new_compiler():
    """One that has compiled nothing yet: it gives a piece of code up after a few times,
    those of other tests among them."""
    torch._dynamo.reset()


@pytest.fixture(scope='session')
def image_v1():
    return Golden('image_v1.npz')


@pytest.fixture(scope='session')
def video_v2():
    return Golden('video_v2.npz')


@pytest.fixture(scope='session')
def bootstrapped_v2():
    return Golden('bootstrapped_v2.npz')


@pytest.fixture
def float64():
    """New numbers have 64 bits, so that what is the same by algebra is within 1e-7 on
    every processor, whatever the order in which it sums."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def quiet():
    """Without the line mmengine logs for every setting of every parameter."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)
    logger = MMLogger.get_current_instance()
    logger.setLevel(logger.level)  # or all of them remember that they were off


@pytest.fixture
def log():
    """(level, line) of what SparseFormer logs while the test runs."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith('SparseFormer: '):
                lines.append((record.levelname, record.getMessage()))

    handler = Handler()
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture(scope='session')
def toys(tmp_path_factory):
    """Task -> a model and pictures or videos to look at, made once."""
    made = {}

    def toy_of(task):
        from helpers.toy_looks import Toy

        (scope,) = (name for name, lib in LIBRARIES.items() if lib.task == task)
        if importlib.util.find_spec(scope) is None:
            pytest.skip(f'needs {scope}')
        if task not in made:
            made[task] = Toy(task, tmp_path_factory.mktemp(task))
        return made[task]

    return toy_of
