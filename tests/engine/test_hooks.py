"""LossScaleHook under mmengine's runner and optimizer wrappers."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from helpers.numerics import assert_near
from sparseformer_mm import SparseFormer
from sparseformer_mm.engine import LossScaleHook, hooks

ARCH = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=1,
    cortex_dims=16,
    cortex_depth=1,
    num_heads=4,
    feat_channels=8,
)


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = SparseFormer(ARCH)
        self.seen = []

    def forward(self, inputs, mode='tensor'):
        inputs = inputs['x']
        self.seen.append(self.backbone.focusing.sampler.loss_scale.item())
        (out,) = self.backbone(inputs)
        return dict(loss=out.pow(2).mean()) if mode == 'loss' else out


class ScaledOptimWrapper(OptimWrapper):
    """What AmpOptimWrapper is to the hook; the real one scales on GPUs only."""

    def __init__(self, *args, scale=8.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_scaler = SimpleNamespace(get_scale=self.next_scale)
        self.scale = scale

    def next_scale(self):
        self.scale *= 2
        return self.scale


def train(model, tmp_path, wrap, hooks, iterations=2):
    loader = torch.utils.data.DataLoader(
        [dict(inputs=dict(x=torch.randn(3, 32, 32)))] * 2 * iterations, batch_size=2
    )
    Runner(
        model,
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iterations, val_interval=9),
        optim_wrapper=wrap(torch.optim.SGD(model.parameters(), lr=1e-3)),
        custom_hooks=hooks,
        experiment_name=f'{tmp_path.name}',
    ).train()


def test_the_scale_reaches_the_model_before_every_iteration(tmp_path):
    model = ToyModel()
    hook = dict(type='sparseformer_mm.LossScaleHook')
    train(model, tmp_path, lambda o: ScaledOptimWrapper(optimizer=o), [hook], 3)
    assert model.seen == [16.0, 32.0, 64.0]
    assert model.backbone.cortex[0].sampler.loss_scale == 64.0
    assert model.backbone.cortex[0].sampler.knows_loss_scale


def test_without_loss_scaling_the_scale_is_one(tmp_path):
    model = ToyModel()
    model.backbone.set_loss_scale(1024.0)  # left over from another training
    train(
        model,
        tmp_path,
        lambda o: OptimWrapper(optimizer=o),
        [dict(type='sparseformer_mm.LossScaleHook')],
    )
    assert model.seen == [1.0, 1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_float16_training_on_gpu(tmp_path):
    model = ToyModel().cuda()
    train(
        model,
        tmp_path,
        lambda o: AmpOptimWrapper(optimizer=o, loss_scale=512.0),
        [dict(type='sparseformer_mm.LossScaleHook')],
    )
    assert model.seen == [512.0, 512.0]
    assert all(p.isfinite().all() for p in model.parameters())


def test_several_optimizers_must_agree():

    def wrapper(scale):
        return SimpleNamespace(loss_scaler=SimpleNamespace(get_scale=lambda: scale))

    def run(*scales):
        together = OptimWrapperDict.__new__(OptimWrapperDict)
        together.optim_wrappers = {str(i): wrapper(s) for i, s in enumerate(scales)}
        model = ToyModel()
        runner = SimpleNamespace(model=model, optim_wrapper=together)
        LossScaleHook().before_train_iter(runner, 0)
        return model.backbone.focusing.sampler.loss_scale

    assert run(4.0, 4.0) == 4.0
    with pytest.raises(
        ValueError, match=r'different loss scales \[2.0, 4.0\].*one scaler'
    ):
        run(4.0, 2.0)


def split_gradient(limit_batch_size, processes=1, steps=1):
    """Of a batch of 8 that is split, as DDP averages it, for the sampling points."""
    torch.manual_seed(0)
    model = ToyModel()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    images = torch.randn(8, 3, 32, 32)
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.0), accumulative_counts=steps
    )
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    hook = LossScaleHook(limit_batch_size)
    for part in images.chunk(processes * steps):
        batch = dict(inputs=dict(x=part))
        hook.before_train_iter(runner, 0, batch)
        loss = 1e4 * model(batch['inputs'], mode='loss')['loss']
        wrapper.scale_loss(loss).backward()
    return model.backbone.focusing.sampler.bias.grad / processes


def test_the_limit_does_not_depend_on_how_a_batch_is_split(float64):
    whole = split_gradient(4)
    for split in (dict(processes=4), dict(steps=4), dict(processes=2, steps=2)):
        assert_near(split_gradient(4, **split), whole, 1e-9)
    # The authors' form: two processes of 4 images are what the number stands for.
    assert_near(split_gradient(None, processes=2), whole, 1e-9)
    assert (split_gradient(None, processes=4) / whole).abs().max() < 0.9
    unlimited = split_gradient(10**9)
    assert whole.abs().sum() < 0.9 * unlimited.abs().sum()


def test_batches_whose_images_are_counted():
    image = torch.zeros(3, 4, 4)
    counts = {
        2: [dict(inputs=[image] * 2), dict(inputs=torch.zeros(2, 3, 4, 4))],
        4: [
            dict(inputs=[[image] * 2] * 2),
            dict(inputs=dict(a=[image], b=[image] * 3)),
        ],
    }
    for count, batches in counts.items():
        assert [hooks._count_images(batch) for batch in batches] == [count] * 2
    for batch in (None, dict(images=[image]), dict(inputs=[])):
        with pytest.raises(ValueError, match='limit_batch_size .* under .inputs.'):
            hooks._count_images(batch)
    with pytest.raises(ValueError, match='limit_batch_size=0'):
        LossScaleHook(0)


def test_wrappers_that_scale_out_of_sight_leave_the_warning_on():
    class ApexOptimWrapper:
        pass

    model = ToyModel()
    runner = SimpleNamespace(model=model, optim_wrapper=ApexOptimWrapper())
    LossScaleHook().before_train_iter(runner, 0)
    assert not model.backbone.focusing.sampler.knows_loss_scale


def test_two_models_do_not_share_a_scale():
    one, two = ToyModel(), ToyModel()
    one.backbone.set_loss_scale(1024.0)
    assert one.backbone.focusing.sampler.loss_scale == 1024.0
    assert two.backbone.focusing.sampler.loss_scale == 1.0
    assert 'loss_scale' not in ''.join(one.state_dict())
