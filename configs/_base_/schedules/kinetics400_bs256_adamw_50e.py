# 50 epochs from an image checkpoint. The paper gives AdamW, epochs, warm-up,
# learning rate, cosine and batch (8 videos on each of 32 GPUs). Not given, and
# chosen here: weight decay and gradient clipping as in MViT, whose protocol the
# paper follows. No moving average, as there.
_base_ = './adamw.py'

optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=0.05), clip_grad=dict(max_norm=1.0)
)

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
        eta_min=5e-6,
        by_epoch=True,
        begin=5,
        end=50,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=5)
val_cfg = dict()
test_cfg = dict()

# The learning rate above is for this total batch; tools/train.py scales it to
# the actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=256)
