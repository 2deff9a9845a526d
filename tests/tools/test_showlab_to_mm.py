"""The converter on the command line: there, back, and its complaints."""

import pytest
import torch

from helpers.scripts import load_tool, run_tool
from sparseformer_mm import SparseFormer

tool = load_tool('model_converters/showlab_to_mm')


def convert(*argv, status: int = 0) -> str:
    found, output = run_tool(tool, *argv)
    assert found == status, output
    return output


@pytest.fixture
def authors(image_v1):
    return image_v1.part()


def test_there_and_back(authors, tmp_path):
    src, back = tmp_path / 'a.pth', tmp_path / 'b.pth'
    ours = tmp_path / 'new' / 'mm.pth'
    torch.save(dict(model=authors, epoch=299), src)
    output = convert(src, ours, '--check')
    assert "layout v1 under 'model', 82 of 82 tensors known" in output
    assert 'mm -> v2 -> mm: 82/82 tensors return' in output
    assert 'check passed' in output
    state = torch.load(ours)['state_dict']
    assert torch.equal(state['head.fc.weight'], authors['head.classifier.weight'])
    assert torch.equal(
        state['backbone.stem.conv.weight'], authors['feat_extractor.conv1.weight']
    )
    convert(ours, back, '--to', 'v1')
    returned = torch.load(back)['model']
    assert returned.keys() == authors.keys()
    for key, value in authors.items():
        torch.testing.assert_close(returned[key], value, atol=1e-6, rtol=0)


def test_complaints(authors, tmp_path):
    more = tmp_path / 'more.pth'
    torch.save(dict(authors, **{'layers.0.novelty': torch.ones(1)}), more)
    output = convert(more, '--check', status=1)
    assert '82 of 83 tensors known' in output
    assert 'not known, so not converted: layers.0.novelty' in output

    foreign = tmp_path / 'foreign.pth'
    torch.save({'layer1.conv1.weight': torch.ones(1)}, foreign)
    output = convert(foreign, '--check', status=1)
    assert 'no SparseFormer' in output and 'layer1.conv1.weight' in output

    cut = tmp_path / 'cut.pth'
    cut.write_bytes(more.read_bytes()[:3000])
    assert 'cannot be read' in convert(cut, '--check', status=1)
    assert 'does not exist' in convert(tmp_path / 'no.pth', '--check', status=1)
    assert 'give DST, or --check' in convert(more, status=2)


def test_a_video_classifier_travels_too(video_v2, tmp_path):
    authors = video_v2.part()
    src, ours, back = (tmp_path / f'{i}.pth' for i in range(3))
    torch.save(authors, src)
    convert(src, ours, '--check')
    state = torch.load(ours)['state_dict']
    assert torch.equal(state['cls_head.fc_cls.weight'], authors['proj.weight'])
    convert(ours, back, '--to', 'v2', '--check')
    returned = torch.load(back)['model']
    assert returned.keys() == authors.keys()
    assert torch.equal(returned['proj.bias'], authors['proj.bias'])


def test_what_the_authors_lack_is_an_error(tmp_path):
    model = SparseFormer(decoding='static', cortex_depth=1)
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / 'static.pth')
    output = convert(
        tmp_path / 'static.pth', tmp_path / 'out.pth', '--to', 'v1', status=1
    )
    assert 'no counterpart' in output
