# mmdet's 1x: 12 epochs, with the optimizer that its configs have for Swin.
_base_ = './adamw.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4), clip_grad=None)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        milestones=[8, 11],
        gamma=0.1,
        by_epoch=True,
        begin=0,
        end=12,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for this total batch; tools/train.py scales it to the
# actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=16)
