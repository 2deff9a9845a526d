"""A step of a model as the benchmark runs it, and what it takes."""

import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..engine.fused_optimizer import fuse_on_cpu
from .counting import looks_like_product

__all__ = [
    'DTYPES',
    'is_product',
    'make_step',
    'product_seconds',
    'resident_mib',
    'synchronize',
    'timed',
]

DTYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16}


def _loss(outputs, labels: torch.Tensor) -> torch.Tensor:
    if torch.is_tensor(outputs) and outputs.dim() == 2:
        return F.cross_entropy(outputs.float(), labels % outputs.shape[1])
    # Dense heads return maps or lists: their losses differ, the work of a
    # backward pass through all outputs does not.
    return sum(x.float().square().mean() for x in _tensors(outputs))


def _tensors(outputs) -> Iterator[torch.Tensor]:
    """Those of floating-point numbers in a tensor, or in lists of lists."""
    if isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from _tensors(output)
    elif torch.is_tensor(outputs) and outputs.is_floating_point():
        yield outputs


def make_step(
    model: nn.Module,
    *,
    mode: str,
    batch_size: int,
    shape: Sequence[int],
    device: str,
    amp: Optional[str],
    compile_mode: Optional[str],
    channels_last: bool,
    fused: bool,
) -> Callable[[], None]:
    """One forward pass, or one whole training step, on fixed noise.

    Args:
        model: of images (B, 3, H, W), or of videos (B, 3, T, H, W).
        mode: 'infer' or 'train', the latter with AdamW.
        batch_size: B.
        shape: (H, W) or (T, H, W).
        device: for the model as well.
        amp: a key of :data:`DTYPES`, for autocast; None is float32.
        compile_mode: of ``torch.compile``; None does not compile.
        channels_last: memory layout of images and weights.
        fused: whether the optimizer is what ``tools/train.py`` takes on a CPU.

    Returns:
        A function without arguments that runs it once.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, *shape, generator=generator)
    labels = torch.randint(1000, (batch_size,), generator=generator)
    images, labels = images.to(device), labels.to(device)
    model = model.to(device)
    if channels_last:
        layout = torch.channels_last if images.dim() == 4 else torch.channels_last_3d
        images = images.contiguous(memory_format=layout)
        if images.dim() == 4:
            model = model.to(memory_format=layout)
    model.train(mode == 'train')
    run = torch.compile(model, mode=compile_mode) if compile_mode else model
    device_type = device.partition(':')[0]

    def autocast():
        if amp is None:
            return nullcontext()
        return torch.autocast(device_type, DTYPES[amp])

    def infer() -> None:
        with torch.inference_mode(), autocast():
            run(images)

    if mode == 'infer':
        return infer

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
    if fused:
        fuse_on_cpu(optimizer)
    scaler_type = getattr(torch.amp, 'GradScaler', torch.cuda.amp.GradScaler)
    scaler = scaler_type(enabled=amp == 'fp16')
    told = [m for m in model.modules() if hasattr(m, 'set_loss_scale')]

    def train() -> None:
        if scaler.is_enabled():
            for module in told:  # as LossScaleHook does in a training
                module.set_loss_scale(scaler.get_scale())
        with autocast():
            outputs = run(images)
        loss = _loss(outputs, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return train


def synchronize(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def timed(step: Callable, times: int, device: str) -> float:
    """Seconds per step."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / times


def is_product(name: str) -> bool:
    """Of an operator, by its name in a profile, where kernels have names, too."""
    operator = re.fullmatch(r'\w+::\w+', name)
    return bool(operator) and looks_like_product(name.replace('_backward', ''))


def product_seconds(step: Callable, times: int, device: str) -> float:
    """Seconds of a step that products and convolutions take, by torch's profiler.

    Attention's kernels are among the products; 0 if no operator has its name there.
    """
    on_cpu = device == 'cpu'
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU] if on_cpu else [activity.CPU, activity.CUDA]
    # torch before 2.3 has another name for it.
    spent = 'self_cpu_time_total' if on_cpu else 'self_device_time_total'
    seconds = []
    for _ in range(3):  # the least counts: what disturbs only adds
        with torch.profiler.profile(activities=activities) as profiler:
            timed(step, times, device)
        ops = [op for op in profiler.key_averages() if is_product(op.key)]
        if ops and not hasattr(ops[0], spent):
            spent = 'self_cuda_time_total'
        seconds.append(sum(getattr(op, spent) for op in ops) / 1e6 / times)
    return min(seconds)


def resident_mib(peak: bool) -> float:
    """Memory of this process as the kernel sees it, now or at its peak."""
    key = 'VmHWM:' if peak else 'VmRSS:'
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError('no memory figures in /proc/self/status')
