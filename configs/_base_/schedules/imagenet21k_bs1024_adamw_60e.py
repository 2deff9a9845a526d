# 60 epochs of pre-training on ImageNet-21K. The paper gives epochs, learning
# rate, weight decay and drop path, and calls the rest "similar" to ImageNet-1K.
# Not given, and chosen here: batch 1024 as on 1K, 5 warm-up epochs as in Swin's
# pre-training on ImageNet-22K.
_base_ = './adamw.py'

optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.05))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        by_epoch=True,
        begin=5,
        end=60,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=1)
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
