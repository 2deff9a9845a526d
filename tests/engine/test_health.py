"""HealthHook: what it tells of trainings that go nowhere, and that it only looks."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from helpers.small_model import small_bootstrapped, small_model
from sparseformer_mm import SparseFormer
from sparseformer_mm.engine import HealthHook, health
from sparseformer_mm.engine.amp import BFloat16OptimWrapper
from sparseformer_mm.engine.symptoms import (
    Limits,
    Symptom,
    likeness,
    lost_shares,
    of_gradients,
    of_loss,
    of_loss_curve,
)

ARCH = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=1,
    cortex_dims=16,
    cortex_depth=2,
    num_heads=4,
    feat_channels=8,
)


class Toy(BaseModel):
    """Tells bright pictures from dark ones."""

    def __init__(self, backbone=None, weigh=lambda loss, count: loss):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SparseFormer(ARCH) if backbone is None else backbone
        self.head = torch.nn.Linear(self.backbone.embed_dims, 2)
        self.weigh, self.count = weigh, 0
        self.init_weights()  # now, not when a training begins

    def forward(self, inputs, mode='tensor'):
        logits = self.head(self.backbone(inputs['x'])[0]).float()
        self.count += 1
        loss = torch.nn.functional.cross_entropy(logits, inputs['y'])
        return dict(loss=self.weigh(loss, self.count))


def pictures():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 3, 16, 16, generator=generator)
    return [
        dict(inputs=dict(x=image + 2 * (i % 2) - 1, y=i % 2))
        for i, image in enumerate(noise)
    ]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train a model; returns what the hook says."""

    def run(model, iterations=12, lr=1e-2, wrap=OptimWrapper, scheduler=None, **kwargs):
        said, data = [], pictures()
        monkeypatch.setattr(health, 'warn', said.append)
        clip = kwargs.pop('clip_grad', None)
        counts = kwargs.pop('accumulative_counts', 1)
        hook = dict(type='sparseformer_mm.HealthHook', interval=2, looks=3)
        Runner(
            model,
            str(tmp_path),
            train_dataloader=torch.utils.data.DataLoader(
                data, batch_size=4, sampler=InfiniteSampler(data, shuffle=False)
            ),
            train_cfg=dict(by_epoch=False, max_iters=iterations, val_interval=10**6),
            optim_wrapper=dict(
                type=wrap,
                optimizer=dict(type='AdamW', lr=lr),
                clip_grad=clip,
                accumulative_counts=counts,
            ),
            param_scheduler=scheduler,
            custom_hooks=[] if kwargs.pop('plain', False) else [dict(hook, **kwargs)],
            randomness=dict(seed=0),
            default_hooks=dict(checkpoint=None),
            experiment_name=f'{tmp_path.name}{len(list(tmp_path.iterdir()))}',
        ).train()
        return said

    return run


WAYS = {
    'plain': dict(),
    'clipped': dict(clip_grad=dict(max_norm=0.5)),
    'bfloat16': dict(wrap=BFloat16OptimWrapper),
    'accumulated': dict(accumulative_counts=2),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_healthy_training_is_silent_and_the_same_bit_by_bit(train, way, with_cp):
    model = Toy(SparseFormer(ARCH, with_cp=with_cp, drop_path_rate=0.2))
    other = copy.deepcopy(model)
    assert train(model, **WAYS[way]) == []
    train(other, plain=True, **WAYS[way])
    weights = other.state_dict()
    assert all((x == weights[name]).all() for name, x in model.state_dict().items())
    assert not any(x._forward_hooks for x in model.modules())


def test_rois_outside_the_picture_are_told_once(train):
    model = Toy()
    with torch.no_grad():
        model.backbone.latent.token_rois[:3, 0] += 5
    (said,) = train(model, iterations=20, lr=1e-4)
    assert 'iteration 6: 75% of the RoIs look at nothing (75% have' in said
    assert '3 looks in a row' in said and 'learning rate' in said
    assert train(Toy(), lr=1e-4, lost_rois=0.8) == []


@pytest.mark.parametrize(
    'size, words', [(1e-5, '100% are smaller'), (50, '100% larger')]
)
def test_rois_that_collapse_or_blow_up(train, size, words):
    model = Toy()
    with torch.no_grad():
        model.backbone.latent.token_rois[:, 2:] = size
    assert [words in x for x in train(model, lr=1e-6)] == [True]


def test_tokens_that_are_all_alike(train):
    model = Toy(SparseFormer(ARCH, roi_init='whole'))
    with torch.no_grad():
        model.backbone.latent.token_embeddings[:] = 1
    (said,) = train(model, lr=1e-4)
    assert 'all tokens of a picture are alike (mean cosine 1.0000)' in said


def test_a_loss_that_is_not_finite_is_told_at_the_next_look(train):
    model = Toy(weigh=lambda loss, count: loss * (float('nan') if count > 4 else 1))
    said = train(model)
    assert 'iteration 6: loss is nan' in said[0]
    assert sum('loss is nan' in x for x in said) == 1


def test_a_loss_that_does_not_move(train):
    (said,) = train(Toy(), iterations=30, lr=0.0, fall_within=20)
    assert 'iteration 20: the loss has not moved' in said and 'lr is not 0' in said
    assert train(Toy(), iterations=30, fall_within=20) == []


def test_gradients_of_zero(train):
    (said,) = train(Toy(weigh=lambda loss, count: loss * 0))
    assert 'iteration 6: the gradient of the tokens is 0, 3 looks' in said
    # What is frozen is asked for no gradient.
    model = Toy()
    model.backbone.requires_grad_(False)
    assert train(model) == []


def test_gradients_that_are_cut_to_nothing(train):
    (said,) = train(Toy(), clip_grad=dict(max_norm=1e-7), lr=1e-4)
    assert 'cut to less than 1/10000' in said and 'allows 1e-07' in said


def test_nothing_is_told_while_the_learning_rate_rises(train):
    rise = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10)

    def broken():
        model = Toy()
        with torch.no_grad():
            model.backbone.latent.token_rois[:, 0] += 50
        return model

    assert train(broken(), iterations=8, lr=1e-4, scheduler=rise) == []
    (said,) = train(broken(), iterations=12, lr=1e-4, scheduler=rise)
    # Above a half from iteration 6 on.
    assert 'iteration 10: 100% of the RoIs' in said


def test_what_passes_is_not_told(train):
    def weigh(loss, count):  # of no gradient at every look but one in three
        return loss * (count % 6 == 0)

    assert train(Toy(weigh=weigh), iterations=18) == []


def test_other_processes_do_nothing(train, monkeypatch):
    monkeypatch.setattr(health, 'is_main_process', lambda: False)
    registered = []
    monkeypatch.setattr(health, '_Tap', lambda *args: registered.append(args))
    assert train(Toy(weigh=lambda loss, count: loss * 0)) == [] == registered


def test_wrong_arguments():
    with pytest.raises(
        TypeError, match="no argument 'likeness'; its limits are .*alike"
    ):
        HealthHook(likeness=1)
    with pytest.raises(ValueError, match='interval=0'):
        HealthHook(interval=0)


def look(hook, start, iterations, watch=None):
    """Run the hook by itself, without a model, at a learning rate that stays."""
    runner = SimpleNamespace(iter=start, cfg={}, model=torch.nn.Module())
    runner.optim_wrapper = SimpleNamespace(param_groups=[dict(lr=1.0)])
    runner.message_hub = SimpleNamespace(log_scalars={})
    hook.before_train(runner)
    hook._watch = watch
    for runner.iter in range(start, start + iterations):
        hook.before_train_iter(runner, 0)
        if watch is not None:
            watch.module(torch.ones(1))
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.ones(())))


@pytest.mark.parametrize('start, count', [(0, 1), (7, 0)])
def test_a_resumed_training_need_not_move(monkeypatch, start, count):
    said = []
    monkeypatch.setattr(health, 'warn', said.append)
    look(HealthHook(1, 1, fall_within=2), start, 5)
    assert len(said) == count


@pytest.mark.parametrize(
    'lasts, expected', [('at once', 1), ('some looks', 2), ('long', 4)]
)
def test_how_long_symptoms_of_predictions_last(monkeypatch, lasts, expected):
    said = []
    monkeypatch.setattr(health, 'warn', said.append)

    class Watch:
        module = torch.nn.Identity()

        def figures(self, output):
            return torch.tensor([1.0, 2.0])

        def symptoms(self, figures, batch, outputs, limits):
            assert figures == [1, 2] and 'loss' in outputs
            yield Symptom('name', 'SEEN', 'CURE', lasts)

    look(HealthHook(1, looks=2, long_looks=4), 0, 6, Watch())
    (text,) = said
    assert f'iteration {expected}: SEEN' in text and 'What to try: CURE.' in text


# ------------------------------------------------------------------------- the figures
def test_likeness_is_the_mean_cosine():
    tokens = torch.randn(3, 5, 7)
    cosines = torch.nn.functional.cosine_similarity(
        tokens[:, :, None], tokens[:, None], dim=-1
    )
    expected = (cosines.sum((1, 2)) - 5).mean() / 20
    torch.testing.assert_close(likeness(tokens), expected)
    assert likeness(torch.ones(2, 3, 4).bfloat16()) > 0.999
    assert likeness(torch.ones(1, 1, 4)).isnan()


def test_shares_of_rois():
    inside = [0.5, 0.0, 0.3, 0.3]
    rois = torch.tensor(
        [[inside, [1.1, 0.5, 0.3, 20.0], [0.5, 0.5, 0.3, 1e-4], inside]]
    )
    shares = lost_shares(rois, Limits().roi_size)
    assert shares.tolist() == [0.25, 0.25, 0.25, 0.5]
    tubes = torch.tensor([[[0.5, 0.5, 1.5, 1, 1, 1], [0.5, 0.5, 0.5, 1, 1, 1]]])
    assert lost_shares(tubes, (0.1, 2)).tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize('make', [small_model, small_bootstrapped])
def test_the_figures_are_those_of_the_last_tokens(make):
    model = make(out_type='tokens')
    hook = HealthHook()
    tap = health._Tap(model.cortex[-1], hook._look_at_tokens)
    images = torch.rand(2, 3, 32, 32)
    seen = model(images)
    alike, *lost = tap.close()
    assert lost == lost_shares(seen.rois, Limits().roi_size).tolist()
    # With the final norm, whose gain and bias are small noise here, nearly the same.
    assert 0 < alike < 1 and abs(alike - likeness(seen.tokens).item()) < 0.2
    assert hook._gradient == 0
    seen.tokens.sum().backward()
    assert hook._gradient > 0


def test_gradients_in_numbers():
    def names(*args):
        return [x.name for x in of_gradients(*args, Limits())]

    for fine in ((None, None, None), (1.0, 5.0, 0.1), (1.0, 9e9, None)):
        assert names(*fine) == []
    assert names(0.0, 1.0, None) == names(None, 0.0, 1.0) == ['no_gradient']
    assert names(1.0, float('inf'), 1.0) == ['overflow']
    assert names(1.0, 1001.0, 0.1) == ['clipped']


def test_losses_in_numbers():
    nan, one = torch.tensor(float('inf')), torch.ones(())
    (symptom,) = of_loss({'loss': one, 'decode.loss_ce': nan, 'acc_seg': nan})
    assert symptom.seen.startswith('decode.loss_ce is inf')
    falls, rises, noise = [2, 2, 1, 1], [1, 1, 2, 2], [2, 2, 2.1, 1.89]
    told = [list(of_loss_curve(x, 2, Limits())) for x in (falls, rises, noise)]
    assert list(map(len, told)) == [0, 1, 1]
    assert '1 in the first 2 looks, 2 in the last 2' in told[1][0].seen
