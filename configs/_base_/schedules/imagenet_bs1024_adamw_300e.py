# 300 epochs on ImageNet-1K from scratch: AdamW, batch 1024, the recipe of Swin
# with an exponential moving average.
# (./adamw.py is spelt out, because configs inherit from those that use this file.)
optim_wrapper = dict(
    optimizer=dict(
        type='AdamW', lr=1e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'token_rois': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate above is for this total batch; tools/train.py scales it to
# the actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=1024)

custom_hooks = [
    # mmengine's momentum is one minus the decay: 1e-4 is a decay of 0.9999.
    # Validation uses the average, and checkpoints hold it as `state_dict`.
    dict(type='EMAHook', momentum=1e-4),
]
