# The detector with what DETRs have learnt since the paper: sigmoid focal
# classification, losses on the tokens of every cortex block, and boxes refined
# from block to block.
_base_ = './sparseformer_detection.py'

model = dict(
    # All cortex blocks: 8 of tiny and small, 10 of base.
    backbone=dict(out_indices=(0, 1, 2, 3, 4, 5, 6, 7)),
    bbox_head=dict(
        # As many as there are out_indices.
        num_levels=8,
        refine_boxes=True,
        # Positives are counted over all GPUs.
        sync_cls_avg_factor=True,
        loss_cls=dict(
            _delete_=True,
            type='FocalLoss',
            use_sigmoid=True,
            gamma=2.0,
            alpha=0.25,
            loss_weight=2.0,
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
)
