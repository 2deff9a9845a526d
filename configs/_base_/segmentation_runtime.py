# Built in mmseg's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`. What is not said here is as
# mmengine has it by default.
default_scope = 'mmseg'

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=16_000,
        max_keep_ckpts=3,
        save_best='mIoU',
        rule='greater',
    ),
    visualization=dict(type='SegVisualizationHook', draw=False),
    # Stops before training on masks or pictures that cannot be meant.
    check_dataset=dict(type='sparseformer_mm.CheckDatasetHook'),
    # Warns of what shows early that nothing is learnt.
    health=dict(type='sparseformer_mm.HealthHook'),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)
log_processor = dict(by_epoch=False)

# With several GPUs, batch norms take their statistics from all of them; a batch of
# one or two images per GPU is too small.
sync_bn = 'torch'

# Training crops have one size, so cuDNN's search pays.
env_cfg = dict(cudnn_benchmark=True)

visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)

# A whole segmentor to start from (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
