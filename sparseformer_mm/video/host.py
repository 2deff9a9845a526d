"""What is particular to mmaction2."""

from typing import Any, Dict, List, Optional

import mmaction.models  # noqa: F401  what a config needs to build
import torch
from mmaction.apis import init_recognizer
from mmaction.models.recognizers import Recognizer3D
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..answers import Drawing, Prediction
from ..host import Host, steps_of_test
from . import checks
from .clips import Clip, find_videos, read_clip


class VideoHost(Host):
    scope = 'mmaction'
    task = 'video'
    checks = checks
    loads_rgb = True
    drawing = Drawing(
        'VisualizationHook', 'enable', 'ActionVisualizer', 'out_dir', views=False
    )
    takes_videos = True
    find_videos, read_clip = staticmethod(find_videos), staticmethod(read_clip)
    reading_keys = (*Host.reading_keys, 'test_pipeline')
    token_classifier = 'cls_head.fc_cls'  # I3DHead, TSNHead

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

    @torch.no_grad()
    def predict(self, model: nn.Module, source: Clip) -> Prediction:
        """Scores of the classes, and the frames that the network sees."""
        data = model.data_preprocessor(pseudo_collate([source.data]), False)
        (sample,) = model(**data, mode='predict')
        scores, reading = sample.pred_score.reshape(-1), self.reading(model)
        if reading['activation'] == 'sigmoid':
            scores = scores.sigmoid()
        elif model.cls_head.average_clips != 'prob':
            scores = scores.softmax(0)
        clips = data['inputs'][:, 0]
        normalisation = self.read_normalisation(model.data_preprocessor, clips.shape[1])
        return Prediction(
            clips.shape[-2:],
            normalisation.undo(clips)[0],
            scores.cpu().numpy(),
            reading.get('threshold'),
        )

    def reading(self, model: nn.Module, raw: bool = False) -> Dict[str, Any]:
        if not model.cls_head.multi_class:
            return super().reading(model)
        return dict(activation='sigmoid', threshold=0.5)


HOST = VideoHost()
