# 160k iterations with the optimizer and schedule that mmseg has for transformers
# (Swin, SegFormer): AdamW, linear warm-up, linear decay to 0.
_base_ = './adamw.py'

optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    # Swin's classification recipe clips gradients, its segmentation does not.
    clip_grad=None,
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=1500,
        end=160_000,
    ),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=160_000, val_interval=16_000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The learning rate is for this total batch; tools/train.py scales it to the
# actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=16)
