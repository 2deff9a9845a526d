"""make_digits.py in this process, and what it writes."""

import hashlib
import json
from pathlib import Path
from typing import Dict

from .scripts import load_tool, run_tool

SPLITS = ('train', 'val')
SMALL = ['--train', '40', '--val', '20']
# Not a multiple of the columns of samples.png.
SCATTERED = ['--train', '66', '--val', '21']


def make_digits(*argv, status: int = 0) -> str:
    """Run the tool, check its exit status and return what it prints."""
    code, output = run_tool(load_tool('dataset_converters/make_digits'), *argv)
    assert code == status, output
    return output


def fingerprint(root: Path) -> Dict[str, str]:
    """Relative path -> hash of each file below a folder."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read_json(path: Path):
    return json.loads(path.read_text('utf-8'))


def check_sources(root: Path, train: int, val: int) -> None:
    """So many source digits are in each split, of the split's own, none in both."""
    from sparseformer_mm.digits.scenes import load_source_digits, split_sources

    own = split_sources(load_source_digits()[1])
    manifest = read_json(root / 'digits_manifest.json')
    used = {split: manifest[f'{split}_sources'] for split in SPLITS}
    assert [len(used[split]) for split in SPLITS] == [train, val]
    assert not set(used['train']) & set(used['val'])
    assert all(set(used[split]) <= set(own[split]) for split in SPLITS)
