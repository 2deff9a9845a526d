"""The second paper's models: the authors' numbers, parts, laws, files."""

import torch

from helpers.golden import BOOTSTRAPPED_SIZES, classify, golden_model
from helpers.numerics import assert_exact
from sparseformer_mm.models.layouts import to_mm
from sparseformer_mm.models.rois import rois_to_corners


def golden(file, **kwargs):
    return golden_model(
        file.part(), 'bootstrapped-base', **BOOTSTRAPPED_SIZES, **kwargs
    )


def test_float64_is_the_authors_code(bootstrapped_v2):
    model = golden(bootstrapped_v2)
    images = bootstrapped_v2['input'].double()
    seen = model.forward_intermediates(images)
    state = to_mm(bootstrapped_v2.part(), 'bootstrapped')
    assert_exact(classify(seen.pooled, state), bootstrapped_v2['logits'])
    tokens = torch.cat([seen.pooled[:, None], seen.tokens], 1)
    assert_exact(tokens, bootstrapped_v2['tokens_normed'])
    assert_exact(rois_to_corners(seen.rois), bootstrapped_v2['final_roi_xyxy'])
    assert torch.equal(seen.pooled, model(images)[0])
    names = [stage.name for stage in seen.stages]
    assert names == ['focusing.0', 'focusing.1', 'cortex.0']
