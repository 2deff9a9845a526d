# 2000 iterations of 8 crops: about ten minutes on one CPU core for 49 tokens.
_base_ = './adamw.py'

optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=0.05))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=1e-6,
        by_epoch=False,
        begin=100,
        end=2000,
    ),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=2000, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The learning rate is for this total batch; tools/train.py scales it to the
# actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=8)
