# The paper's recipe in place of sparseformer-nano-modern_1xb16_digits.py: softmax
# with a no-object class, losses on the last block only.
_base_ = [
    '../_base_/models/sparseformer_detection.py',
    '../_base_/datasets/digits_detection_bs16.py',
    '../_base_/schedules/digits_detection_bs16_adamw_5e.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        arch='nano',
        num_tokens=36,
        # One RoI per cell of a grid: a start that small data learns fast from.
        roi_init='cell',
        drop_path_rate=0.0,
    ),
    bbox_head=dict(
        num_classes=10,
        embed_dims=192,
        num_queries=36,
    ),
    test_cfg=dict(max_per_img=36),
)

default_hooks = dict(logger=dict(interval=25))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
