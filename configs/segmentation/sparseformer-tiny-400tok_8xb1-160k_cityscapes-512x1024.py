# SparseFormer-T with 400 tokens on Cityscapes, crops of 512 x 1024. Not in the
# paper.
_base_ = [
    '../_base_/models/sparseformer_segmentation.py',
    '../_base_/datasets/cityscapes_bs1_512x1024.py',
    '../_base_/schedules/segmentation_adamw_160k.py',
    '../_base_/segmentation_runtime.py',
]

# Pretrain: a classifier of ImageNet-1K, from the authors' file by
# tools/model_converters/showlab_to_mm.py or from a run of
# ../classification/sparseformer-tiny_8xb128_in1k.py. Training stops at once if it
# is not there. For another file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH
pretrained = 'checkpoints/sparseformer-tiny_in1k.pth'

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(
        # Takes the backbone out of the classifier; the embeddings and RoIs of its
        # 49 tokens are drawn anew for 400.
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(num_classes=19),
    # Whole images of 1024 x 2048: the tokens cost the same at any size. In windows
    # like the training crops instead (nine per image):
    #   --cfg-options model.test_cfg.mode=slide model.test_cfg.crop_size=512,1024 \
    #       model.test_cfg.stride=341,683
    test_cfg=dict(mode='whole'),
)

# Half of ADE20K's batch, as SegFormer has it for Cityscapes.
auto_scale_lr = dict(base_batch_size=8)
