"""What is particular to mmpretrain."""

from typing import Any, Dict, Sequence, Union

import mmcv
import mmpretrain.models  # noqa: F401  what a config needs to build
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmpretrain.apis import get_model
from mmpretrain.models.heads import MultiLabelClsHead
from torch import nn

from ..answers import Drawing, Prediction
from ..host import Host, steps_of_test, type_name
from . import checks

_LOAD = 'LoadImageFromFile'


class ClassificationHost(Host):
    scope = 'mmpretrain'
    task = 'classification'
    checks = checks
    default_figures = ('points', 'rois', 'density')
    token_classifier = 'head.fc'  # LinearClsHead
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

    @torch.no_grad()
    def predict(self, model: nn.Module, source: Union[str, np.ndarray]) -> Prediction:
        """Scores of the classes, and what the network sees: pipelines crop."""
        image = _read(model.cfg, source)
        batch = pseudo_collate([_prepared(model.cfg, image)])
        data = model.data_preprocessor(batch, False)
        (sample,) = model(**data, mode='predict')
        return Prediction(
            data['inputs'].shape[-2:],
            self.read_normalisation(
                model.data_preprocessor, data['inputs'].shape[1]
            ).undo(data['inputs']),
            sample.pred_score.cpu().numpy(),
            self.reading(model).get('threshold'),
        )

    def reading(self, model: nn.Module, raw: bool = False) -> Dict[str, Any]:
        if not isinstance(model.head, MultiLabelClsHead):
            return super().reading(model)
        threshold = 0.5 if model.head.thr is None else model.head.thr
        return dict(activation='sigmoid', threshold=threshold)

    def boxes_in_input(
        self, cfg: Config, boxes: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        inside = []
        scale = np.array([shape[1], shape[0]] * 2)
        for x1, y1, x2, y2 in np.rint(boxes * scale).astype(int).clip(0):
            mask = np.zeros(shape[:2], dtype=bool)
            mask[y1:y2, x1:x2] = True
            seen = _followed(cfg, mask)
            ends = []
            for profile in (seen.max(0), seen.max(1)):
                if profile.max() < 0.5:
                    break
                # Blurred edges: as wide as the profile's sum, around its middle.
                places = np.arange(len(profile)) + 0.5
                width = profile.sum()
                middle = (profile * places).sum() / width
                ends.append((middle + width * np.array([-0.5, 0.5])) / len(profile))
            if len(ends) == 2:
                inside.append(np.stack(ends, 1).ravel())
        return np.array(inside).reshape(-1, 4)

    def area_in_input(self, cfg: Config, area: np.ndarray) -> np.ndarray:
        return _followed(cfg, area) >= 0.5


def _read(cfg: Config, source: Union[str, np.ndarray]) -> np.ndarray:
    """A picture as the test pipeline loads it, of a file or from (H, W, 3) BGR.

    Raises:
        ValueError: for a picture in memory where the pipeline wants more than colour.
    """
    load = next((x for x in steps_of_test(cfg) if type_name(x) == _LOAD), {})
    kind = load.get('color_type', 'color')
    if isinstance(source, str):
        return mmcv.imread(source, flag=kind)
    if kind.startswith('grayscale'):
        return mmcv.bgr2gray(source)
    if kind.startswith('unchanged'):
        raise ValueError(
            f"the test pipeline loads pictures as they are (color_type='{kind}'): they "
            'cannot be disturbed; leave out --disturb'
        )
    return source


def _prepared(cfg: Config, image: np.ndarray) -> dict:
    """Run the test pipeline on a picture in memory, as mmpretrain's inferencer."""
    steps = [x for x in steps_of_test(cfg) if type_name(x) != _LOAD]
    shape = image.shape[:2]
    return Compose(steps)(dict(img=image, img_shape=shape, ori_shape=shape))


def _followed(cfg: Config, mask: np.ndarray) -> np.ndarray:
    """Where the test pipeline brings marked pixels, whatever it resizes and crops.

    Returns:
        (H', W') share of each pixel of the network's input that is marked, 0..1.
    """
    picture = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    picture = _read(cfg, picture)
    return _prepared(cfg, picture)['inputs'][0].double().numpy() / 255


HOST = ClassificationHost()
