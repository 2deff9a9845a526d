# A SparseFormer detector small enough to learn scattered digits on a CPU in
# minutes, from scratch: focal loss, losses on every block, each of which looks.
_base_ = [
    '../_base_/models/sparseformer_detection_modern.py',
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
        # Every block looks again at what it is about to box.
        cortex_looks=4,
        out_indices=(0, 1, 2, 3),
    ),
    bbox_head=dict(
        num_classes=10,
        embed_dims=192,
        num_queries=36,
        num_levels=4,
        # A block's box starts from the RoI in which it has just looked.
        refine_boxes=False,
        # After the last: what a map restored from all tokens shows in the boxes.
        map_evidence=dict(feat_channels=48),
    ),
    test_cfg=dict(max_per_img=36),
)

default_hooks = dict(logger=dict(interval=25))
# A fixed seed, so that a second run gives the same figures.
randomness = dict(seed=0)
