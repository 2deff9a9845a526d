# Built in mmdet's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`.
default_scope = 'mmdet'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='coco/bbox_mAP',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook', draw=False),
    # Stops before training on annotations that lack a class or all boxes.
    check_dataset=dict(type='sparseformer_mm.detection.CheckDatasetHook'),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)

env_cfg = dict(
    # Every batch has another size: cuDNN's search would never end.
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)

log_level = 'INFO'
# A whole detector to start from (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
