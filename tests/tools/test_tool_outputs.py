"""Every tool finds out before its work that its output cannot be written."""

import pytest

from helpers.scripts import load_tool, run_tool

# Tools with the rest of a command line that would begin to work, or need files that
# are not there.
COMMANDS = {
    'analysis_tools/benchmark': ['tiny', '--json', 'taken/x.json'],
    'analysis_tools/elastic_curve': ['no.py', 'no.pth', '--json', 'taken/x.json'],
    'analysis_tools/run_ablations': ['--out', 'taken/x'],
    'dataset_converters/make_digits': ['taken/x'],
    'deployment/export_onnx': ['no.py', 'no.pth', '--out', 'taken/x.onnx'],
    'visualization/vis_focus': ['no.py', 'no.pth', 'a.png', '--out', 'taken/x'],
}


@pytest.mark.parametrize('tool', COMMANDS)
def test_output_is_tried_first(tool, tmp_path, monkeypatch):
    if 'onnx' in tool:
        pytest.importorskip('onnx')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'taken').write_text('mine')
    (tmp_path / 'a.png').touch()
    status, output = run_tool(load_tool(tool), *COMMANDS[tool])
    assert status == 1 and 'cannot write' in output, output
    assert (tmp_path / 'taken').read_text() == 'mine'
