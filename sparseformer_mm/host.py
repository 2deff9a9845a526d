"""What is particular to one OpenMMLab library, behind one interface.

Each task package has a module ``host`` with a subclass of :class:`Host` and its only
instance, ``HOST``. :func:`host_of` finds it by a config's ``default_scope`` and imports
that library only. Tools and other parts of the package ask the host instead of the
name of a library or class.
"""

import copy
import importlib
import importlib.util
from operator import attrgetter
from types import ModuleType
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
from mmengine.config import Config
from torch import Tensor, nn

from .answers import Drawing, Normalisation, Prediction
from .models import SparseFormer

__all__ = [
    'LIBRARIES',
    'Host',
    'Library',
    'host_of',
    'packing_datasets',
    'scope_of',
    'steps_of_test',
    'type_name',
]


class Library(NamedTuple):
    """What is known of a library before it can be imported.

    Attributes:
        task: name of the package here that uses it.
        onedl, openmmlab: what pip calls it in the two stacks.
    """

    task: str
    onedl: str
    openmmlab: str


# default_scope -> library
LIBRARIES: Dict[str, Library] = {
    'mmpretrain': Library(
        'classification', 'onedl-mmpretrain==1.3.6', 'mmpretrain==1.2.0'
    ),
    'mmdet': Library('detection', 'onedl-mmdetection==3.5.1', 'mmdet==3.3.0'),
    'mmseg': Library(
        'segmentation', 'onedl-mmsegmentation==1.4.2', 'mmsegmentation==1.2.2'
    ),
    'mmaction': Library('video', 'mmaction2==1.2.0', 'mmaction2==1.2.0'),
}


class Host:
    """One library and its models; this one is plain mmengine, which has no task.

    "Images" below are (B, 3, H, W); for the video host, clips (B, 3, T, H, W).
    """

    scope = 'mmengine'
    #: Name of the package, the configs, and in options of tools.
    task: Optional[str] = None
    #: Settings of a data loader that the library's configs count on its tools to add.
    loader_defaults: Dict[str, Any] = {}
    #: Whether the pipelines load RGB, not BGR.
    loads_rgb = False
    #: What :class:`.CheckDatasetHook` asks of models and data sets.
    checks: Optional[ModuleType] = None
    #: What :class:`.HealthHook` asks of predictions, made of a model: see
    #: :class:`.segmentation.health.Watch`.
    watch: Optional[Callable[[nn.Module], Any]] = None
    #: Type of the metric that dumps predictions.
    dump_metric = 'DumpResults'
    drawing: Optional[Drawing] = None
    #: What merges the predictions of several views; None if the library has nothing.
    tta_model: Optional[Dict[str, Any]] = None
    #: Whether models take videos, not pictures; then it has find_videos(names) and
    #: read_clip(path, cfg, view).
    takes_videos = False
    #: What a config must have so that pictures or videos can be read as in its test.
    reading_keys: Tuple[str, ...] = ('model', 'test_dataloader')
    #: What is drawn of a picture if nothing is said, beside what the model answers.
    default_figures: Tuple[str, ...] = ()
    #: Where models have a linear layer from a token to classes.
    token_classifier: Optional[str] = None

    def init_model(self, cfg: Config, device: str) -> nn.Module:
        """Build a config's model by the library's own function, without weights.

        The library's scope becomes the default one.

        Returns:
            In evaluation mode, with the config as ``model.cfg``.
        """
        raise NotImplementedError(f'{self.scope} has no such function')

    def check_model(self, model: nn.Module) -> None:
        """Raise unless a model has tokens, which look somewhere.

        Raises:
            ValueError: naming the cause and the cure.
        """
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, SparseFormer):
            raise ValueError(
                f'the backbone is a {type(backbone).__name__} and has no tokens: give '
                'a config with sparseformer_mm.SparseFormer (other models are drawn '
                'and exported by the tools of their library)'
            )

    def check_answer(self, model: nn.Module) -> None:
        """Raise unless a model gives an :meth:`answer`.

        Raises:
            ValueError: naming the cause and the cure.
        """
        self.check_model(model)

    def forward(self, model: nn.Module, images: Tensor) -> Any:
        """Run a model in its mode 'tensor': what the head gives, for any model."""
        return model(images, mode='tensor')

    def read_normalisation(
        self, preprocessor: nn.Module, channels: int = 3
    ) -> Normalisation:
        """Read the data preprocessor of a model that takes so many channels."""
        mean, std = (0.0,) * channels, (1.0,) * channels
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = (
                tuple(x.flatten().expand(channels).tolist())
                for x in (preprocessor.mean, preprocessor.std)
            )
        if channels != 3:
            return Normalisation(mean, std, 'as loaded')
        # mmengine's and mmseg's preprocessors keep their flag under two names, the
        # other libraries' as to_rgb.
        swaps = any(
            getattr(preprocessor, name, False)
            for name in ('to_rgb', '_channel_conversion', 'channel_conversion')
        )
        return Normalisation(mean, std, 'RGB' if swaps != self.loads_rgb else 'BGR')

    def answer(self, model: nn.Module, images: Tensor, raw: bool) -> Tuple[Tensor, ...]:
        """What the library predicts, as tensors and without data samples.

        For models that pass :meth:`check_answer`; can be traced.

        Args:
            model: in evaluation mode.
            images: normalised.
            raw: give what the head gives, before any decoding.
        """
        return (self.forward(model, images),)

    def reading(self, model: nn.Module, raw: bool = False) -> Dict[str, Any]:
        """How probabilities come from what :meth:`answer` gives.

        Returns:
            ``activation``: 'softmax' or 'sigmoid' over the classes, 'none' if they are
            probabilities; ``threshold`` of a class that is there, where several may be.
        """
        return dict(activation='softmax')

    def answer_axes(self, raw: bool) -> Dict[str, Dict[int, str]]:
        """Names of what :meth:`answer` gives -> its axes that follow the images' size.

        Axes are by number, and named 'height', 'width' if they are the images' own.
        """
        return {'logits': {}}

    def input_size(self, cfg: Config) -> Optional[List[int]]:
        """(T,) H, W that a config's test pipeline makes; None if it is not one size."""
        size = None
        for step in steps_of_test(cfg):
            kind = type_name(step)
            if kind in ('CenterCrop', 'ThreeCrop'):
                size = _sides(step['crop_size'])
            elif kind == 'Resize':
                size = _sides(step['scale']) if self._makes_one_size(step) else None
        return size

    def tta_pipeline(self, pipeline: Sequence[dict]) -> List[dict]:
        """A test pipeline that gives a second, flipped view of each sample."""
        *steps, pack = copy.deepcopy(list(pipeline))
        flips = [dict(type='RandomFlip', prob=share) for share in (1.0, 0.0)]
        return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]

    def _makes_one_size(self, resize: dict) -> bool:
        return not resize.get('keep_ratio') and resize.get('scale') is not None

    def predict(self, model: nn.Module, source: Any) -> Prediction:
        """Run a model of :meth:`init_model` on one picture or clip as in its test.

        Args:
            model: passes :meth:`check_model`.
            source: path of a picture, or (H, W, 3) BGR uint8; of videos a
                :class:`~sparseformer_mm.video.clips.Clip`.
        """
        raise NotImplementedError(f'{self.scope} has no such function')

    def boxes_in_input(
        self, cfg: Config, boxes: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        """Boxes (n, 4) relative to a picture (height, width), as its RoIs are.

        Relative to what the network sees where that is drawn (``Prediction.frames``);
        boxes that are cropped away are left out.
        """
        return boxes

    def area_in_input(self, cfg: Config, area: np.ndarray) -> np.ndarray:
        """Pixels (H, W) bool of a picture, where they are in what is drawn."""
        return area

    def token_logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """What a classifier says to each token by itself (figure 6 of the paper).

        Args:
            model: of this library.
            tokens: (..., N, d) of the backbone, through its final norm.

        Returns:
            (..., N, K). The mean over tokens is taken before that norm, so they do not
            average to the picture's.

        Raises:
            ValueError: where the model has no linear layer from a token to classes.
        """
        if self.token_classifier is None:
            raise ValueError(f'a {self.task} head gives no classes to single tokens')
        head_name, layer = self.token_classifier.split('.')
        head = attrgetter(head_name)(model)
        classifier = getattr(head, layer, None)
        if getattr(classifier, 'in_features', None) != tokens.shape[-1]:
            raise ValueError(
                f'the head {type(head).__name__} has no linear layer {layer} that '
                f'takes the {tokens.shape[-1]} channels of a token, so no token can be '
                'asked for its class'
            )
        return classifier(tokens)


def _sides(value: Union[int, Tuple[int, int]]) -> List[int]:
    """[H, W] of a crop_size or scale, which hold W first where they are pairs."""
    if isinstance(value, int):
        return [value, value]
    width, height = value
    return [height, width]


def type_name(part: dict) -> str:
    """The bare name of a part's type, which may be a name, a dotted one or a class."""
    kind = part.get('type', '')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def packing_datasets(dataset: dict) -> Iterator[dict]:
    """The data sets in a config whose pipelines make samples, whatever wraps them.

    Of a wrapper without a pipeline (ConcatDataset, RepeatDataset, ClassBalancedDataset,
    ...) those inside; one with a pipeline (MultiImageMixDataset) stands for itself.
    """
    if dataset.get('pipeline'):
        yield dataset
        return
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    for part in inner:
        if isinstance(part, dict):
            yield from packing_datasets(part)


def steps_of_test(cfg: Config) -> Sequence[dict]:
    """The steps that test samples go through; () if a config has none."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    packing = next(packing_datasets(dataset), {})
    return packing.get('pipeline') or ()


def scope_of(cfg: Config) -> Optional[str]:
    """A config's ``default_scope``, or else the library that its model is from.

    Pure-Python configs need no scope, for their types are classes.
    """
    scope = cfg.get('default_scope')
    if scope is not None:
        return scope
    kind = (cfg.get('model') or {}).get('type')
    module = kind if isinstance(kind, str) else getattr(kind, '__module__', '')
    package, _, rest = module.partition('.')
    if package in LIBRARIES:
        return package
    task = rest.partition('.')[0]
    for name, library in LIBRARIES.items():
        if package == __package__ and library.task == task:
            return name
    return None


def host_of(scope: Union[str, Config, None]) -> Host:
    """The host of a ``default_scope``, or of a config; imports its library.

    Args:
        scope: None, 'mmengine' and 'sparseformer_mm' are plain mmengine.

    Raises:
        ValueError: for an unknown scope.
        ImportError: if the library is not installed or broken; says what to do.
    """
    if isinstance(scope, Config):
        scope = scope_of(scope)
    if scope in (None, 'mmengine', 'sparseformer_mm'):
        return Host()
    if scope not in LIBRARIES:
        raise ValueError(f"default_scope '{scope}' is none of {', '.join(LIBRARIES)}")
    library = LIBRARIES[scope]
    if importlib.util.find_spec(scope) is None:
        raise ImportError(
            f"the config's default_scope is '{scope}', which is not installed: "
            f'pip install "{library.onedl}" (onedl stack) or '
            f'pip install "{library.openmmlab}" (openmmlab stack)'
        )
    try:
        # The video package also fills the gaps of mmaction2's last release.
        return importlib.import_module(f'{__package__}.{library.task}.host').HOST
    except Exception as error:  # version asserts and broken binaries alike
        reason = str(error).strip().splitlines()
        raise ImportError(
            f"'{scope}' is installed but cannot be imported "
            f'({type(error).__name__}: {reason[0] if reason else ""}); '
            'tools/check_env.py names the cure'
        ) from error
