import torch

from sparseformer_mm.utils import timing


def test_products_are_known_by_name():
    names = """mkldnn::_linear_pointwise mkldnn::_convolution_pointwise
    aten::mkldnn_linear mkl::_mkl_linear aten::mm aten::bmm aten::addmm
    aten::baddbmm aten::baddbmm_ aten::mv aten::_addmm_activation
    aten::mkldnn_convolution aten::convolution_backward
    aten::cudnn_convolution aten::_slow_conv2d_forward aten::thnn_conv2d
    aten::_scaled_dot_product_flash_attention_for_cpu sparseformer_mm::linear"""
    others = """aten::add aten::mul aten::sum aten::norm aten::upsample_bilinear2d
    aten::resolve_conj aten::comm aten::amax sm80_gemm aten::linalg_vector_norm"""
    assert all(map(timing.is_product, names.split()))
    assert not any(map(timing.is_product, others.split()))


def test_dense_outputs_have_a_loss_too():
    outputs = [torch.ones(2, 3, 4, 4), (torch.ones(2, 5, 6), None, 'a stage')]
    assert timing._loss(outputs, torch.zeros(2).long()) == 2
