"""A hook for the distributed test; imported by the training process."""

import os

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class GradientRecorder(Hook):
    """Shake all weights, then save the gradients of the first step."""

    def before_train(self, runner) -> None:
        model = getattr(runner.model, 'module', runner.model)
        # Zero-initialised layers would leave others without gradients.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for param in model.parameters():
                param += 0.05 * torch.randn(param.shape, generator=generator)
        step = runner.optim_wrapper.step

        def record_and_step(**kwargs) -> None:
            path = os.environ['GRADIENT_FILE']
            if is_main_process() and not os.path.exists(path):
                torch.save(
                    {
                        name: param.grad.clone()
                        for name, param in model.named_parameters()
                    },
                    path,
                )
            step(**kwargs)

        runner.optim_wrapper.step = record_and_step
