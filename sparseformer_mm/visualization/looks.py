"""From a picture or video of a user to a :class:`~.recording.Look`.

The hosts predict; here it is put into words, and tokens and stages are chosen.
"""

from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..answers import Instances, Prediction
from ..host import Host
from ..utils.errors import fail
from .disturb import Disturbed
from .panels import token_colors
from .recording import Detections, Frame, Look, Stage, picture_stages, record, spread
from .statistics import share_in_boxes
from .truth import Truth, name_of


class Picture(NamedTuple):
    """A picture to look at.

    Attributes:
        path: its file.
        original: (H, W, 3) RGB uint8, as it is in the file.
        disturbed: what is made of it; None if nothing is.
    """

    path: Path
    original: np.ndarray
    disturbed: Optional[Disturbed] = None

    @property
    def image(self) -> np.ndarray:
        return self.original if self.disturbed is None else self.disturbed.image


class Choice(NamedTuple):
    """What is wanted of a picture or video.

    Attributes:
        stages: names or numbers of sampling stages; None for all.
        tokens: their indices; None for those of ``top_k_class``.
        top_k_class: this many tokens that answer most to a class, of each copy in time;
            None for all tokens of a picture, 4 of each copy in a clip.
        class_name: name or number of that class; None for the true or predicted one.
        score_thr: least score of a detection.
        num_frames: so many frames of a clip; None for 6.
    """

    stages: Optional[Sequence[str]] = None
    tokens: Optional[Sequence[int]] = None
    top_k_class: Optional[int] = None
    class_name: Optional[str] = None
    score_thr: float = 0.3
    num_frames: Optional[int] = None


def class_index(text: str, classes: Optional[Sequence[str]], num_classes: int) -> int:
    """The class that a name or a number on the command line means; names go first."""
    if classes and text in classes:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = ', '.join(list(classes or ())[:20])
    fail(
        f'--class {text}: no class of the model; give a number from 0 to '
        f'{num_classes - 1}' + (f' or a name ({known})' if known else '')
    )


def best_tokens(scores, count: int, copies: int = 1) -> np.ndarray:
    """Indices of the ``count`` tokens that answer the most, best first.

    Args:
        scores: tensor or array (N,) of one class; of equal ones the lower index counts.
        copies: of the tokens in time (``token_inflation``), the outer index of N; so
            many of each are taken, copy by copy.
    """
    scores = torch.as_tensor(scores).detach().double().cpu().numpy()
    ranks = np.argsort(-scores.reshape(copies, -1), axis=1, kind='stable')
    starts = np.arange(0, len(scores), len(scores) // copies)[:, None]
    return (ranks[:, :count] + starts).ravel()


def chosen_tokens(
    choice: Choice,
    token_logits: Callable[[], Tensor],
    total: int,
    default: Tuple[int, str],
    classes: Optional[Sequence[str]],
    copies: int = 1,
) -> Tuple[Optional[np.ndarray], str]:
    """The tokens that are wanted, None for all, and what they answer to.

    ``token_logits`` gives (N, K), of single tokens, ``total`` is N, ``default`` the
    class which is meant if none is chosen, and what it is ('true').
    """
    if choice.tokens is not None:
        wrong = [token for token in choice.tokens if not 0 <= token < total]
        if wrong:
            fail(f'--tokens {wrong[0]}: the model has tokens 0 to {total - 1}')
        return np.array(list(dict.fromkeys(choice.tokens))), ''
    if choice.top_k_class is None:
        return None, ''
    try:
        with torch.no_grad():
            logits = token_logits()
    except ValueError as error:
        fail(f'{error}; choose tokens by --tokens')
    label, kind = default
    if choice.class_name is not None:
        label = class_index(choice.class_name, classes, logits.shape[1])
        kind = 'chosen'
    tokens = best_tokens(logits[:, label], choice.top_k_class, copies)
    return tokens, f'{name_of(classes, label)} ({kind})'


def chosen_stages(stages: Sequence[Stage], choice: Choice) -> List[Stage]:
    """The stages that are wanted, by name or number."""
    names = [stage.name for stage in stages]
    kept = set()
    for wanted in names if choice.stages is None else choice.stages:
        if wanted in names:
            kept.add(names.index(wanted))
        elif wanted.lstrip('-').isdecimal() and -len(names) <= int(wanted) < len(names):
            kept.add(int(wanted) % len(names))
        else:
            fail(
                f'--stages {wanted}: the model has {len(names)} sampling stages, '
                f'numbered from 0: {", ".join(names)}'
            )
    return [stages[i] for i in sorted(kept)]


def look_at(
    model: nn.Module, host: Host, source: Any, truth: Truth, choice: Choice
) -> Look:
    """Let a model predict, and record where it looks.

    Args:
        model: of :func:`~sparseformer_mm.utils.checkpoints.load_model`, of ``host``.
        source: a :class:`Picture`, or a clip of the video host.
        truth: of the model's test data.
    """
    classes = truth.classes or model.trained_classes
    if host.takes_videos:
        return _look_at_clip(model, host, source, truth, classes, choice)
    return _look_at_picture(model, host, source, truth, classes, choice)


def _predict(
    model: nn.Module, host: Host, source: Any, choice: Choice
) -> Tuple[Prediction, List[Stage], Callable[[], Tensor]]:
    """What a model says, where it looks, and what its tokens say when asked."""
    with record(model) as calls:
        prediction = host.predict(model, source)

    def token_logits():
        if prediction.token_logits is not None:
            return prediction.token_logits
        return host.token_logits(model, calls[0].outputs.tokens[0])

    stages = chosen_stages(picture_stages(calls, prediction.shape), choice)
    return prediction, stages, token_logits


def _class_title(prediction: Prediction, true: Optional[int], classes) -> str:
    scores = prediction.scores
    labels = [int(scores.argmax())]
    if prediction.threshold is not None:  # all classes that are there, best first
        labels = [i for i in (-scores).argsort() if scores[i] >= prediction.threshold]
    title = ', '.join(f'{name_of(classes, i)} {scores[i]:.2f}' for i in labels)
    title = title or f'no class with a score of {prediction.threshold:g}'
    return title if true is None else f'{title}, true {name_of(classes, true)}'


def _look_at_clip(model, host, clip, truth, classes, choice: Choice) -> Look:
    prediction, stages, token_logits = _predict(model, host, clip, choice)
    default = (int(prediction.scores.argmax()), 'predicted')
    copies = model.backbone.token_inflation
    if choice.top_k_class is None:
        choice = choice._replace(top_k_class=4)
    tokens, answer = chosen_tokens(
        choice, token_logits, len(stages[-1].rois), default, classes, copies
    )
    boxes = _clip_boxes(clip, truth.boxes(clip.path))
    frames, length = [], len(prediction.frames)
    for i in spread(length, choice.num_frames or 6):
        there, time = boxes[i] if len(boxes) else boxes, (i + 0.5) / length
        name, image = f'frame {clip.frames[i]}', prediction.frames[i]
        frames.append(Frame(name, image, there, time))
    title = _class_title(prediction, truth.label(clip.path), classes)
    if clip.num_views > 1:
        title += f' (view {clip.view} of {clip.num_views})'
    if len(boxes):
        shares = [(stage.name, share_in_boxes(stage.points, boxes)) for stage in stages]
        numbers = ', '.join(f'{name} {share:.0%}' for name, share in shares)
        summary = f'{title}; points in the true box: {numbers}'
    else:
        sides = ' x '.join(f'{side:.2f}' for side in stages[-1].rois[:, 3:].mean(0))
        summary = f'{title}; mean tube at {stages[-1].name} {sides}'
    told = dict(title=title, summary=summary, tokens=tokens, answer=answer)
    return Look(clip.path.name, frames, stages, boxes=boxes, **told)


def _clip_boxes(clip, boxes: np.ndarray) -> np.ndarray:
    """(T, 1, 4) relative to the clip, from one box for each frame of its video.

    (0, 4) if none is known, or the clip shows another part of the frames.
    """
    if not clip.whole or len(boxes) <= clip.frames.max():
        return np.zeros((0, 4))
    return boxes[clip.frames, None] / np.tile(clip.size, 2)


def _look_at_picture(model, host, picture, truth, classes, choice: Choice) -> Look:
    source: Union[str, np.ndarray] = str(picture.path)
    boxes = truth.boxes(picture.path) / np.tile(picture.original.shape[1::-1], 2)
    area = undisturbed = None
    if picture.disturbed is not None:
        source = _bgr(picture.image)
        boxes = picture.disturbed.boxes(boxes)
        area = host.area_in_input(model.cfg, picture.disturbed.area)
        if picture.image.shape == picture.original.shape:  # all is where it was
            undisturbed = _predict(model, host, _bgr(picture.original), choice)[1]
    boxes = host.boxes_in_input(model.cfg, boxes, picture.image.shape)
    prediction, stages, token_logits = _predict(model, host, source, choice)
    image = picture.image if prediction.frames is None else prediction.frames[0]
    frames, known = [Frame('image', image, boxes)], dict(boxes=boxes, area=area)
    look = Look(picture.path.name, frames, stages, undisturbed=undisturbed, **known)
    default = (0, '')
    if prediction.scores is not None:
        true = truth.label(picture.path)
        label = int(prediction.scores.argmax())
        default = (label, 'predicted') if true is None else (true, 'true')
        title = _class_title(prediction, true, classes)
        look = look._replace(title=title, summary=title)
    elif prediction.token_boxes is not None:
        best = int(prediction.token_logits.max(0).values.argmax())
        default = (best, 'best detection')
        look = _with_detections(look, prediction, classes, choice.score_thr)
    elif prediction.instances is not None:
        look = _with_instances(look, prediction.instances, classes, choice.score_thr)
    elif prediction.mask is not None:
        true_mask = truth.mask(picture.path)
        if true_mask is not None and picture.disturbed is not None:
            true_mask = picture.disturbed.mask(true_mask)
        masks = dict(truth=true_mask, prediction=prediction.mask)
        look = _with_masks(look, masks, truth.palette, classes)
    total = look.num_tokens
    tokens, answer = chosen_tokens(choice, token_logits, total, default, classes)
    return look._replace(tokens=tokens, answer=answer)


def _bgr(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])  # what the libraries read


def _with_detections(look: Look, prediction: Prediction, classes, threshold) -> Look:
    """mmdet's detections, except that a token counts once, with its best class."""
    scores, labels = prediction.token_scores.cpu().max(-1)
    tokens = (scores >= threshold).nonzero()[:, 0]
    tokens = tokens[scores[tokens].argsort(descending=True, stable=True)].numpy()
    texts = [f'{name_of(classes, int(labels[i]))} {scores[i]:.2f}' for i in tokens]
    summary = ', '.join(f'{text} (token {i})' for text, i in zip(texts, tokens))
    nothing = f'nothing with a score of {threshold:g}'
    return look._replace(
        title=', '.join(texts) or nothing,
        summary=summary or nothing,
        detections=Detections(tokens, prediction.token_boxes[tokens], texts),
    )


def _with_instances(look: Look, found: Instances, classes, threshold) -> Look:
    """Paint what a detector found, mask or outline, the best on top."""
    count = int((found.scores >= threshold).sum())
    texts = [
        f'{name_of(classes, int(label))} {score:.2f}'
        for label, score in zip(found.labels[:count], found.scores)
    ]
    colors = token_colors(count)
    height, width = look.image.shape[:2]
    seen = np.full((height, width), -1, np.int32)
    corners = found.boxes * [width, height, width, height] - [0, 0, 1, 1]
    for i in reversed(range(count)):
        if found.masks is None:
            x1, y1, x2, y2 = corners[i].round().astype(int).tolist()
            line = max(1, max(height, width) // 200)
            cv2.rectangle(seen, (x1, y1), (x2, y2), i, line)
        else:
            seen[found.masks[i]] = i
    text = ', '.join(texts) or f'nothing with a score of {threshold:g}'
    painted = dict(prediction=paint(look.image, seen, (colors * 255).round()))
    told = dict(title=text, summary=text, legend=list(zip(texts, colors)))
    return look._replace(painted=painted, **told)


def _with_masks(look: Look, masks: dict, palette, classes) -> Look:
    """Paint the masks that are known, and count the pixels of the prediction."""
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    present = np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))
    palette = np.array(palette or [], dtype=np.uint8).reshape(-1, 3)
    prediction = masks['prediction']
    if not len(palette):
        num_classes = len(classes or ()) or int(prediction.max()) + 1
        palette = (token_colors(num_classes) * 255).astype(np.uint8)
    largest = np.bincount(prediction.ravel()).argsort()[::-1][:5]
    shares = [(name_of(classes, i), (prediction == i).mean()) for i in largest]
    text = ', '.join(f'{name} {share:.0%}' for name, share in shares if share)
    known = present[present < len(palette)]
    painted = {k: paint(look.image, mask, palette) for k, mask in masks.items()}
    legend = [(name_of(classes, i), palette[i] / 255) for i in known]
    return look._replace(title=text, summary=text, painted=painted, legend=legend)


def paint(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of classes over an image; labels without one stay bare."""
    result = image.copy()
    known = (labels >= 0) & (labels < len(palette))
    mixed = 0.35 * image[known] + 0.65 * palette[labels[known]]
    result[known] = mixed.round().astype(np.uint8)
    return result
