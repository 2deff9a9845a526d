"""Elastic tokens: which ones run, that they are a smaller model, and how they train."""

import copy
import math

import pytest
import torch

from helpers.numerics import assert_near
from helpers.small_model import small_bootstrapped, small_model
from sparseformer_mm import SparseFormer, build
from sparseformer_mm.models.elastic import answer_when_certain, coverage_order
from sparseformer_mm.models.rois import init_rois, rois_to_corners

IMAGES = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------- which tokens run
@pytest.mark.parametrize('num_tokens', [4, 5, 9, 10, 16, 25, 48, 49, 81])
@pytest.mark.parametrize('roi_init', ['half', 'square'])
def test_four_tokens_and_more_cover_the_picture(num_tokens, roi_init):
    order = coverage_order(num_tokens, roi_init)
    assert sorted(order) == list(range(num_tokens))
    lower, upper = rois_to_corners(init_rois(num_tokens, roi_init)).chunk(2, -1)
    steps = torch.linspace(0, 1, 41)
    points = torch.cartesian_prod(steps, steps)[:, None]
    for number in range(4, num_tokens + 1):
        first = list(order[:number])
        inside = (points >= lower[first] - 1e-6) & (points <= upper[first] + 1e-6)
        assert inside.all(-1).any(-1).all(), number


@pytest.mark.parametrize('roi_init', ['half', 'cell'])
@pytest.mark.parametrize('num_tokens', [2, 3, 7, 16, 49, 60])
def test_no_token_is_farther_from_the_first_ones_than_these_from_each_other(
    num_tokens, roi_init
):
    """So that the first n are spread as well as half as far as any n could be."""
    centers = init_rois(num_tokens, roi_init)[:, :2].double()
    distances = torch.cdist(centers, centers)
    order = list(coverage_order(num_tokens, roi_init))
    for number in range(2, num_tokens):
        between = distances[order[:number]][:, order[:number]]
        between.fill_diagonal_(math.inf)
        left = distances[order[number:]][:, order[:number]].amin(1)
        assert left.max() <= between.min() + 1e-6


def test_equals_are_taken_where_they_are_repelled_least():
    # Columns of four: corners, then the diagonal of the inner ones, then the other.
    assert coverage_order(16, 'half')[:6] == (0, 15, 3, 12, 5, 10)
    assert coverage_order(9, 'cell') == (0, 8, 2, 6, 4, 1, 7, 3, 5)


@pytest.mark.parametrize('roi_init', ['random', 'whole'])
def test_starts_without_a_grid_keep_their_order(roi_init):
    assert coverage_order(7, roi_init) == tuple(range(7))


def test_the_order_needs_no_values_and_no_random_numbers():
    before = torch.get_rng_state()
    with torch.device('meta'):
        model = SparseFormer('nano', num_tokens=12, test_tokens=5, roi_init='cell')
    assert model._order == coverage_order(12, 'cell')
    coverage_order(8, 'random')
    assert torch.equal(torch.get_rng_state(), before)


def test_smaller_sets_are_inside_of_larger_ones():
    model, running = small_model(num_tokens=12).eval(), []
    for number in range(1, 13):
        model.test_tokens = number
        running.append(set(model._running_tokens() or range(12)))
        assert len(running[-1]) == number
    assert all(a < b for a, b in zip(running, running[1:]))


# ------------------------------------------------------------- they are a smaller model
def smaller(model: SparseFormer, make, **kwargs) -> SparseFormer:
    """A model built with as many tokens as run in this one, and their weights."""
    running = model._running_tokens()
    state = model.state_dict()
    for name in ('latent.token_rois', 'latent.token_embeddings'):
        if len(state[name]) > 1:
            state[name] = state[name][running]
    other = make(num_tokens=model.test_tokens, **kwargs).eval()
    assert {len(other.latent.token_rois)} == {len(running)}
    other.load_state_dict(state)
    return other


@torch.no_grad()
@pytest.mark.parametrize('number', [1, 2, 4])
@pytest.mark.parametrize(
    'make, kwargs',
    [
        (small_model, dict()),
        (small_model, dict(roi_init='cell', out_type='tokens')),
        (small_model, dict(out_type='maps', map_strides=(4, 8), map_channels=8)),
        (small_model, dict(spatial_dims=3, token_inflation=2, out_type='featmap')),
        (small_bootstrapped, dict()),  # one embedding for all, and a class token
    ],
)
def test_n_tokens_are_a_model_of_n_tokens(make, kwargs, number):
    model = make(**kwargs, test_tokens=number).eval()
    inputs = IMAGES
    if 'spatial_dims' in kwargs:
        inputs = torch.rand(2, 3, 6, 32, 40)
        total = model.latent.num_tokens  # all copies of a token, or none
        running = model._running_tokens()
        assert running[number:] == [i + total for i in running[:number]]
    ours, theirs = model(inputs), smaller(model, make, **kwargs)(inputs)
    if kwargs.get('out_type') == 'tokens':
        assert ours.tokens.shape[1] == ours.stages[0].rois.shape[1] == number
        ours, theirs = ours[:3], theirs[:3]
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)
    model.test_tokens = None
    assert not torch.equal(model(inputs)[0], theirs[0])


@pytest.mark.parametrize('mode', [True, False])
def test_all_tokens_are_the_ordinary_model(mode):
    """Bit for bit, gradients and random numbers too."""
    plain = small_model(drop_path_rate=0.2).train(mode)
    every = copy.deepcopy(plain)
    every.test_tokens, every.train_tokens = 5, None
    results = []
    for model in (plain, every):
        torch.manual_seed(3)
        (out,) = model(IMAGES)
        out.square().sum().backward()
        results.append([out, torch.rand(1), *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *results))
    assert plain.state_dict().keys() == every.state_dict().keys()


@torch.no_grad()
@pytest.mark.mmseg
def test_a_location_aware_segmentor_takes_any_number():
    pytest.importorskip('mmseg', reason='needs mmseg')
    from sparseformer_mm.segmentation import LocationAwareHead

    model = small_model(out_type='tokens').eval()
    head = LocationAwareHead(24, 8, feat_channels=8, num_classes=3, in_index=2).eval()
    full = head(model(IMAGES))
    model.test_tokens = 2
    few = head(model(IMAGES))
    assert few.shape == full.shape and not torch.allclose(few, full)


@pytest.mark.mmdet
def test_a_detector_says_that_its_queries_are_tokens():
    pytest.importorskip('mmdet', reason='needs mmdet')
    from sparseformer_mm.detection import SparseFormerDetector, SparseFormerHead

    model = small_model(out_type='tokens', out_indices=(1,)).eval()
    head = SparseFormerHead(num_classes=2, embed_dims=24, num_queries=3)
    model.test_tokens = 3
    assert head(model(IMAGES))[0].shape == (1, 3, 3, 3)
    model.test_tokens = 2
    with pytest.raises(ValueError, match='exceeds the 2 tokens .* test_tokens'):
        head(model(IMAGES))
    with pytest.raises(ValueError, match='exceeds the 2 tokens that may run'):
        SparseFormerDetector._check_fit(model, head)
    model.test_tokens, model.train_tokens = None, [2, 5]
    with pytest.raises(ValueError, match='exceeds the 2 tokens that may run'):
        SparseFormerDetector._check_fit(model, head)


# --------------------------------------------------------------------------- training
def drawn(model: SparseFormer, batches: int) -> list:
    """How many tokens run in each of so many batches."""
    return [len(model._running_tokens() or range(5)) for _ in range(batches)]


def test_numbers_are_drawn_from_the_seed():
    model = small_model(train_tokens=[2, 3, 5])
    torch.manual_seed(7)
    first = drawn(model, 60)
    torch.manual_seed(7)
    assert drawn(model, 60) == first
    assert drawn(model, 60) != first
    assert {number: first.count(number) > 8 for number in first} == dict.fromkeys(
        (2, 3, 5), True
    )
    # In evaluation all run, and nothing is drawn.
    before = torch.get_rng_state()
    assert drawn(model.eval(), 3) == [5, 5, 5]
    assert torch.equal(torch.get_rng_state(), before)
    # Frozen tokens are trained around just the same.
    model = small_model(train_tokens=[2], frozen_stages=1).train()
    assert drawn(model, 1) == [2]


@pytest.mark.parametrize('kwargs', [dict(), dict(spatial_dims=3, token_inflation=2)])
def test_gradients_go_to_tokens_that_run_and_to_every_parameter(kwargs):
    """Each parameter has a gradient: nothing is unused for DistributedDataParallel."""
    inputs = torch.rand(2, 3, *(4, 32, 40)[-kwargs.get('spatial_dims', 2) :])
    grads = []
    for with_cp in (False, True):
        model = small_model(train_tokens=[3], with_cp=with_cp, **kwargs)
        running = model._running_tokens()
        model(inputs)[0].square().sum().backward()
        grads.append([param.grad for param in model.parameters()])
        assert all(grad is not None for grad in grads[-1])
        for param in model.latent.parameters():
            touched = param.grad.abs().sum(1).nonzero().flatten().tolist()
            assert touched == running
    assert all(map(torch.equal, *grads))


def test_an_elastic_training_learns_what_few_tokens_say():
    """Before, the answers of two tokens have nothing to do with the target."""
    model = small_model(train_tokens=[2, 5])
    head = torch.nn.Linear(24, 3)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], 3e-3)
    torch.manual_seed(0)

    def loss(number=None):
        model.test_tokens = number
        return torch.nn.functional.cross_entropy(
            head(model(IMAGES)[0]), torch.tensor([0, 1, 2])
        )

    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert max(loss(2), loss(5)) < 0.3


# ------------------------------------------------------------------------ torch's tools
@torch.no_grad()
def test_trace_has_the_number_in_it():
    model = small_model(test_tokens=2).eval()
    traced = torch.jit.trace(model, IMAGES)
    expected = model(IMAGES)
    model.test_tokens = 4
    assert_near(traced(IMAGES), expected, 1e-5)


@torch.no_grad()
@pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason='older compilers break the graph here',
)
def test_compiled_models_follow_the_number(new_compiler):
    model = small_model(test_tokens=2).eval()
    run = torch.compile(model, fullgraph=True, backend='aot_eager')
    for number in (2, 4, None):
        model.test_tokens = number
        assert_near(run(IMAGES), model(IMAGES), 1e-5)
    model.test_tokens = 3
    program = torch.export.export(model, (IMAGES,))
    assert_near(program.module()(IMAGES), model(IMAGES), 1e-5)


def test_compiled_training_draws_too(new_compiler):
    model = small_model(train_tokens=[2, 3, 5])
    run = torch.compile(model, backend='eager')
    for seed in range(6):
        results = []
        for call in (model, run):
            torch.manual_seed(seed)
            (out,) = call(IMAGES)
            model.zero_grad()
            out.square().sum().backward()
            results.append([out, model.latent.token_rois.grad])
        assert_near(*results, 1e-4)


# --------------------------------------------------------------- picture by picture
@torch.no_grad()
def test_only_doubtful_pictures_get_more_tokens():
    torch.manual_seed(0)
    model = build('nano', num_classes=4, num_tokens=9, cortex_depth=1).eval()
    for param in model.parameters():
        param.add_(torch.randn_like(param) * 0.05)
    images = torch.rand(8, 3, 32, 32) * torch.linspace(0.2, 3, 8)[:, None, None, None]
    alone = {}
    for number in (4, 6, 9):
        model.backbone.test_tokens = number
        alone[number] = model(images)
    model.backbone.test_tokens = 7
    sure = {number: logits.softmax(1).amax(1) for number, logits in alone.items()}
    middle = sure[4].median().item() + 1e-4
    answer = answer_when_certain(model, images, [4, 6, 9], middle)
    expected = torch.where(sure[4] >= middle, 4, torch.where(sure[6] >= middle, 6, 9))
    assert torch.equal(answer.num_tokens, expected)
    assert 0 < (expected == 4).sum() < 8
    for i, number in enumerate(expected.tolist()):
        assert_near([answer.logits[i]], [alone[number][i]], 1e-4)
    assert model.backbone.test_tokens == 7

    everyone = answer_when_certain(model, images, [4, 9], certainty=1.1)
    assert_near([everyone.logits], [alone[9]], 1e-4)
    at_once = answer_when_certain(model, images, (6, 9), certainty=0)
    assert torch.equal(at_once.logits, alone[6])
    none = answer_when_certain(model, images[:0], [4, 9])
    assert none.logits.shape == (0, 4) and none.num_tokens.shape == (0,)


@pytest.mark.parametrize(
    'budgets, training, message',
    [
        ([4, 10], False, 'test_tokens=10 must be from 1 to 9'),
        ([4, 4], False, r'budgets=\[4, 4\] must be rising'),
        ([], False, r'budgets=\[\] must be rising'),
        ([4], True, r'call model.eval\(\)'),
    ],
)
def test_wrong_budgets(budgets, training, message):
    model = build('nano', num_classes=4, num_tokens=9, cortex_depth=1)
    model.train(training).backbone.test_tokens = 5
    with pytest.raises(ValueError, match=message):
        answer_when_certain(model, IMAGES, budgets, certainty=2)
    assert model.backbone.test_tokens == 5


# ----------------------------------------------------------------------- arguments
@pytest.mark.parametrize('number', [0, 6, -1, 2.0, True, '3'])
def test_wrong_numbers(number):
    with pytest.raises(ValueError, match=r'test_tokens=.* from 1 to 5 \(num_tokens'):
        small_model(test_tokens=number)
    model = small_model(test_tokens=2)
    with pytest.raises(ValueError, match='test_tokens=.* or None for all'):
        model.test_tokens = number
    assert model.test_tokens == 2
    for numbers in ([4, number], number, []):
        with pytest.raises(ValueError, match=r'train_tokens=.* each from 1 to 5 \(num'):
            small_model(train_tokens=numbers)
