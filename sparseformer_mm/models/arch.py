"""Sizes of the published models, and of one for a CPU."""

from typing import Union

from .arguments import check_count, is_number

# The paper's Table 1; what is not given is that of 'tiny'.
ARCHS = dict(
    tiny=dict(
        num_tokens=49,
        num_points=36,
        focusing_dims=256,
        focusing_repeats=4,
        cortex_dims=512,
        cortex_depth=8,
        num_heads=64,
        feat_channels=96,
        ffn_ratio=4,
    ),
    small=dict(num_tokens=64, focusing_dims=320, cortex_dims=640),
    base=dict(num_tokens=81, focusing_dims=384, cortex_dims=768, cortex_depth=10),
    # Not the paper's: learns small data sets from scratch on a CPU.
    nano=dict(
        num_tokens=16,
        num_points=16,
        focusing_dims=96,
        cortex_dims=192,
        cortex_depth=4,
        num_heads=8,
        feat_channels=48,
    ),
)


def resolve_arch(arch: Union[str, dict], **overrides) -> dict:
    """All sizes of a model.

    Args:
        arch: a name in :data:`ARCHS`, or a dict with any of its keys; missing ones are
            those of 'tiny'.
        **overrides: a value for a key, or None to leave it.

    Raises:
        ValueError, TypeError: naming what is wrong and what is allowed.
    """
    settings = dict(ARCHS['tiny'])
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is unknown; choose one of {list(ARCHS)} or give a dict'
            )
        settings.update(ARCHS[arch])
    elif isinstance(arch, dict):
        unknown = sorted(set(arch) - set(settings), key=str)
        if unknown:
            raise ValueError(
                f'arch has unknown keys {unknown}; the known ones are '
                f'{sorted(settings)}'
            )
        settings.update(arch)
    else:
        raise TypeError(f'arch must be a name or a dict, not {type(arch).__name__}')
    settings.update({k: v for k, v in overrides.items() if v is not None})
    # The stem's norm needs two channels for a variance.
    least = dict(focusing_repeats=0, feat_channels=2)
    for name, value in list(settings.items()):
        if name == 'ffn_ratio':
            if not is_number(value) or value <= 0:
                raise ValueError(f'ffn_ratio={value!r} must be positive and finite')
        else:
            settings[name] = check_count(name, value, least.get(name, 1))
    for name in ('focusing_dims', 'cortex_dims'):
        if settings[name] % settings['num_heads']:
            raise ValueError(
                f'num_heads={settings["num_heads"]} does not divide '
                f'{name}={settings[name]}; choose a width that is a multiple of '
                'num_heads, or another num_heads'
            )
        if int(settings[name] * settings['ffn_ratio']) < 1:
            raise ValueError(
                f'ffn_ratio={settings["ffn_ratio"]} of {name}={settings[name]} leaves '
                'no hidden channel: choose a larger ratio or width'
            )
    return settings
