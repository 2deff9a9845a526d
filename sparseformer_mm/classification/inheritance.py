"""What a SparseFormer inherits from a trained vision transformer, name by name.

Of a transformer of L blocks, the first L / 3 are left out: the focusing block takes
their place. Blocks L / 3 to 2 L / 3 are inherited and tuned; the last third, the class
token, the final norm and the head are inherited and frozen ("Bootstrapping
SparseFormers from Vision Foundation Models", https://arxiv.org/abs/2312.01987). Pure
functions of modules of mmpretrain, which are only read.
"""

import re
from typing import Dict, List, NamedTuple, Optional

from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from ..models import SparseFormer

# Beginnings of names in a block of mmpretrain's VisionTransformer, and of SparseFormer.
_BLOCK_NAMES = {
    'ln1.': 'attn_norm.',
    'attn.qkv.': 'attn.qkv.',
    'attn.proj.': 'attn.proj.',
    'ln2.': 'ffn_norm.',
    'ffn.layers.0.0.': 'ffn.fc1.',
    'ffn.layers.1.': 'ffn.fc2.',
}
# Layer scale, and the linear layer that it multiplies.
_SCALES = {'attn.gamma1.weight': 'attn.proj.', 'ffn.gamma2.weight': 'ffn.fc2.'}
_ACTIVATIONS = dict(GELU='gelu', QuickGELU='quick_gelu')

# Beginnings or ends of parameters that SparseFormer has no counterpart of.
_FOREIGN = {
    r'relative_position': 'a relative position bias in attention, which needs a grid',
    r'dist_token': 'a distillation token beside the class token',
    r'\.w12\.|\.w3\.': 'SwiGLU in place of two linear layers',
    r'\.[qv]_bias$': 'biases of queries and values only',
}


class Inherited(NamedTuple):
    """A tensor of a SparseFormer, and where it comes from.

    Attributes:
        value: the tensor.
        source: its name in the transformer.
        frozen: whether it stays as it is.
    """

    value: Tensor
    source: str
    frozen: bool


def check_transformer(vit: nn.Module):
    """Raise ValueError, naming why, unless a SparseFormer can inherit from it."""
    kind, names = type(vit).__name__, [name for name, _ in vit.named_parameters()]

    def refuse(reason: str):
        raise ValueError(f'a SparseFormer cannot inherit from this {kind}: {reason}')

    for pattern, meaning in _FOREIGN.items():
        found = next((name for name in names if re.search(pattern, name)), None)
        if found:
            refuse(f'it has {meaning} ({found}), which SparseFormer has not')
    if type(vit) is not VisionTransformer:
        refuse(
            "it has to be mmpretrain's VisionTransformer itself. If it computes the "
            "same, build it as type='VisionTransformer'"
        )
    if vit.cls_token is None:
        refuse(
            'with_cls_token=False leaves no class token, whose last state is what '
            'the SparseFormer learns to give'
        )
    if vit.out_type != 'cls_token':
        refuse(
            f"out_type='{vit.out_type}' does not answer with the class token: "
            "give a model that was trained with out_type='cls_token'"
        )
    if not vit.final_norm:
        refuse('final_norm=False leaves no LayerNorm before the head')
    if vit.num_layers % 3:
        refuse(f'its {vit.num_layers} blocks do not divide into thirds')
    for name in names:
        if name.startswith('layers.') and _rename(_within(name)) is None:
            refuse(f'SparseFormer has no counterpart of its parameter {name!r}')
    activation = type(vit.layers[0].ffn.layers[0][1]).__name__
    if activation not in _ACTIVATIONS:
        refuse(f'the activation {activation} is none of {", ".join(_ACTIVATIONS)}')


def student_settings(vit: nn.Module) -> Dict[str, object]:
    """Settings of the SparseFormer that can inherit from a transformer.

    Returns:
        dict: keys of ``arch``. The first cortex block is the one that looks; the last
        two thirds of the transformer follow.

    Raises:
        ValueError: if none can, naming why.
    """
    check_transformer(vit)
    first, dims = vit.layers[0], vit.embed_dims
    return dict(
        cortex_dims=dims,
        cortex_depth=1 + vit.num_layers // 3 * 2,
        head_dims=dims // first.attn.num_heads,
        ffn_ratio=first.ffn.feedforward_channels / dims,
        cortex_activation=_ACTIVATIONS[type(first.ffn.layers[0][1]).__name__],
        norm_eps=first.ln1.eps,
        class_token=True,
    )


def inherit_backbone(vit: nn.Module) -> Dict[str, Inherited]:
    """All that the backbone of a student inherits, by its names there.

    The class token comes with what the transformer adds to it before its first block:
    its position embedding and, in CLIP, a norm. Layer scale is multiplied into the
    linear layer before it; a projection without biases gets zeros.

    Raises:
        ValueError: if none can, naming why.
    """
    check_transformer(vit)
    third = vit.num_layers // 3
    token = vit.pre_norm(vit.cls_token[:, 0] + vit.pos_embed[:, 0]).detach()
    source = 'cls_token + pos_embed[0]'
    if not isinstance(vit.pre_norm, nn.Identity):
        source = f'pre_norm({source})'
    result = {'class_token.weight': Inherited(token, source, True)}
    for index in range(third, vit.num_layers):
        # Block 0 of the cortex looks.
        place, there = f'cortex.{index - third + 1}.', f'layers.{index}.'
        frozen = index >= 2 * third
        for name, (value, origin) in _inherit_block(vit.layers[index]).items():
            result[place + name] = Inherited(value, there + origin, frozen)
    for name, value in vit.ln1.state_dict().items():
        result[f'norm.{name}'] = Inherited(value, f'ln1.{name}', True)
    return result


def _inherit_block(layer: nn.Module) -> Dict[str, tuple]:
    """Tensors of one block and their names there, by SparseFormer's names."""
    state = layer.state_dict()
    result = {
        _rename(name): (value, name)
        for name, value in state.items()
        if name not in _SCALES
    }
    for name, scaled in _SCALES.items():
        if name in state:
            for end in ('weight', 'bias'):
                value, origin = result[scaled + end]
                scale = state[name][:, None] if end == 'weight' else state[name]
                result[scaled + end] = value * scale, f'{name} * {origin}'
    if 'attn.qkv.bias' not in result:
        weight, _ = result['attn.qkv.weight']
        result['attn.qkv.bias'] = weight.new_zeros(len(weight)), 'no bias: zeros'
    return result


def _within(name: str) -> str:
    """The part of a parameter's name behind 'layers.3.'."""
    return name.split('.', 2)[2]


def _rename(name: str) -> Optional[str]:
    """SparseFormer's name of a block's parameter; layer scale keeps its own."""
    if name in _SCALES:
        return name
    for ours, theirs in _BLOCK_NAMES.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return None


def inherit_head(head: Optional[nn.Module]) -> Dict[str, Inherited]:
    """'fc.weight' and 'fc.bias' of a head with one linear layer; {} of no head.

    Raises:
        ValueError: for another head.
    """
    if head is None:
        return {}
    places = ('fc.', 'layers.head.')  # LinearClsHead, VisionTransformerClsHead
    state = head.state_dict()
    for place in places:
        found = {name: state.pop(place + name, None) for name in ('weight', 'bias')}
        if found['weight'] is not None and not state:
            return {
                f'fc.{name}': Inherited(value, f'head.{place}{name}', True)
                for name, value in found.items()
                if value is not None
            }
    raise ValueError(
        f'the head of the transformer, {type(head).__name__}, is not one linear layer '
        f'(it has {", ".join(head.state_dict())}): a SparseFormer inherits heads such '
        'as LinearClsHead, or VisionTransformerClsHead without hidden_dim. It can also '
        'learn without a head (head=None)'
    )


def check_student(student: nn.Module, vit: nn.Module):
    """Raise ValueError unless a backbone has the form that inherits.

    Raises:
        ValueError: naming all settings that differ, and what they have to be.
    """
    if not isinstance(student, SparseFormer):
        raise ValueError(
            f'the backbone is a {type(student).__name__}: only a '
            'sparseformer_mm.SparseFormer inherits from a vision transformer'
        )
    wanted = student_settings(vit)
    wanted.pop('norm_eps')  # a matter of the last digits
    own = dict(student.arch)
    if own['head_dims'] is None:
        own['head_dims'] = own['cortex_dims'] // own['num_heads']
    wrong: List[str] = [
        f'{name}={own[name]!r} has to be {value!r}'
        for name, value in wanted.items()
        if own[name] != value
    ]
    if wrong:
        raise ValueError(
            'the backbone cannot inherit from this vision transformer: '
            + ', '.join(wrong)
        )
