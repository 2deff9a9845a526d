# 300 epochs of DETR's schedule.
_base_ = './detr_adamw.py'

param_scheduler = dict(type='MultiStepLR', milestones=[200], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=10)
val_cfg = dict()
test_cfg = dict()

# The learning rate is for this total batch; tools/train.py scales it to the
# actual one with --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=64)
