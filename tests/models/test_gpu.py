"""The authors' numbers once more, on a GPU if there is one."""

import pytest
import torch

from helpers.golden import IMAGE_ARCH, classify, golden_model
from sparseformer_mm.models.layouts import to_mm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


@pytest.mark.parametrize(
    'autocast, tolerance', [(None, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)]
)
@pytest.mark.parametrize('deterministic', [False, True])
def test_logits_and_gradients(
    image_v1, autocast, tolerance, deterministic, monkeypatch
):
    # The stem's convolution would run in TF32, with 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = golden_model(image_v1.part(), IMAGE_ARCH, torch.float32).cuda()
    state = to_mm(image_v1.part(), 'v1')
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        with torch.autocast('cuda', autocast, enabled=autocast is not None):
            (pooled,) = model(image_v1['input'].cuda())
        pooled.float().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    logits = classify(pooled.float().cpu(), state)
    torch.testing.assert_close(
        logits, image_v1['logits'].float(), atol=tolerance, rtol=0
    )
    assert all(p.grad.isfinite().all() for p in model.parameters())
