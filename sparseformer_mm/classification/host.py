"""What is particular to mmpretrain."""

import mmpretrain.models  # noqa: F401  what a config needs to build
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmpretrain.apis import get_model
from torch import nn

from ..host import Drawing, Host
from . import checks


class ClassificationHost(Host):
    scope = 'mmpretrain'
    task = 'classification'
    checks = checks
    loader_defaults = dict(
        collate_fn=ConfigDict(type='default_collate'),
        pin_memory=True,
        persistent_workers=True,
    )

    drawing = Drawing(
        'VisualizationHook', 'enable', 'UniversalVisualizer', 'out_dir', views=False
    )
    tta_model = dict(type='AverageClsScoreTTA')

    def init_model(self, cfg: Config, device: str) -> nn.Module:
        init_default_scope(self.scope)
        model = get_model(cfg, device=device)
        model.cfg = cfg  # as the functions of the other libraries do
        return model


HOST = ClassificationHost()
