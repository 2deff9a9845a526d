"""SparseFormer in the registries of the four libraries, with and without an
import line, and what gets imported on the way.

Each check runs in a process of its own: what is imported and registered stays
so for good.
"""

import importlib.util
import textwrap

import pytest

from helpers.fresh import succeed_fresh

SCOPES = {
    'mmpretrain': 'onedl-mmpretrain or mmpretrain',
    'mmdet': 'onedl-mmdetection or mmdet',
    'mmseg': 'onedl-mmsegmentation or mmsegmentation',
    'mmaction': 'mmaction2',
}

NANO = dict(
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=32,
    cortex_depth=2,
    num_heads=4,
    feat_channels=8,
)

# mmaction2 1.2.0 cannot be imported as it was released.
MEND_MMACTION = 'import sparseformer_mm.video.compat'

PREPARE = f"""
    import sys
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope, init_default_scope

    def build(kind):
        model = MODELS.build(dict(type=kind, arch={NANO}))
        pooled, = model(torch.rand(2, 3, 32, 40))
        assert pooled.shape == (2, 32), pooled.shape
        return type(model)

    def loaded(*names):
        return sorted(name for name in sys.modules
                      if name.split('.')[0] in names)
"""


def run(*parts: str) -> str:
    """Runs code in a new process and returns what it prints."""
    return succeed_fresh(''.join(textwrap.dedent(part) for part in parts))


def need(*scopes: str) -> str:
    """Skips where a library is missing, or returns what mends it."""
    for scope in scopes:
        if importlib.util.find_spec(scope) is None:
            pytest.skip(f'needs {scope}: pip install {SCOPES[scope]}')
    return MEND_MMACTION if 'mmaction' in scopes else ''


@pytest.mark.parametrize('scope', SCOPES)
def test_prefixed_type_needs_no_import(scope):
    run(
        need(scope),
        PREPARE,
        f"""
        init_default_scope('{scope}')
        cls = build('sparseformer_mm.SparseFormer')
        assert cls.__module__.startswith('sparseformer_mm.models'), cls
        # Of this package, the core only.
        core = ('api', 'models', 'engine', 'registry', 'version', 'zoo')
        core += ('video', ) if '{scope}' == 'mmaction' else ()  # mends it above
        extra = [name for name in loaded('sparseformer_mm')
                 if name.split('.')[1:2] and name.split('.')[1] not in core]
        assert not extra, extra
    """,
    )


@pytest.mark.parametrize('scope', SCOPES)
def test_bare_type_after_custom_imports(scope, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "custom_imports = dict(imports=['sparseformer_mm'])\n"
        f"default_scope = '{scope}'\n"
    )
    run(
        need(scope),
        PREPARE,
        f"""
        init_default_scope(Config.fromfile({str(config)!r}).default_scope)
        cls = build('SparseFormer')
        assert cls is build('sparseformer_mm.SparseFormer')
    """,
    )


def test_all_libraries_in_one_process():
    run(
        need(*SCOPES),
        PREPARE,
        f"""
        classes = set()
        for _ in range(2):
            for scope in {list(SCOPES)}:
                with DefaultScope.overwrite_default_scope(scope):
                    classes.add(build('sparseformer_mm.SparseFormer'))
        import sparseformer_mm
        for scope in {list(SCOPES)}:
            with DefaultScope.overwrite_default_scope(scope):
                classes.add(build('SparseFormer'))
        assert classes == {{sparseformer_mm.SparseFormer}}, classes
    """,
    )


def test_a_sub_package_resolves_by_its_dotted_path():
    run(
        need('mmaction')[:0],
        PREPARE,
        """
        init_default_scope('mmpretrain')
        build('sparseformer_mm.SparseFormer')
        assert not loaded('mmaction')
        drn = MODELS.get('sparseformer_mm.video.compat.DRN')
        assert drn.__module__ == 'sparseformer_mm.video.compat'
        assert loaded('mmaction')
    """,
    )


def test_a_missing_library_names_the_install_line():
    run("""
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *args: (
            None if name == 'mmaction' else find_spec(name, *args))
        import sparseformer_mm  # no error as long as nothing of it is used
        try:
            import sparseformer_mm.video.compat
        except ImportError as error:
            assert 'pip install mmaction2' in str(error), error
        else:
            raise AssertionError('no error')
    """)


def test_hook_is_found_by_prefix():
    run("""
        from mmengine.registry import HOOKS
        hook = HOOKS.build(dict(type='sparseformer_mm.LossScaleHook'))
        assert type(hook).__module__.startswith('sparseformer_mm.engine')
    """)


def test_core_imports_torch_and_mmengine_only():
    run(
        PREPARE,
        """
        import sparseformer_mm
        build('sparseformer_mm.SparseFormer')
        from mmengine.registry import HOOKS
        HOOKS.build(dict(type='sparseformer_mm.LossScaleHook'))
        found = loaded('mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mmaction',
                       'timm')
        assert not found, found
    """,
    )


def test_a_missing_library_is_an_error_only_on_use():
    out = run(
        """
        import sys
        for name in ('mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mmaction',
                     'timm'):
            sys.modules[name] = None  # what an import of it then raises
    """,
        PREPARE,
        """
        import sparseformer_mm
        build('sparseformer_mm.SparseFormer')
        from sparseformer_mm.utils.configs import require_library
        for name in ('mmpretrain', 'mmdet', 'mmseg', 'mmaction'):
            try:
                require_library(name)
            except SystemExit as error:
                print(error)
    """,
    )
    lines = out.splitlines()
    for install in (
        'onedl-mmpretrain',
        'onedl-mmdetection',
        'onedl-mmsegmentation',
        'mmaction2',
    ):
        assert any(f'pip install "{install}' in line for line in lines), out
