# 3 short epochs from scratch: 13 minutes on two CPU cores.
_base_ = './adamw.py'

optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05),
    # How rare ink is, the classifier learns first; nothing else should wait for that.
    paramwise_cfg=dict(custom_keys={'conv_seg': dict(lr_mult=5.0)}),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=0,
        end=3,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate above is for this total batch; tools/train.py scales it to
# the actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=8)
