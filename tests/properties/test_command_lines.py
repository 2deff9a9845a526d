"""Generated command lines: a tool ends with a message, never with an exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.generated import cases
from helpers.scripts import load_tool, run_tool

TOOLS = {
    path: load_tool(path)
    for path in (
        'train',
        'test',
        'analysis_tools/get_flops',
        'model_converters/showlab_to_mm',
        'visualization/vis_focus',
        'deployment/export_onnx',
    )
}
FLAGS = [
    '--resume',
    '--amp',
    '--amp-dtype',
    '--seed',
    '--work-dir',
    '--cfg-options',
    '--launcher',
    '--out',
    '--out-item',
    '--tta',
    '--show-dir',
    '--interval',
    '--shape',
    '--arch',
    '--opset',
    '--checkpoint',
    '--device',
    '--task',
    '--size',
    '--frames',
    '--num-classes',
    '--from',
    '--to',
    '--layout',
    '--nothing',
]
FILES = [
    'missing.py',
    'broken.py',
    'empty.py',
    'text.pth',
    'empty.pth',
    'folder',
    'missing.pth',
]
VALUES = [
    '-1',
    '0',
    'nan',
    'x=',
    '=1',
    'a=[1',
    'a.b=1',
    'model=3',
    '',
    'ä',
    '3',
    '1e9',
    'cpu',
]

words = st.sampled_from([*FLAGS, *FILES, *FILES, *VALUES])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Files that are not what a tool needs."""
    folder = tmp_path_factory.mktemp('files')
    (folder / 'broken.py').write_text('model = dict(\n')
    (folder / 'empty.py').write_text('')
    (folder / 'text.pth').write_text('<html>not found</html>')
    (folder / 'empty.pth').write_text('')
    (folder / 'folder').mkdir()
    return folder


@pytest.mark.parametrize('name', TOOLS)
def test_ends_with_a_message(name, folder, monkeypatch):
    monkeypatch.chdir(folder)

    @given(st.lists(st.sampled_from(FILES), max_size=2), st.lists(words, max_size=4))
    @cases(25)
    def check(files, others):
        # run_tool lets every exception but SystemExit pass.
        status, output = run_tool(TOOLS[name], *files, *others)
        if '--help' not in others:
            assert status != 0, (files, others)
        assert output.strip(), (files, others)

    check()


@pytest.mark.parametrize('word', ['empty', '=1', 'a=(1,[2)'])
def test_options_are_key_and_value(word, folder, monkeypatch):
    monkeypatch.chdir(folder)
    status, output = run_tool(TOOLS['train'], 'empty.py', '--cfg-options', word)
    assert status == 2
    assert f'--cfg-options: {word!r} is not KEY=VALUE' in output
