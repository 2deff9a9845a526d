"""Optimizers in their fused form on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from sparseformer_mm.engine import FusedOptimizerHook, fused_optimizer
from sparseformer_mm.engine.fused_optimizer import fuse_on_cpu

HAS_FUSED = fused_optimizer._is_supported(torch.optim.AdamW)
# What a group of parameters says in a training.
SAYS = (HAS_FUSED and not torch.cuda.is_available()) or None
needs_fused = pytest.mark.skipif(not HAS_FUSED, reason='torch 2.4 has the first')


def weights():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in [(4, 3), (5,)]
    ]


@needs_fused
@pytest.mark.parametrize(
    'make',
    [
        lambda x: torch.optim.AdamW(x, lr=0.1, weight_decay=0.3),
        lambda x: torch.optim.Adam(x, lr=0.1, amsgrad=True),
    ],
)
def test_fused_optimizers_do_the_same(make):
    ours, theirs = weights(), weights()
    optimizers = make(ours), make(theirs)
    assert fuse_on_cpu(optimizers[0])
    assert [group['fused'] for group in optimizers[0].param_groups] == [True]
    for _ in range(4):
        for params, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            sum((x**3).sum() for x in params).backward()
            optimizer.step()
    for x, y, start in zip(ours, theirs, weights()):
        torch.testing.assert_close(x, y)
        assert (x - start).abs().min() > 1e-3


@needs_fused
def test_gradients_may_lie_in_any_order():
    """torch's own fused form reads their memory from one end to the other."""
    ours, theirs = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    optimizers = [torch.optim.AdamW([x], lr=0.1) for x in (ours, theirs)]
    assert fuse_on_cpu(optimizers[0])
    for x, optimizer in zip((ours, theirs), optimizers):
        x.grad = torch.arange(6.0).view(3, 2).t() - 2.0
        optimizer.step()
    torch.testing.assert_close(ours, theirs)


@needs_fused
def test_a_state_that_lies_otherwise_is_left_alone():
    old, new = (torch.ones(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    old = old.detach().to(memory_format=torch.channels_last).requires_grad_()
    optimizers = [torch.optim.AdamW([x]) for x in (old, new)]
    old.sum().backward()
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert not any(map(fuse_on_cpu, optimizers))


class TheirAdamW(torch.optim.AdamW):
    pass


@pytest.mark.parametrize(
    'make',
    [
        lambda x: torch.optim.AdamW(x, foreach=True),
        lambda x: torch.optim.AdamW(x, foreach=False),
        lambda x: torch.optim.AdamW(x, fused=False),
        lambda x: torch.optim.AdamW(x, differentiable=True),
        lambda x: torch.optim.AdamW(
            [dict(params=x[:1]), dict(params=x[1:], foreach=True)]
        ),
        lambda x: torch.optim.AdamW([*x, torch.zeros(2, device='meta')]),
        lambda x: torch.optim.AdamW([x[0].detach()[:, ::2]]),
        lambda x: torch.optim.AdamW([x[0].detach().half()]),
        lambda x: torch.optim.SGD(x, lr=0.1, momentum=0.9),
        TheirAdamW,
    ],
)
def test_other_wishes_are_left_as_they_are(make):
    optimizer = make(weights())
    before = [group.get('fused') for group in optimizer.param_groups]
    assert not fuse_on_cpu(optimizer)
    assert [group.get('fused') for group in optimizer.param_groups] == before


@pytest.mark.skipif(HAS_FUSED, reason='for torch before 2.4')
def test_an_old_torch_trains_as_ever():
    assert not fuse_on_cpu(torch.optim.AdamW(weights()))


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)])
        self.was_fused = []

    def forward(self, inputs, mode='tensor'):
        for part in self.parts:
            inputs = part(inputs)
        return dict(loss=(inputs - 1).square().mean())

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        wrappers = getattr(optim_wrapper, 'optim_wrappers', {'': optim_wrapper})
        loss = self(data['inputs'], mode='loss')['loss']
        loss.backward()
        for wrapper in wrappers.values():
            self.was_fused.append(wrapper.optimizer.param_groups[0]['fused'])
            wrapper.step()
            wrapper.zero_grad()
        return dict(loss=loss)


def train(work_dir, hook, several=False, resume=False, epochs=2):
    torch.manual_seed(0)
    model = ToyModel()
    wrappers = {
        name: OptimWrapper(torch.optim.AdamW(params, lr=0.1))
        for name, params in (
            [(str(i), part.parameters()) for i, part in enumerate(model.parts)]
            if several
            else [('', model.parameters())]
        )
    }
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=torch.utils.data.DataLoader(
            [dict(inputs=torch.ones(3) * i) for i in range(4)], batch_size=2
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=OptimWrapperDict(**wrappers) if several else wrappers[''],
        custom_hooks=[dict(type='sparseformer_mm.FusedOptimizerHook')] if hook else [],
        resume=resume,
        experiment_name=f'{work_dir.name}_{resume}',
    )
    runner.train()
    return model


@pytest.mark.parametrize('several', [False, True])
def test_a_training_is_fused_and_its_checkpoints_do_not_say_so(tmp_path, several):
    fused = train(tmp_path / 'fused', True, several)
    plain = train(tmp_path / 'plain', False, several)
    assert set(fused.was_fused) == {SAYS}
    assert set(plain.was_fused) == {None}
    for x, y in zip(fused.parameters(), plain.parameters()):
        torch.testing.assert_close(x, y)
    for name in ('fused', 'plain'):
        state = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        states = state['optimizer']
        for state in states.values() if several else [states]:
            assert [group['fused'] for group in state['param_groups']] == [None]


def test_a_training_goes_on_fused(tmp_path):
    whole = train(tmp_path / 'whole', True, epochs=4)
    train(tmp_path / 'parts', True)
    rest = train(tmp_path / 'parts', True, resume=True, epochs=4)
    assert set(rest.was_fused) == {SAYS}
    for x, y in zip(rest.parameters(), whole.parameters()):
        torch.testing.assert_close(x, y)


def test_a_second_training_in_one_process_says_nothing_either():
    hook = FusedOptimizerHook()
    wrappers = dict(a=OptimWrapper(torch.optim.AdamW(weights())))
    wrappers['b'] = OptimWrapper(torch.optim.AdamW(weights(), fused=False))
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict(**wrappers))
    for _ in range(2):
        hook.before_train(runner)
        state = dict(optimizer=runner.optim_wrapper.state_dict())
        hook.before_save_checkpoint(runner, state)
        saved = [state['optimizer'][name]['param_groups'][0]['fused'] for name in 'ab']
        assert saved == [None, False]
        live = [
            wrapper.optimizer.param_groups[0]['fused'] for wrapper in wrappers.values()
        ]
        assert live == [HAS_FUSED or None, False]
