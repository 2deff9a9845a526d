"""What is particular to mmaction2."""

from typing import Any, List, Optional

import mmaction.models  # noqa: F401  what a config needs to build
from mmaction.apis import init_recognizer
from mmaction.models.recognizers import Recognizer3D
from mmengine.config import Config
from torch import Tensor, nn

from ..host import Drawing, Host, steps_of_test
from . import checks


class VideoHost(Host):
    scope = 'mmaction'
    task = 'video'
    checks = checks
    loads_rgb = True
    drawing = Drawing(
        'VisualizationHook', 'enable', 'ActionVisualizer', 'out_dir', views=False
    )

    def init_model(self, cfg: Config, device: str) -> nn.Module:
        return init_recognizer(cfg, None, device=device)

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        dims = model.backbone.spatial_dims
        if not isinstance(model, Recognizer3D) or dims != 3:
            raise ValueError(
                f'this {type(model).__name__} sees single frames (spatial_dims={dims}) '
                'and has no tubes: give a config with Recognizer3D and spatial_dims=3'
            )

    def forward(self, model: nn.Module, images: Tensor) -> Any:
        if isinstance(model, Recognizer3D):
            images = images[:, None]  # there is an axis for the views of a video
        return model(images, mode='tensor', stage='head')

    def input_size(self, cfg: Config) -> Optional[List[int]]:
        size, frames = super().input_size(cfg), None
        for step in steps_of_test(cfg):
            frames = (step.get('sample') or step).get('clip_len', frames)
        return [frames, *size] if size and frames else None

    def _makes_one_size(self, resize: dict) -> bool:
        # Unlike the others', it keeps the ratio unless told not to.
        return not resize.get('keep_ratio', True) and resize.get('scale') is not None


HOST = VideoHost()
