# As sparseformer-nano_1xb16_digits, from the image model that the quick start trains
# on the digits that stand still.
_base_ = './sparseformer-nano_1xb16_digits.py'

# Pretrain: the checkpoint to start from. The default is where `bash
# tools/quickstart.sh` leaves its last one; training stops at once if it is not there.
# For another file: --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'work_dirs/quickstart/epoch_15.pth'

model = dict(
    backbone=dict(
        # Takes the backbone out of the classifier and inflates it.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    )
)
