# Built in mmdet's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`. What is not said here is as
# mmengine has it by default.
default_scope = 'mmdet'

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='coco/bbox_mAP',
        rule='greater',
    ),
    visualization=dict(type='DetVisualizationHook', draw=False),
    # Stops before training on annotations or pictures that cannot be meant.
    check_dataset=dict(type='sparseformer_mm.CheckDatasetHook'),
    # Warns of what shows early that nothing is learnt.
    health=dict(type='sparseformer_mm.HealthHook'),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)

# With several GPUs, batch norms take their statistics from all of them; a batch of
# one or two images per GPU is too small.
sync_bn = 'torch'

# Every batch has another size: cuDNN's search would never end.
env_cfg = dict(cudnn_benchmark=False)

visualizer = dict(
    type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)

# A whole detector to start from (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
