# Built in mmpretrain's scope; types of this package carry their prefix
# (`sparseformer_mm.`) and need no `custom_imports`. What is not said here is as
# mmengine has it by default.
default_scope = 'mmpretrain'

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='accuracy/top1',
        rule='greater',
    ),
    visualization=dict(type='VisualizationHook', enable=False),
    # Stops before training on folders, labels or pictures that cannot be meant.
    check_dataset=dict(type='sparseformer_mm.CheckDatasetHook'),
    # Warns of what shows early that nothing is learnt.
    health=dict(type='sparseformer_mm.HealthHook'),
    # Tells the sampling's gradient limit the loss scale of --amp.
    loss_scale=dict(type='sparseformer_mm.LossScaleHook'),
    # Lets `load_from` and tools/test.py take the authors' checkpoint files.
    convert_checkpoint=dict(type='sparseformer_mm.ConvertCheckpointHook'),
)

# All images of a run have one size, so cuDNN's search pays.
env_cfg = dict(cudnn_benchmark=True)

visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)

# A full model to start from, classifier included (`--resume` continues a run).
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
