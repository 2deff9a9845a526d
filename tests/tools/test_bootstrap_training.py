"""Bootstrapping by commands: without labels, resumed, averaged, then a classifier."""

import re

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from helpers import toy_bootstrap as toy  # noqa: E402
from helpers.toy_classifier import make_data, write_config  # noqa: E402
from helpers.trained_by_tools import run_on_cpu  # noqa: E402

pytestmark = pytest.mark.mmpretrain

CONFIG = """
_base_ = 'plain.py'
model = dict(_delete_=True, **{model})
data_preprocessor = dict(
    _delete_=True, type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[64.0] * 3)
# All pictures lie in one folder: there is no label to read.
train_dataloader = dict(dataset=dict(data_root='flat', with_label=False))
optim_wrapper = dict(optimizer=dict(lr=1e-2, weight_decay=0.1))
train_cfg = dict(max_epochs=2)
custom_hooks = [
    dict(type='EMAHook', momentum=0.2),
    dict(type='sparseformer_mm.ConvertCheckpointHook'),
    dict(type='sparseformer_mm.CheckDatasetHook'),
]
"""


def weights(path):
    content = torch.load(path, map_location='cpu', weights_only=False)
    averaged = content['state_dict']
    last = content.get('ema_state_dict')
    return averaged, {key.split('module.', 1)[-1]: last[key] for key in last}


def test_trains_resumes_and_is_a_classifier(tmp_path):
    data = make_data(tmp_path / 'data', train=4, val=4)
    (tmp_path / 'flat').mkdir()
    for path in data.glob('train/*/*.png'):
        path.rename(tmp_path / 'flat' / f'{path.parent.name}-{path.name}')
    write_config(tmp_path / 'plain.py', data)
    teacher = toy.save(toy.TEACHER, tmp_path / 'vit.pth')
    model = toy.student(teacher)
    (tmp_path / 'toy.py').write_text(CONFIG.replace('{model}', repr(model)))
    classifier = dict(model, type='ImageClassifier')
    classifier.pop('teacher')
    (tmp_path / 'classifier.py').write_text(
        f"_base_ = 'plain.py'\nmodel = dict(_delete_=True, **{classifier!r})\n"
    )

    log = run_on_cpu('train', tmp_path, 'toy.py')
    assert 'accuracy/top1' in log  # validated with the teacher's head
    straight = [weights(tmp_path / f'work_dirs/toy/epoch_{i}.pth') for i in (1, 2)]
    resume = ['--resume', 'work_dirs/toy/epoch_1.pth', '--work-dir', 'resumed']
    run_on_cpu('train', tmp_path, 'toy.py', *resume)
    resumed = weights(tmp_path / 'resumed/epoch_2.pth')

    inherited = toy.build(model)
    inherited.init_weights()
    frozen = {n for n, p in inherited.named_parameters() if not p.requires_grad}
    start = inherited.state_dict()
    for state in (*straight[0], *straight[1], *resumed):
        # The names of the student's model, with no teacher among them.
        assert {key for key in state if key != 'steps'} == start.keys()
        for name in start:
            assert torch.equal(state[name], start[name]) == (name in frozen), name
    for ours, theirs in zip(resumed, straight[1]):
        for name in start:
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-4)

    # The checkpoint as it is, in the config of a classifier.
    scores = [
        re.findall(r'accuracy/top1: ([\d.]+)', text)[-1]
        for text in (
            log,
            run_on_cpu('test', tmp_path, 'classifier.py', 'work_dirs/toy/epoch_2.pth'),
        )
    ]
    assert scores[0] == scores[1]
