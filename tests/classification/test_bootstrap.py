"""A SparseFormer inherits from a vision transformer and learns its answer."""

import copy
import logging
import re

import pytest
import torch

pytest.importorskip(
    'mmpretrain', reason='needs mmpretrain: pip install onedl-mmpretrain'
)

from mmengine.hooks import EMAHook  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from helpers import toy_bootstrap as toy  # noqa: E402
from sparseformer_mm.classification.inheritance import inherit_backbone  # noqa: E402

pytestmark = [pytest.mark.mmpretrain, pytest.mark.usefixtures('quiet')]


@pytest.fixture
def teacher(tmp_path):
    return toy.save(toy.TEACHER, tmp_path / 'vit.pth')


@pytest.fixture
def model(teacher):
    model = toy.build(toy.student(teacher))
    model.init_weights()
    return model


def images(size=32, batch=3):
    generator = torch.Generator().manual_seed(1)
    dtype = torch.get_default_dtype()
    return torch.randn(batch, 3, size, size, generator=generator, dtype=dtype)


# Of the transformer's three blocks, the second is tuned and the last one frozen.
BLOCKS = {'cortex.1': 'layers.1', 'cortex.2': 'layers.2'}
NAMES = {
    'attn_norm': 'ln1',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'ffn_norm': 'ln2',
    'ffn.fc1': 'ffn.layers.0.0',
    'ffn.fc2': 'ffn.layers.1',
}
PAIRS = {
    f'backbone.{ours}.{mine}': f'backbone.{theirs}.{yours}'
    for ours, theirs in BLOCKS.items()
    for mine, yours in NAMES.items()
}
PAIRS.update({'backbone.norm': 'backbone.ln1', 'head.fc': 'head.layers.head'})


def test_inherited_tensors_are_the_teachers(teacher, model):
    saved = torch.load(teacher['init_cfg']['checkpoint'])['state_dict']
    own = model.state_dict()
    for name, theirs in PAIRS.items():
        for end in ('weight', 'bias'):
            assert torch.equal(own[f'{name}.{end}'], saved[f'{theirs}.{end}']), name
    token = saved['backbone.cls_token'][0] + saved['backbone.pos_embed'][:, 0]
    assert torch.equal(own['backbone.class_token.weight'], token)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {'backbone.class_token.weight'} | {
        f'{name}.{end}'
        for name in PAIRS
        if not name.startswith('backbone.cortex.1.')
        for end in ('weight', 'bias')
    }
    assert trained == own.keys() - frozen


def test_inherited_blocks_compute_what_the_teachers_do(float64, teacher, model):
    """From the same tokens, in the same mode, up to the same scores."""
    tokens = ours = torch.randn(2, 5, 32)
    model.double().eval()
    model.backbone.norm.eps = 1e-6
    for block in model.backbone.cortex[1:]:
        for norm in (block.attn_norm, block.ffn_norm):
            norm.eps = 1e-6
        ours, _, _ = block(ours, None, None)
    ours = model.head((model.backbone.norm(ours)[:, 0],))
    vit = model.teacher.backbone
    assert vit.pos_embed.dtype == torch.float64  # it follows the student
    for layer in vit.layers[1:]:
        tokens = layer(tokens)
    theirs = model.teacher.head((vit.ln1(tokens)[:, 0],))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_log_names_what_was_inherited_and_what_was_not(teacher):
    logging.disable(logging.NOTSET)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.setLevel('INFO')
    logger.addHandler(handler)
    model = toy.build(toy.student(teacher))
    model.init_weights()
    logger.removeHandler(handler)
    found = [line for line in lines if line.startswith('inherited')]
    wanted = 'inherited, {}: backbone.{} <- {}'
    assert len(found) == 2 * len(PAIRS) + 1
    fc2 = 'ffn.fc2.bias', 'ffn.layers.1.bias (32,)'
    assert wanted.format('tuned', f'cortex.1.{fc2[0]}', f'layers.1.{fc2[1]}') in found
    assert wanted.format('frozen', f'cortex.2.{fc2[0]}', f'layers.2.{fc2[1]}') in found
    token = 'cls_token + pos_embed[0] (1, 32)'
    assert wanted.format('frozen', 'class_token.weight', token) in found
    (last,) = (line for line in lines if line.startswith('BootstrapSparseFormer'))
    own = model.state_dict()
    anew = re.search(r'; (\d+) start anew: (.*)', last)
    assert int(anew[1]) == len(own) - len(found) == len(anew[2].split(', '))
    assert {*anew[2].split(', ')} <= own.keys()


def test_loss_is_one_minus_the_cosine(float64, model):
    model.double().eval()
    x = images()
    with torch.no_grad():
        loss = model(x, mode='loss')['loss']
        ours, theirs = model(x)[0], model.teacher.backbone(x)[0]
    pairs = [
        1 - (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
        for a, b in zip(ours, theirs)
    ]
    assert loss.item() == pytest.approx(sum(pairs).item() / 3, abs=1e-12)
    assert 0.05 < loss < 1.95  # they differ still


def test_sizes_are_what_each_sees(teacher):
    model = toy.build(toy.student(teacher, student_size=16, teacher_size=(40, 48)))
    model.init_weights()
    seen = {}
    for name, part in dict(student=model.backbone, teacher=model.teacher).items():
        part = getattr(part, 'backbone', part)
        part.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0].shape[-2:]})
        )
    model(images(), mode='loss')
    assert seen == dict(student=(16, 16), teacher=(40, 48))
    model(images())
    assert seen['student'] == (16, 16)


def train(model, steps=3, wrap=None):
    """Train with decay of all weights and noise in all blocks; no labels."""
    model.train()
    model.backbone.drop_path_rates = [0.0] + [0.5] * 4
    cfg = dict(optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.5))
    optim = build_optim_wrapper(model, cfg)
    ema = EMAHook(momentum=0.3)
    runner = type('Runner', (), dict(model=model, iter=9, epoch=0))()
    ema.before_run(runner)
    for step in range(steps):
        # As collated, of pictures without labels.
        data = dict(inputs=images(), data_samples=[DataSample() for _ in range(3)])
        (wrap or model).train_step(data, optim)
        ema.after_train_iter(runner, step)
    return ema.ema_model.module


def assert_only_the_rest_changed(before, after, model):
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == 17
    for name, value in before.items():
        same = torch.equal(value, after[name])
        assert same == (name in frozen), name


def test_frozen_parts_stay_to_the_last_bit(teacher, model):
    before = copy.deepcopy(model.state_dict())
    theirs = copy.deepcopy(model.teacher.state_dict())
    averaged = train(model)
    assert_only_the_rest_changed(before, model.state_dict(), model)
    assert_only_the_rest_changed(before, averaged.state_dict(), model)
    # The teacher: not changed, not copied, not in a mode that drops.
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, theirs[name])
    assert averaged.teacher is model.teacher
    assert not any(module.training for module in model.teacher.modules())
    frozen = [*model.backbone.cortex[2].modules(), model.backbone.norm, model.head]
    assert not any(module.training for module in frozen)
    assert all(module.training for module in model.backbone.cortex[1].modules())
    # Averages differ from the last weights, so they were taken.
    name = 'backbone.cortex.1.ffn.fc1.weight'
    assert not torch.equal(averaged.state_dict()[name], model.state_dict()[name])


def test_with_distributed_data_parallel(model, tmp_path):
    """Every parameter that is trained gets a gradient, or the wrapper would stop."""
    from mmengine.model import MMDistributedDataParallel

    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1
    )
    try:
        before = copy.deepcopy(model.state_dict())
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
        train(model, wrap=wrapped)
    finally:
        torch.distributed.destroy_process_group()
    assert_only_the_rest_changed(before, model.state_dict(), model)


def test_checkpoint_is_an_ordinary_classifiers(model):
    state = model.state_dict()
    classifier = toy.build(
        dict(type='ImageClassifier', backbone=toy.BACKBONE, head=toy.HEAD)
    )
    classifier.load_state_dict(state)  # all names, no others
    x = images()
    classifier.eval(), model.eval()
    with torch.no_grad():
        ours, theirs = model(x, mode='predict'), classifier(x, mode='predict')
    for one, other in zip(ours, theirs):
        assert torch.equal(one.pred_score, other.pred_score)


def test_clip_of_which_the_visual_tower_is_the_teacher(tmp_path):
    """Without its text tower, which would need a tokenizer's files."""
    quick = dict(act_cfg=dict(type='mmpretrain.QuickGELU'))
    channels = dict(in_channels=32, out_channels=12)
    neck = dict(channels, type='LinearNeck', norm_cfg=None)
    visual = dict(toy.VIT, pre_norm=True, layer_cfgs=quick)
    tower = toy.shake(
        toy.build(dict(type='ImageClassifier', backbone=visual, neck=neck))
    )
    torch.nn.init.zeros_(tower.neck.fc.bias)
    state = {f'visual.{k}': v for k, v in tower.backbone.state_dict().items()}
    state['visual_proj.proj'] = tower.neck.fc.weight.t()
    state['transformer.resblocks.0.ln_1.weight'] = torch.ones(4)
    torch.save(dict(state_dict=state), tmp_path / 'clip.pth')
    clip = dict(
        type='CLIPZeroShot',
        vision_backbone=visual,
        projection=dict(channels, type='CLIPProjection'),
        tokenizer='of no use here',
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'clip.pth')),
    )
    backbone = dict(toy.BACKBONE, cortex_activation='quick_gelu')
    model = toy.build(toy.student(clip, backbone=backbone, neck=neck, head=None))
    model.init_weights()
    token = tower.backbone.cls_token[0] + tower.backbone.pos_embed[:, 0]
    token = tower.backbone.pre_norm(token)
    assert torch.equal(model.backbone.class_token.weight, token)
    assert torch.equal(model.neck.fc.weight, tower.neck.fc.weight)
    assert not any(p.requires_grad for p in model.neck.parameters())
    model.eval()
    x = images()
    with torch.no_grad():
        ours, theirs = model(x)[0], tower.eval().extract_feat(x)[0]
        loss = model(x, mode='loss')['loss']
    assert ours.shape == (3, 12)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs).mean()
    assert loss.item() == pytest.approx(1 - cosine.item(), abs=1e-5)


def test_layer_scale_and_missing_biases(float64):
    """They are multiplied in, and filled with zeros: the block computes the same."""
    vit = toy.build(dict(toy.VIT, layer_scale_init_value=0.5, qkv_bias=False))
    toy.shake(vit).double().eval()
    assert sum('gamma' in name for name, _ in vit.named_parameters()) == 6
    block = toy.build(toy.BACKBONE).double().cortex[2]
    inherited = inherit_backbone(vit)
    prefix = 'cortex.2.'
    block.load_state_dict(
        {
            name[len(prefix) :]: found.value
            for name, found in inherited.items()
            if name.startswith(prefix)
        }
    )
    for norm in (block.attn_norm, block.ffn_norm):
        norm.eps = 1e-6
    tokens = torch.randn(2, 5, 32)
    ours, _, _ = block(tokens, None, None)
    torch.testing.assert_close(ours, vit.layers[2](tokens), atol=1e-12, rtol=0)


ARCH = toy.VIT['arch']
REFUSED = {
    'with_cls_token=False': dict(with_cls_token=False, out_type='featmap'),
    "out_type='avg_featmap'": dict(out_type='avg_featmap'),
    'final_norm=False': dict(final_norm=False),
    '4 blocks do not divide into thirds': dict(arch=dict(ARCH, num_layers=4)),
    'it has SwiGLU in place of two linear layers (layers.0.ffn.w12.weight)': dict(
        layer_cfgs=dict(ffn_type='swiglu_fused')
    ),
    'the activation ReLU is none of GELU, QuickGELU': dict(
        layer_cfgs=dict(act_cfg=dict(type='ReLU'))
    ),
    "no counterpart of its parameter 'layers.0.ffn.layers.2.weight'": dict(
        layer_cfgs=dict(num_fcs=3)
    ),
}


@pytest.mark.parametrize('reason', REFUSED)
def test_transformers_that_cannot_be_inherited(reason):
    with pytest.raises(ValueError, match='cannot inherit from this VisionTr') as error:
        toy.build(toy.student(toy.vit(**REFUSED[reason])))
    assert reason in str(error.value)


def test_other_transformers():
    beit = dict(type='BEiTViT', arch=dict(ARCH), img_size=32, patch_size=8)
    for cfg, reason in (
        (beit, r'from this BEiTViT: it has a relative position bias in attention'),
        (
            dict(toy.VIT, type='DistilledVisionTransformer'),
            'it has a distillation token beside the class token',
        ),
        (dict(type='ResNet', depth=18), "it has to be mmpretrain's VisionTransformer"),
    ):
        with pytest.raises(ValueError, match=reason):
            toy.build(toy.student(cfg))


@pytest.mark.parametrize(
    'changes, reason',
    [
        (
            dict(backbone=dict(toy.BACKBONE, cortex_depth=4, head_dims=8)),
            'cortex_depth=4 has to be 3, head_dims=8 has to be 16',
        ),
        (
            dict(backbone=dict(toy.BACKBONE, class_token=False)),
            'class_token=False has to be True',
        ),
        (
            dict(backbone=dict(type='ResNet', depth=18)),
            'the backbone is a ResNet: only a sparseformer_mm.SparseFormer inherits',
        ),
        (
            dict(head=dict(toy.HEAD, num_classes=4)),
            r'head.fc.weight cannot be inherited: the teacher has \(3, 32\), under '
            r'head.layers.head.weight, the student \(4, 32\)',
        ),
        (
            dict(neck=dict(type='LinearNeck', in_channels=32, out_channels=4)),
            'neck is LinearNeck, the teacher has NoneType',
        ),
    ],
)
def test_students_that_cannot_inherit(changes, reason):
    with pytest.raises(ValueError, match=reason):
        toy.build(toy.student(toy.TEACHER, **changes))


def test_without_a_head():
    headless = dict(toy.TEACHER, head=None)
    with pytest.raises(ValueError, match='the teacher has no head, so there is none'):
        toy.build(toy.student(headless))
    for teacher in (headless, toy.VIT):  # or the backbone alone
        model = toy.build(toy.student(teacher, head=None))
        with pytest.raises(ValueError, match='without a head nothing can be validated'):
            model(images(), mode='predict')


def test_a_head_of_two_layers_is_refused():
    head = dict(toy.TEACHER['head'], hidden_dim=8)
    with pytest.raises(ValueError, match='is not one linear layer .*pre_logits'):
        toy.build(toy.student(dict(toy.TEACHER, head=head)))


def test_teachers_without_their_weights(teacher, tmp_path):
    for cfg in (toy.TEACHER, teacher):
        model = toy.build(toy.student(cfg))
        if cfg is toy.TEACHER:  # as tools that only count do
            model.init_weights()
        assert model(images())[0].shape == (3, 32)
        with pytest.raises(ValueError, match='teacher has no weights: give it init_cf'):
            model(images(), mode='loss')
    content = torch.load(teacher['init_cfg']['checkpoint'])
    file = tmp_path / 'part.pth'
    # As DDP and torch.compile name tensors; the average counts, where there is one.
    state = content['state_dict']
    wrapped = {f'module._orig_mod.{key}': value for key, value in state.items()}
    raw = {key: value + 1 for key, value in state.items()}
    torch.save(dict(state_dict=raw, state_dict_ema=wrapped), file)
    given = dict(teacher, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model = toy.build(toy.student(given))
    model.init_weights()
    loaded = model.teacher.state_dict()
    assert state and all(torch.equal(loaded[key], state[key]) for key in state)
    for change, reason in (
        (lambda state: state.pop('head.layers.head.bias'), '1 of the 2 tensors of its'),
        (
            lambda state: state.update({'backbone.ln1.bias': torch.ones(5)}),
            'does not fit the backbone of the teacher: size mismatch for ln1.bias',
        ),
    ):
        state = dict(content['state_dict'])
        change(state)
        torch.save(dict(state_dict=state), file)
        lacking = dict(teacher, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
        with pytest.raises(ValueError, match=reason):
            toy.build(toy.student(lacking)).init_weights()
    missing = dict(teacher, init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
    with pytest.raises(FileNotFoundError, match='there is no checkpoint file nowhere'):
        toy.build(toy.student(missing)).init_weights()
