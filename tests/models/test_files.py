"""Files that are no checkpoints, or other ones than was thought, through every door."""

import pickle
import sys
import threading
import types
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from helpers.small_model import ARCH, small_model
from sparseformer_mm import SparseFormer, build
from sparseformer_mm.models.files import check_file, check_resumable, read_checkpoint
from sparseformer_mm.models.finding import CheckpointError, SeveralModelsError

LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 126\n'


def weights():
    return {f'backbone.{k}': v for k, v in small_model().state_dict().items()}


def zipped(file):
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('readme.txt', 'hello')


def cut(file, **kwargs):
    torch.save(weights(), file, **kwargs)
    file.write_bytes(file.read_bytes()[:9000])


def foreign_module(file):
    """A model of a class that is gone when it is read."""
    module = types.ModuleType('their_code')
    module.Net = type('Net', (nn.Linear,), {'__module__': 'their_code'})
    sys.modules['their_code'] = module
    torch.save(module.Net(2, 3), file)
    del sys.modules['their_code']


def save(content):
    return lambda file: torch.save(content, file)


FILES = {
    'empty': (lambda file: file.write_bytes(b''), r'\(0 bytes\) is empty'),
    'lfs': (lambda file: file.write_bytes(LFS), 'pointer of Git LFS.*git lfs pull'),
    'html': (
        lambda file: file.write_bytes(b'\n<!DOCTYPE html><html>404</html>'),
        'is a web page.*download the file itself',
    ),
    'text': (lambda file: file.write_text('hello'), 'no PyTorch checkpoint at all'),
    'zip': (zipped, 'is a zip archive but no checkpoint'),
    'cut': (cut, 'is cut off: copy or download it again'),
    'cut old format': (
        lambda file: cut(file, _use_new_zipfile_serialization=False),
        'cannot be read .*damaged or no checkpoint',
    ),
    'plain pickle': (
        lambda file: file.write_bytes(pickle.dumps([1, 2])),
        'cannot be read .*damaged or no checkpoint',
    ),
    'module': (save(nn.Linear(2, 3)), r'a whole model \(a Linear\).*state_dict\(\)'),
    'module of code that is gone': (
        foreign_module,
        'objects of code that is not here.*their_code.*state_dict',
    ),
    'module inside': (
        save(dict(model=nn.Linear(2, 3), epoch=3)),
        r"a whole model \(a Linear\) under 'model'",
    ),
    'list': (save([torch.ones(2)]), 'holds a list, not weights'),
    'tensor': (save(torch.ones(2)), 'holds a Tensor, not weights'),
    'numpy': (
        save({key: value.numpy() for key, value in weights().items()}),
        "numpy arrays.*'backbone.*torch.as_tensor",
    ),
}
DOORS = {
    'build': lambda file: build(dict(ARCH), 0, file),
    'init_cfg': lambda file: SparseFormer(
        dict(ARCH), init_cfg=dict(type='Pretrained', checkpoint=str(file))
    ).init_weights(),
    'mmengine': lambda file: load_checkpoint(small_model(), str(file)),
}


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('kind', FILES)
def test_what_cannot_be_loaded_is_named(kind, door, tmp_path):
    write, message = FILES[kind]
    write(tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=message) as error:
        DOORS[door](tmp_path / 'file.pth')
    assert str(tmp_path / 'file.pth') in str(error.value)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the web address of it; what is fetched is kept in tmp_path / hub."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('door', DOORS)
def test_web_addresses_that_give_no_weights(door, served, tmp_path):
    folder, address = served
    for kind in ('html', 'list'):
        write, message = FILES[kind]
        write(folder / f'{kind}.pth')
        kept = tmp_path / 'hub' / 'checkpoints' / f'{kind}.pth'
        for _ in range(2):  # torch keeps the file, and takes it the second time
            with pytest.raises(CheckpointError, match=message) as error:
                DOORS[door](f'{address}/{kind}.pth')
            for part in (f'{address}/{kind}.pth', str(kept), 'Delete that file'):
                assert part in str(error.value)
            assert kept.is_file()
    with pytest.raises(CheckpointError, match='no.pth could not be fetched .*404'):
        DOORS[door](f'{address}/no.pth')


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_weights_from_a_web_address(suffix, served):
    folder, address = served
    expected = small_model(noise=0.3).state_dict()
    if suffix == 'pth':
        torch.save(expected, folder / 'model.pth')
    else:
        safetensors = pytest.importorskip('safetensors.torch')
        safetensors.save_file(expected, str(folder / 'model.safetensors'))
    loaded = build(dict(ARCH), 0, f'{address}/model.{suffix}').backbone.state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


@pytest.mark.parametrize('door', DOORS)
def test_missing_files_and_folders(door, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint file .*/no.pth \(seen'):
        DOORS[door](tmp_path / 'no.pth')
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(
        IsADirectoryError, match='is a folder: .* as [^ ]*/epoch_1.pth$'
    ):
        DOORS[door](tmp_path)


@pytest.mark.parametrize('door', DOORS)
def test_safetensors(door, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    file = tmp_path / 'model.safetensors'
    safetensors.save_file(small_model(noise=0.3).state_dict(), str(file))
    loaded = DOORS[door](file)
    if door == 'build':
        expected = small_model(noise=0.3).state_dict()
        found = loaded.backbone.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match='model.safetensors cannot be read'):
        DOORS[door](file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match='is cut off'):
        check_file(file)


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    file = tmp_path / 'model.safetensors'
    file.write_bytes(b'\2' + b'\0' * 7 + b'{}')
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        read_checkpoint(file)


def scaled(factor, prefix='', like=None):
    like = weights() if like is None else like
    return {prefix + key: value * 0 + factor for key, value in like.items()}


def mmengine_ema():
    trained = scaled(1.0, 'module.')
    return dict(
        state_dict=scaled(2.0), ema_state_dict=dict(trained, steps=torch.tensor(5))
    )


# Two models in a file; weights of the average are 2.
AVERAGED = {
    'mmengine': mmengine_ema(),
    'ema_state_dict': dict(state_dict=scaled(1.0), ema_state_dict=scaled(2.0)),
    'model_ema': dict(model=scaled(1.0), model_ema=scaled(2.0, 'module.')),
    'nested': dict(model=scaled(1.0), ema=dict(state_dict=scaled(2.0), decay=0.9)),
    'lightning': dict(
        state_dict={**scaled(1.0, 'model.'), **scaled(2.0, 'ema.module.')}
    ),
    'one prefix': {**scaled(1.0), **scaled(2.0, 'ema_model.')},
    'swa': {**scaled(1.0, 'net.'), **scaled(2.0, 'swa_model.module.')},
}


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('kind', AVERAGED)
def test_the_averaged_copy_is_loaded(kind, door, tmp_path):
    file = tmp_path / 'file.pth'
    torch.save(AVERAGED[kind], file)
    model = small_model()
    if door == 'build':
        model = build(dict(ARCH), 0, file).backbone
    elif door == 'init_cfg':
        model.init_cfg = dict(type='Pretrained', checkpoint=str(file))
        model.init_weights()
    else:
        load_checkpoint(model, str(file))
    for key, value in model.state_dict().items():
        assert (value == 2.0).all(), key


@pytest.mark.parametrize(
    'content',
    [
        {**scaled(1.0, 'student.'), **scaled(2.0, 'teacher.')},
        dict(student=scaled(1.0), teacher=scaled(2.0)),
        dict(state_dict={**scaled(1.0, 'student.'), **scaled(2.0, 'teacher.')}),
        {**scaled(1.0, 'student.'), **scaled(2.0, 'student.teacher.')},
    ],
)
@pytest.mark.parametrize('door', DOORS)
def test_two_models_without_an_average_are_named(door, content, tmp_path):
    file = tmp_path / 'file.pth'
    torch.save(content, file)
    with pytest.raises(SeveralModelsError, match=r'student\..* and .*teacher\.'):
        DOORS[door](file)


def test_the_prefix_of_pretrained_chooses_one_of_two(tmp_path):
    file = tmp_path / 'file.pth'
    torch.save({**scaled(1.0, 'student.'), **scaled(2.0, 'teacher.')}, file)
    model = small_model()
    model.init_cfg = dict(
        type='Pretrained', checkpoint=str(file), prefix='teacher.backbone.'
    )
    model.init_weights()
    assert all((value == 2.0).all() for value in model.state_dict().values())


def test_other_peoples_files_are_read_as_ever(tmp_path):
    content = dict(state_dict={'conv.weight': torch.ones(2)}, meta=dict(epoch=3))
    torch.save(content, tmp_path / 'resnet.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'resnet.pth'), 'cpu')
    assert read['meta'] == dict(epoch=3)
    assert torch.equal(read['state_dict']['conv.weight'], torch.ones(2))


def test_what_a_training_can_go_on_with():
    whole = dict(state_dict={}, message_hub={}, meta=dict(epoch=1, iter=4))
    check_resumable(whole)
    with pytest.raises(CheckpointError, match='no epoch, iter, .*load_from'):
        check_resumable(weights())
    with pytest.raises(CheckpointError, match='no message_hub'):
        del whole['message_hub']
        check_resumable(whole)
