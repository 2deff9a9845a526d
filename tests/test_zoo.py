"""Configs that come with the package, by name."""

from pathlib import Path

import pytest

import sparseformer_mm


def test_config_paths():
    names = sparseformer_mm.list_configs()
    assert len(names) == len(set(names)) and not any('_base_' in name for name in names)
    tiny = 'sparseformer-tiny_8xb128_in1k'
    path = sparseformer_mm.config_path(tiny)
    assert path.endswith(f'classification/{tiny}.py')
    assert "arch='tiny'" in Path(path).read_text('utf-8')
    for same_file in (f'{tiny}.py', f'classification/{tiny}'):
        assert sparseformer_mm.config_path(same_file) == path
    for name in names:
        assert sparseformer_mm.config_path(name).endswith(f'{name}.py')
    assert sparseformer_mm.list_configs('video/*-tiny-infl*') == [
        f'video/sparseformer-tiny-infl{n}_32xb8-32x4-50e_k400' for n in (16, 1, 4)
    ]


def test_unknown_config_names_list_near_ones():
    with pytest.raises(ValueError) as caught:
        sparseformer_mm.config_path('sparseformer_tiny_8xb128_in1k')
    message = str(caught.value)
    assert 'near it are classification/sparseformer-tiny_8xb128_in1k' in message
    assert f'all {len(sparseformer_mm.list_configs())} are in' in message
    with pytest.raises(ValueError, match='sparseformer-base_8xb128-60e_in21k'):
        sparseformer_mm.config_path('base_8xb128-60e')
    with pytest.raises(ValueError, match="no config 'zzzz'; all"):
        sparseformer_mm.config_path('zzzz')
    shared = 'sparseformer-nano_1xb16_digits'
    with pytest.raises(ValueError, match=f'detection/{shared} or video/{shared}'):
        sparseformer_mm.config_path(shared)
