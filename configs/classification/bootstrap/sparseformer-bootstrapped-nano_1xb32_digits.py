# The student of sparseformer-bootstrapped-nano_vit-nano_1xb32_digits.py as an ordinary
# classifier: takes its checkpoints, and learns with labels for comparison.
_base_ = [
    '../../_base_/models/sparseformer_bootstrapped_nano.py',
    '../../_base_/datasets/digits_bootstrap_bs32.py',
    '../../_base_/schedules/digits_bootstrap_bs32_adamw_5e.py',
    '../../_base_/classification_runtime.py',
]

default_hooks = dict(logger=dict(interval=20))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
