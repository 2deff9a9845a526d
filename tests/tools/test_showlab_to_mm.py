"""The converter on the command line: there, back, and its complaints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'model_converters' / 'showlab_to_mm.py'


def run(*args):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, args)],
        capture_output=True,
        text=True,
        cwd='/',
    )


@pytest.fixture(scope='module')
def authors():
    with np.load(ROOT / 'tests' / 'data' / 'image_v1.npz') as file:
        return {
            k[6:]: torch.from_numpy(file[k])
            for k in file.files
            if k.startswith('state/')
        }


def test_there_and_back(authors, tmp_path):
    src, ours, back = (
        tmp_path / 'a.pth',
        tmp_path / 'new' / 'mm.pth',
        tmp_path / 'b.pth',
    )
    torch.save(dict(model=authors, epoch=299), src)
    done = run(src, ours, '--check')
    assert done.returncode == 0, done.stderr
    assert "layout v1 under 'model', 82 of 82 tensors known" in done.stdout
    assert 'mm -> v2 -> mm: 82/82 tensors return' in done.stdout
    assert 'check passed' in done.stdout
    state = torch.load(ours)['state_dict']
    assert torch.equal(state['head.fc.weight'], authors['head.classifier.weight'])
    assert torch.equal(
        state['backbone.stem.conv.weight'], authors['feat_extractor.conv1.weight']
    )
    done = run(ours, back, '--to', 'v1')
    assert done.returncode == 0, done.stderr
    returned = torch.load(back)['model']
    assert returned.keys() == authors.keys()
    for key, value in authors.items():
        torch.testing.assert_close(returned[key], value, atol=1e-6, rtol=0)


def test_complaints(authors, tmp_path):
    lost = tmp_path / 'lost.pth'
    extra = dict(authors, **{'layers.0.novelty': torch.ones(1)})
    torch.save(extra, lost)
    done = run(lost, '--check')
    assert done.returncode == 1
    assert '82 of 83 tensors known' in done.stdout
    assert 'not known, so not converted: layers.0.novelty' in done.stdout

    foreign = tmp_path / 'foreign.pth'
    torch.save({'layer1.conv1.weight': torch.ones(1)}, foreign)
    done = run(foreign, '--check')
    assert done.returncode == 1 and 'no SparseFormer' in done.stderr
    assert 'layer1.conv1.weight' in done.stderr

    cut = tmp_path / 'cut.pth'
    cut.write_bytes(lost.read_bytes()[:3000])
    for path, words in (
        (cut, 'cannot be read'),
        (tmp_path / 'no.pth', 'does not exist'),
    ):
        done = run(path, '--check')
        assert done.returncode == 1 and words in done.stderr
        assert 'Traceback' not in done.stderr


def test_a_video_classifier_travels_too(tmp_path):
    with np.load(ROOT / 'tests' / 'data' / 'video_v2.npz') as file:
        authors = {
            k[6:]: torch.from_numpy(file[k])
            for k in file.files
            if k.startswith('state/')
        }
    src, ours, back = (tmp_path / f'{i}.pth' for i in range(3))
    torch.save(authors, src)
    assert run(src, ours, '--check').returncode == 0
    state = torch.load(ours)['state_dict']
    assert torch.equal(state['cls_head.fc_cls.weight'], authors['proj.weight'])
    done = run(ours, back, '--to', 'v2', '--check')
    assert done.returncode == 0, done.stdout + done.stderr
    returned = torch.load(back)['model']
    assert returned.keys() == authors.keys()
    assert torch.equal(returned['proj.bias'], authors['proj.bias'])


def test_what_the_authors_lack_is_an_error(tmp_path):
    from sparseformer_mm import SparseFormer

    file = tmp_path / 'static.pth'
    torch.save(
        {
            f'backbone.{k}': v
            for k, v in SparseFormer(decoding='static', cortex_depth=1)
            .state_dict()
            .items()
        },
        file,
    )
    done = run(file, tmp_path / 'out.pth', '--to', 'v1')
    assert done.returncode == 1 and 'no counterpart' in done.stderr
    assert 'Traceback' not in done.stderr
