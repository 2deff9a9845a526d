"""A look at the data before hours go into them."""

from typing import Dict, Iterator, List, Optional, Set, Tuple

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from ..registry import HOOKS
from .datasets import (
    find_checker,
    own_randomness,
    plain_datasets,
    source_of,
    warn,
)
from .hooks import unwrap_model
from .problems import (
    DatasetError,
    Problem,
    Use,
    check_class_names,
    class_names,
    compare_class_names,
)


@HOOKS.register_module()
class CheckDatasetHook(Hook):
    """Stop before training or testing on data that cannot be meant.

    The libraries take much in silence: boxes of unknown categories, masks whose second
    class is the label to ignore, class folders that differ between training and
    validation, half a picture. This hook stops on what cannot be meant, and warns of
    what can, naming file, value and cure.

    Annotations are read whole. Of pictures and masks all are looked up, and a sample is
    opened; masks are also checked in each batch. Wrappers that repeat, join, balance
    or mix data sets are looked through. With several processes, the first one checks.

    Args:
        sample: number of pictures and masks to open in each data set; 0 for none.
        seed: of the choice of these.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.CheckDatasetHook', sample=200)]
    """

    priority = 'VERY_HIGH'  # before other hooks do work

    def __init__(self, sample: int = 48, seed: int = 0):
        self.sample, self.seed = sample, seed
        self._checked: Set[Tuple[str, int]] = set()
        self._batch_checks: Dict[str, object] = {}
        self._trained_classes: Optional[List[str]] = None

    def after_load_checkpoint(self, runner, checkpoint: dict):
        """Note what classes the model was trained with."""
        meta = checkpoint.get('meta') or {}
        classes = (meta.get('dataset_meta') or {}).get('classes')
        self._trained_classes = None if isinstance(classes, str) else classes

    def before_train(self, runner):
        """Check the training data, and those for validation.

        Raises:
            DatasetError: a ValueError that names file, value and cure.
        """
        self._trained_classes = None  # of what training has started from
        self._check(runner, 'train', *(['val'] if runner.val_loop is not None else []))

    def before_val(self, runner):
        """Check the data for validation, if training has not done so."""
        self._check(runner, 'val')

    def before_test(self, runner):
        """Check the data for testing, and its classes against the checkpoint's."""
        self._check(runner, 'test')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Check what a batch for training holds."""
        self._check_batch('train', data_batch)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        """Check what a batch for validation holds."""
        self._check_batch('val', data_batch)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        """Check what a batch for testing holds."""
        self._check_batch('test', data_batch)

    def _check_batch(self, split: str, batch) -> None:
        check = self._batch_checks.get(split)
        if check is not None and isinstance(batch, dict):
            _report(list(check(batch)))

    def _check(self, runner, *splits: str) -> None:
        loaders = {split: getattr(runner, f'{split}_dataloader') for split in splits}
        new = {
            split: loader
            for split, loader in loaders.items()
            if hasattr(loader, 'dataset')  # not so in a loop of somebody's own
            and (split, id(loader.dataset)) not in self._checked
        }
        uses = {split: self._use(runner, split) for split in new}
        for split, loader in new.items():
            self._batch_checks[split] = _batch_check(loader, uses[split])
        problems = [[]]
        if is_main_process():
            with own_randomness():  # that of training stays as it is
                problems = [list(self._find(new, uses))]
        broadcast_object_list(problems)
        self._checked.update((split, id(x.dataset)) for split, x in new.items())
        _report(problems[0])

    def _use(self, runner, split: str) -> Use:
        loop = getattr(runner, f'{split}_loop', None)
        metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
        return Use(split, unwrap_model(runner.model), metrics, self.sample, self.seed)

    def _find(self, loaders: dict, uses: Dict[str, Use]) -> Iterator[Problem]:
        datasets = {
            split: _unique(plain_datasets(loader.dataset))
            for split, loader in loaders.items()
        }
        for split, parts in datasets.items():
            for part in parts:
                yield from _check_part(part, uses[split])
        trained = datasets.get('train')
        for part in datasets.get('val', ()) if trained else ():
            yield from _as_far_as_known(part, _compare, trained[0], part)
        if self._trained_classes is not None:
            for part in datasets.get('test', ()):
                classes = class_names(part)
                if classes is not None and not isinstance(classes, str):
                    theirs = self._trained_classes, 'the checkpoint'
                    yield from compare_class_names(classes, source_of(part), *theirs)


def _unique(datasets) -> list:
    """Data sets that a wrapper holds, each once."""
    return list({id(dataset): dataset for dataset in datasets}.values())


def _check_part(dataset, use: Use) -> Iterator[Problem]:
    """Check one data set and, with that for training, the model."""
    checker, source = find_checker(dataset), source_of(dataset)
    problems = list(check_class_names(class_names(dataset), source))
    yield from problems
    if checker is None or problems:
        return
    if use.split == 'train' and use.model is not None:
        yield from _as_far_as_known(dataset, checker.check_model, use.model)
    yield from _as_far_as_known(dataset, checker.check_dataset, dataset, use)


def _as_far_as_known(dataset, check, *args) -> Iterator[Problem]:
    """Problems, and a warning in place of an error of the checks themselves.

    A data set may be of a kind that they do not know; and where one of several
    processes checks, the others would wait for it for ever.
    """
    try:
        yield from check(*args)
    except Exception as error:
        yield Problem(
            f'{source_of(dataset)} ({type(dataset).__name__}) could not be checked to '
            f'the end: {type(error).__name__}: {error}',
            fatal=False,
        )


def _compare(trained, dataset) -> Iterator[Problem]:
    """Check that labels mean the same in two data sets."""
    names = getattr(find_checker(dataset), 'label_names', lambda x, y: class_names(x))
    ours, theirs = names(trained, dataset), names(dataset, trained)
    if ours and theirs and not isinstance(ours, str) and not isinstance(theirs, str):
        yield from compare_class_names(
            theirs, source_of(dataset), ours, source_of(trained)
        )


def _batch_check(loader, use: Use):
    """What looks at batches of a data set, if its task has such a thing."""
    first = next(plain_datasets(loader.dataset))
    kind = getattr(find_checker(first), 'BatchCheck', None)
    if kind is None or use.model is None:
        return None
    return kind(loader.dataset, use, getattr(loader, 'batch_size', None) or 1)


def _report(problems: List[Problem]) -> None:
    """Warn of what may be meant, and stop on what cannot."""
    fatal = list(dict.fromkeys(p.message for p in problems if p.fatal))
    for message in dict.fromkeys(p.message for p in problems if not p.fatal):
        warn(message)
    if len(fatal) == 1:
        raise DatasetError(fatal[0])
    if fatal:
        raise DatasetError('\n'.join([f'{len(fatal)} problems of the data:', *fatal]))
