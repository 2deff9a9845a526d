"""LossScaleHook under mmengine's runner and optimizer wrappers."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from sparseformer_mm import SparseFormer
from sparseformer_mm.engine import LossScaleHook

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

    def together(*scales):
        result = OptimWrapperDict.__new__(OptimWrapperDict)
        result.optim_wrappers = {str(i): wrapper(s) for i, s in enumerate(scales)}
        return result

    assert LossScaleHook._loss_scale(together(4.0, 4.0)) == 4.0
    with pytest.raises(
        ValueError, match=r'different loss scales \[2.0, 4.0\].*one scaler'
    ):
        LossScaleHook._loss_scale(together(4.0, 2.0))


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
