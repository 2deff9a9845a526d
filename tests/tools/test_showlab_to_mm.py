"""The converter on the command line: there, back, and its complaints."""

import pytest
import torch

from helpers.scripts import load_tool, run_tool
from helpers.small_model import small_model
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

    assert 'give DST, or --check' in convert(more, status=2)


def test_a_file_with_more_is_written_when_allowed(authors, tmp_path):
    more, out = tmp_path / 'more.pth', tmp_path / 'out.pth'
    torch.save(dict(authors, **{'layers.0.novelty': torch.ones(1)}), more)
    output = convert(more, out, status=1)
    assert 'not converted: layers.0.novelty' in output and not out.exists()
    assert '--allow-unknown leaves them out' in output
    convert(more, out, '--allow-unknown')
    assert len(torch.load(out)['state_dict']) == 82


@pytest.mark.parametrize(
    'prefix', ['', 'module.', '_orig_mod.', 'model.', 'model._orig_mod.']
)
@pytest.mark.parametrize('head', ['head.fc', 'cls_head.fc_cls', 'decode_head.conv_seg'])
def test_from_mm_to_mm_every_tensor_is_kept(head, prefix, tmp_path):
    state = {f'backbone.{k}': v for k, v in small_model().state_dict().items()}
    state[f'{head}.weight'] = torch.rand(3, 24)
    state['neck.convs.0.bn.running_mean'] = torch.rand(4)
    src, dst = tmp_path / 'src.ckpt', tmp_path / 'dst.pth'
    torch.save({'state_dict': {prefix + k: v for k, v in state.items()}}, src)
    output = convert(src, dst)
    assert f'{len(state)} of {len(state)} tensors known' in output
    written = torch.load(dst)['state_dict']
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    # The authors' layouts have no place for it: nothing is written.
    output = convert(src, tmp_path / 'v1.pth', '--to', 'v1', status=1)
    assert 'neck.convs.0.bn.running_mean' in output
    assert not (tmp_path / 'v1.pth').exists()


def test_a_compiled_or_bare_backbone_keeps_its_classifier(tmp_path):
    model, head = small_model().state_dict(), torch.rand(3, 24)
    compiled = {f'backbone._orig_mod.{key}': value for key, value in model.items()}
    bare = {f'net.{key}': value for key, value in model.items()}
    src, dst = tmp_path / 'src.pth', tmp_path / 'dst.pth'
    for state, name in (
        (dict(compiled, **{'head.fc.weight': head}), 'head.fc.weight'),
        (dict(bare, **{'net.head.weight': head}), 'head.fc.weight'),
    ):
        torch.save(state, src)
        convert(src, dst)
        written = torch.load(dst)['state_dict']
        assert torch.equal(written.pop(name), head)
        assert written.keys() == {f'backbone.{key}' for key in model}
    torch.save(dict(bare, **{'decoder.weight': head}), src)
    output = convert(src, dst, status=1)
    assert 'not known, so not converted: decoder.weight' in output


def test_the_averaged_copy_is_taken_and_the_other_named(tmp_path):
    state = {f'backbone.{k}': v for k, v in small_model().state_dict().items()}
    state['head.fc.weight'] = torch.rand(3, 24)
    both = {f'model.{key}': torch.zeros_like(value) for key, value in state.items()}
    both.update({f'ema.module.{key}': value for key, value in state.items()})
    src, dst = tmp_path / 'src.pth', tmp_path / 'dst.pth'
    torch.save({'state_dict': both}, src)
    output = convert(src, dst)
    assert (
        "left out: the other copy of the model, under 'state_dict.model.bac" in output
    )
    written = torch.load(dst)['state_dict']
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)


def test_files_that_cannot_be_written(authors, tmp_path):
    src = tmp_path / 'src.pth'
    torch.save(authors, src)
    before = src.read_bytes()
    assert 'is read and would be lost' in convert(src, src, status=1)
    assert f'cannot write {tmp_path}: it is a folder' in convert(
        src, tmp_path, status=1
    )
    output = convert(src, src / 'out.pth', status=1)
    assert f'cannot write {src}/out.pth' in output
    assert src.read_bytes() == before and list(tmp_path.iterdir()) == [src]


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
