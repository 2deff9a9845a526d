"""The configs that travel with the package, by name."""

from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import List

_FOLDER = Path(__file__).parent / '.mim' / 'configs'


def list_configs(pattern: str = '*') -> List[str]:
    """Names of the shipped configs, as task/name.

    Args:
        pattern: with ``*`` and ``?`` for the whole name or for what is after its last
            slash, e.g. 'sparseformer-tiny*' or 'video/*'.

    Example:
        >>> from sparseformer_mm import list_configs
        >>> list_configs('sparseformer-tiny_*in1k')
        ['classification/sparseformer-tiny_8xb128_in1k']
    """
    names = (
        path.relative_to(_FOLDER).with_suffix('').as_posix()
        for path in _FOLDER.glob('**/*.py')
    )
    return sorted(
        name
        for name in names
        if not name.startswith('_base_')
        and (fnmatch(name, pattern) or fnmatch(name.split('/')[-1], pattern))
    )


def config_path(name: str) -> str:
    """The file of a shipped config, for the libraries' inferencers and tools.

    Args:
        name: e.g. 'sparseformer-tiny_8xb128_in1k', with its task in front where two
            share it: 'video/sparseformer-nano_1xb16_digits'.

    Raises:
        ValueError: if there is none, or more than one, with those it might be.

    Example:
        >>> from sparseformer_mm import config_path
        >>> Path(config_path('sparseformer-tiny_8xb128_in1k')).name
        'sparseformer-tiny_8xb128_in1k.py'
    """
    known = list_configs()
    wanted = name[: -len('.py')] if name.endswith('.py') else name
    found = [full for full in known if f'/{full}'.endswith(f'/{wanted}')]
    if len(found) == 1:
        return str(_FOLDER / f'{found[0]}.py')
    if found:
        raise ValueError(f'{name!r} may be {" or ".join(found)}: put the task in front')
    if not known:
        raise ValueError(
            f'there are no configs in {_FOLDER}: this installation is not complete, '
            'install the package again'
        )
    short = {full.split('/')[-1]: full for full in known}
    near = [full for full in known if wanted and wanted.lower() in full]
    near.sort(key=lambda full: (full.count('/'), len(full)))  # ablations last
    near += [short[match] for match in get_close_matches(wanted, short, 5, 0.5)]
    hint = f'near it are {", ".join(dict.fromkeys(near[:8]))}; ' if near else ''
    raise ValueError(
        f'there is no config {name!r}; {hint}all {len(known)} are in '
        'sparseformer_mm.list_configs()'
    )
