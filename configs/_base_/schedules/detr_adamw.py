# DETR's optimizer: AdamW, everything but the head at a tenth of the learning
# rate, gradients clipped hard.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(
        # No decay of norms, biases, other vectors and the tokens' RoIs. mmengine
        # looks at these three only where no custom key is part of a parameter's
        # name, so they are for the head, and the backbone's are listed below.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        # The longest key that is part of the name counts, and it alone. Another stem
        # or decoding may have biases of other names.
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            **{
                key: dict(lr_mult=0.1, decay_mult=0.0)
                for key in (
                    'backbone.latent.token_rois',
                    'norm.weight',
                    'norm.bias',
                    'transition.1.',
                    'transition.0.bias',
                    'stem.conv.bias',
                    'attn.qkv.bias',
                    'attn.proj.bias',
                    'sampler.bias',
                    'decoder.squeeze.bias',
                    'decoder.generate.bias',
                    'decoder.channel_bias',
                    'decoder.point_bias',
                    'decoder.proj.bias',
                    'ffn.fc1.bias',
                    'ffn.fc2.bias',
                )
            },
        },
    ),
)
