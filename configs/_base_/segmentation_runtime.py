# Built in mmseg's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`.
default_scope = 'mmseg'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=16_000,
        max_keep_ckpts=3,
        save_best='mIoU',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook', draw=False),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)
log_processor = dict(by_epoch=False)

# With several GPUs, batch norms take their statistics from all of them; a batch of
# one or two images per GPU is too small.
sync_bn = 'torch'

env_cfg = dict(
    # Training crops have one size, so cuDNN's search pays.
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
# A whole segmentor to start from (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
