# 30 epochs of fine-tuning on ImageNet-1K after ImageNet-21K. The paper gives
# epochs, learning rate, cosine and weight decay. Not given, and chosen here:
# batch 1024 and the rest of the recipe as on 1K, 5 warm-up epochs as in Swin's
# fine-tuning.
_base_ = './adamw.py'

optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-8))

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
        eta_min=2e-6,
        by_epoch=True,
        begin=5,
        end=30,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
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
