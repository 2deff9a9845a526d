"""The authors' numbers once more, on a GPU if there is one."""

import pytest
import torch

from helpers.golden import BOOTSTRAPPED_SIZES, IMAGE_ARCH, classify, golden_model
from sparseformer_mm.models.layouts import to_mm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


@pytest.mark.parametrize(
    'autocast, tolerance', [(None, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)]
)
@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('layout', ['v1', 'bootstrapped'])
def test_logits_and_gradients(
    request, layout, autocast, tolerance, deterministic, monkeypatch
):
    if layout == 'v1':
        golden, arch, sizes = 'image_v1', IMAGE_ARCH, {}
    else:
        golden, arch, sizes = 'bootstrapped_v2', 'bootstrapped-base', BOOTSTRAPPED_SIZES
    golden = request.getfixturevalue(golden)
    # The stem's convolution would run in TF32, with 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = golden_model(golden.part(), arch, torch.float32, **sizes).cuda()
    state = to_mm(golden.part(), layout)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        with torch.autocast('cuda', autocast, enabled=autocast is not None):
            (pooled,) = model(golden['input'].cuda())
        pooled.float().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    logits = classify(pooled.float().cpu(), state)
    torch.testing.assert_close(logits, golden['logits'].float(), atol=tolerance, rtol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters())
