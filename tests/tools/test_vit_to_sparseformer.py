"""tools/model_converters/vit_to_sparseformer.py: what it writes, says and refuses."""

import re

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from helpers import toy_bootstrap as toy  # noqa: E402
from helpers.scripts import load_tool, run_tool  # noqa: E402

pytestmark = pytest.mark.mmpretrain
tool = load_tool('model_converters/vit_to_sparseformer')


@pytest.fixture
def vit(tmp_path):
    """A config, and the checkpoint that belongs to it."""
    config, checkpoint = tmp_path / 'vit.py', tmp_path / 'vit.pth'
    config.write_text(f"default_scope = 'mmpretrain'\nmodel = {toy.TEACHER}\n")
    toy.save(toy.TEACHER, checkpoint)
    return config, checkpoint


def test_writes_a_classifier_that_the_printed_config_loads(vit, tmp_path):
    out = tmp_path / 'new' / 'start.pth'
    status, output = run_tool(tool, *vit, out)
    assert status == 0, output
    printed = output.split('It belongs to\n')[1]
    namespace = {}
    exec(printed, namespace)
    assert namespace['model']['backbone'] == dict(
        type='sparseformer_mm.SparseFormer',
        arch='bootstrapped-base',
        num_tokens=3,  # of 16 patches a quarter, less the class token
        focusing_dims=16,
        cortex_dims=32,
        cortex_depth=3,
        head_dims=16,
        ffn_ratio=2.0,
        cortex_activation='gelu',
        norm_eps=1e-6,
        class_token=True,
    )
    state = torch.load(out)['state_dict']
    toy.build(namespace['model']).load_state_dict(state)
    saved = torch.load(vit[1])['state_dict']
    ours, theirs = state['head.fc.weight'], saved['head.layers.head.weight']
    assert torch.equal(ours, theirs)
    # The same seed, the same file.
    again = tmp_path / 'again.pth'
    run_tool(tool, *vit, again)
    for name, value in torch.load(again)['state_dict'].items():
        assert torch.equal(value, state[name]), name


def test_a_student_of_ones_own(vit, tmp_path):
    student = tmp_path / 'student.py'
    model = dict(type='ImageClassifier', backbone=toy.BACKBONE, head=toy.HEAD)
    student.write_text(f"default_scope = 'mmpretrain'\nmodel = {model}\n")
    out = tmp_path / 'start.pth'
    status, output = run_tool(tool, *vit, out, '--student', student)
    assert status == 0, output
    toy.build(model).load_state_dict(torch.load(out)['state_dict'])


def test_a_base_vit_becomes_the_named_model(tmp_path):
    """Without its weights: only the form is asked for."""
    with torch.device('meta'):
        cfg = dict(type='VisionTransformer', arch='b', img_size=384, patch_size=16)
        teacher = toy.build(dict(type='ImageClassifier', backbone=cfg))
    assert tool.student_of(teacher) == dict(
        backbone=dict(type='sparseformer_mm.SparseFormer', arch='bootstrapped-base')
    )


def test_complaints(vit, tmp_path):
    config, checkpoint = vit
    out = tmp_path / 'start.pth'

    def complaint(config, checkpoint):
        status, output = run_tool(tool, config, checkpoint, out)
        assert status == 1 and not out.exists()
        return re.sub(r'.*^error: ', '', output, flags=re.S | re.M)

    other = tmp_path / 'other.py'
    text = config.read_text()
    other.write_text(text.replace("'num_layers': 3", "'num_layers': 4"))
    assert complaint(other, checkpoint) == (
        f'{other}: a SparseFormer cannot inherit from this VisionTransformer: its 4 '
        'blocks do not divide into thirds\n'
    )
    other.write_text(text.replace("'img_size'", "'with_cls_token': False, 'img_size'"))
    assert 'with_cls_token must be True' in complaint(other, checkpoint)
    neck = dict(type='ClsBatchNormNeck', input_features=32)
    other.write_text(text + f'model.update(neck={neck})\n')
    assert 'its neck ClsBatchNormNeck is not one li' in complaint(other, checkpoint)
    other.write_text("default_scope = 'mmpretrain'\n")
    assert complaint(other, checkpoint) == f'{other} has no model\n'
    assert 'there is no checkpoint file' in complaint(config, tmp_path / 'no.pth')
    torch.save(dict(state_dict={'ln1.bias': torch.ones(32)}), tmp_path / 'few.pth')
    assert 'does not hold the teacher' in complaint(config, tmp_path / 'few.pth')
