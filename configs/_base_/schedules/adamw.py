# AdamW as in Swin's recipe; each schedule sets its learning rate.
optim_wrapper = dict(
    optimizer=dict(
        type='AdamW', lr=1e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)
    ),
    # No decay of norms, biases, other vectors and the tokens' RoIs. The token
    # embeddings are decayed like any weight.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'token_rois': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
