"""A neck or head that gets no maps: which error a tool ends with."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from sparseformer_mm import SparseFormer
from sparseformer_mm.engine.model_errors import explain_model_error
from sparseformer_mm.utils.errors import explain_errors

ARCH = dict(
    num_tokens=4,
    num_points=2,
    focusing_dims=8,
    focusing_repeats=1,
    cortex_dims=8,
    cortex_depth=1,
    num_heads=2,
    feat_channels=4,
)


class Neck(nn.Module):
    """As libraries write them."""

    def __init__(self):
        super().__init__()
        self.in_channels = [6, 4]
        self.convs = nn.ModuleList(nn.Conv2d(n, 2, 1) for n in self.in_channels)

    def forward(self, inputs):
        if len(inputs) != len(self.in_channels):
            raise AssertionError
        return [conv(x) for conv, x in zip(self.convs, inputs)]

    def loss_by_feat(self, maps):
        raise IndexError('Target 7 is out of bounds.')


class Model(BaseModel):
    def __init__(self, neck=None, **backbone):
        super().__init__()
        self.backbone = SparseFormer(ARCH, **backbone)
        self.neck = neck or Neck()

    def forward(self, inputs, learn=False):
        maps = self.neck(self.backbone(inputs))
        return self.neck.loss_by_feat(maps) if learn else maps


def explain(model, *args):
    with pytest.raises(Exception) as error:  # noqa: B017 any kind is to be explained
        model(torch.rand(2, 3, 32, 32), *args)
    return explain_model_error(error.value)


@pytest.mark.parametrize(
    'out_type, gives',
    [
        ('pooled', 'gives one vector per image'),
        ('featmap', 'gives one pixel per image'),
        ('tokens', 'gives tokens, for the heads of sparseformer_mm'),
    ],
)
def test_no_maps(out_type, gives):
    assert explain(Model(out_type=out_type)) == (
        f"Neck takes maps, and out_type='{out_type}' of the backbone {gives}: set "
        "out_type='maps' there, and map_channels to the in_channels of Neck, [6, 4] "
        '(AssertionError: without a message)'
    )


def test_the_cure_is_one():
    maps = dict(out_type='maps', map_strides=(8, 16), map_channels=[6, 4])
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in Model(**maps)(torch.rand(2, 3, 32, 32))]
    assert shapes == [(2, 2, 4, 4), (2, 2, 2, 2)]
    # What fails with maps is another matter.
    assert explain(Model(**maps), True) is None


class Fails(nn.Module):
    def forward(self, inputs):
        raise AssertionError

    def loss_by_feat(self, maps):
        raise AssertionError


def test_other_errors_are_left_alone():
    assert explain(Model(neck=Fails())) is None  # it convolves nothing
    model = Model()
    model.neck.forward = lambda inputs: inputs
    assert explain(model, True) is None  # in the loss
    model = Model()
    model.backbone.stem.forward = lambda inputs: Neck()([])
    assert explain(model) is None  # in the backbone
    assert explain_model_error(ValueError('nowhere')) is None


def test_tools_end_with_it():
    said = "^error: Neck takes maps, .* set out_type='maps' there"
    with pytest.raises(SystemExit, match=said), explain_errors():
        Model()(torch.rand(2, 3, 32, 32))
