# Built in mmpretrain's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`.
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='accuracy/top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` and tools/test.py take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)

env_cfg = dict(
    # All images of a run have one size, so cuDNN's search pays.
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
# A full model to start from, classifier included (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
