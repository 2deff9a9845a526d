# 50 epochs, the learning rate dropped after 40 as in Deformable DETR.
_base_ = './detr_adamw.py'

param_scheduler = dict(type='MultiStepLR', milestones=[40], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for this total batch; tools/train.py scales it to the
# actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=64)
