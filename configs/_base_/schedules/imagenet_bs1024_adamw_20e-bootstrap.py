# 20 epochs of bootstrapping on ImageNet-1K. The paper gives about 20 epochs and that no
# labels are used. Not given, and chosen here: batch 1024, AdamW as in this package's
# other recipes, learning rate, its tenth for the inherited blocks, one warm-up epoch.
_base_ = './adamw.py'

optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            'token_rois': dict(decay_mult=0.0),
            # The middle third of the teacher, of a ViT-L the longest here. (Block 0 is
            # new; the last third does not learn.)
            **{
                f'backbone.cortex.{i}.': dict(lr_mult=0.1, decay_mult=0.0)
                for i in range(1, 9)
            },
        }
    ),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=20,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate above is for this total batch; tools/train.py scales it to
# the actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=1024)
