// Reading a channels-last map at points, bilinearly or trilinearly, float32 on a CPU,
// forward and backward. What lies outside the map counts as zero and is not read.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "lanes.h"

namespace {

// The pixels around a point that are in the map, at most 2^D.
template <int D>
struct Corners {
  int count = 0;
  int64_t pixel[1 << D];
  float weight[1 << D];
  float slope[1 << D][D];  // of the weight, along each coordinate of the point
};

template <int D>
struct Map {
  int64_t batch, points, channels, pixels = 1;
  int64_t size[D];  // x first

  Map(const at::Tensor& map, const at::Tensor& at)
      : batch(map.size(0)), points(at.size(1)), channels(map.size(D + 1)) {
    for (int a = 0; a < D; a++) pixels *= size[a] = map.size(D - a);
  }

  // Of a point (D,) in `image`; 0 and 1 are the map's outer edges.
  Corners<D> around(const float* point, int64_t image) const {
    int64_t low[D];
    float share[D];  // of the upper pixel
    for (int a = 0; a < D; a++) {
      float where = point[a] * size[a] - 0.5f;
      // Beyond one pixel outside all is zero. NaN stays.
      where = where < -2.0f ? -2.0f : where;
      where = where > size[a] + 1.0f ? size[a] + 1.0f : where;
      const float lower = std::floor(where);
      share[a] = where - lower;
      low[a] = std::isnan(lower) ? 0 : int64_t(lower);
    }
    Corners<D> found;
    for (int corner = 0; corner < 1 << D; corner++) {
      int64_t pixel = 0;
      float weight = 1.0f, slope[D];
      std::fill_n(slope, D, 1.0f);
      bool inside = true;
      for (int a = D - 1; a >= 0; a--) {
        const bool upper = corner >> a & 1;
        const int64_t index = low[a] + upper;
        const float part = upper ? share[a] : 1.0f - share[a];
        inside = inside && index >= 0 && index < size[a];
        pixel = pixel * size[a] + index;
        weight *= part;
        for (int b = 0; b < D; b++)
          slope[b] *= b == a ? (upper ? size[a] : -size[a]) : part;
      }
      if (!inside) continue;
      found.pixel[found.count] = image * pixels + pixel;
      found.weight[found.count] = weight;
      std::copy_n(slope, D, found.slope[found.count]);
      found.count++;
    }
    return found;
  }

  void read(const float* map, const Corners<D>& corners, float* out) const {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Lanes sum = all(0.0f);
      for (int k = 0; k < corners.count; k++)
        sum += load(map + corners.pixel[k] * channels + c) * corners.weight[k];
      store(out + c, sum);
    }
    for (; c < channels; c++) {
      out[c] = 0;
      for (int k = 0; k < corners.count; k++)
        out[c] += map[corners.pixel[k] * channels + c] * corners.weight[k];
    }
  }

  // Adds a point's share, channels `from` to `to`.
  void write(float* map, const Corners<D>& corners, const float* grad, int64_t from,
             int64_t to) const {
    for (int k = 0; k < corners.count; k++) {
      float* row = map + corners.pixel[k] * channels;
      const float weight = corners.weight[k];
      int64_t c = from;
      for (; c + kLanes <= to; c += kLanes)
        store(row + c, load(row + c) + load(grad + c) * weight);
      for (; c < to; c++) row[c] += grad[c] * weight;
    }
  }

  void differentiate(const float* map, const Corners<D>& corners, const float* grad,
                     float* point) const {
    std::fill_n(point, D, 0.0f);
    for (int k = 0; k < corners.count; k++) {
      const float* row = map + corners.pixel[k] * channels;
      Lanes sums = all(0.0f);
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) sums += load(row + c) * load(grad + c);
      float total = sum(sums);
      for (; c < channels; c++) total += row[c] * grad[c];
      for (int a = 0; a < D; a++) point[a] += total * corners.slope[k][a];
    }
  }

  template <typename F>
  void for_points(F work) const {
    at::parallel_for(0, batch * points, 64, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; m++) work(m);
    });
  }

  // Each task has channels of an image to itself, and sums in the order of the points.
  template <typename F>
  void for_channels(F work) const {
    const int64_t most = (channels + kLanes - 1) / kLanes, threads = at::get_num_threads();
    const int64_t parts = std::min(most, (threads + batch - 1) / batch);
    const int64_t some = (most + parts - 1) / parts * kLanes;
    at::parallel_for(0, batch * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        const int64_t from = n % parts * some, to = std::min(from + some, channels);
        for (int64_t m = n / parts * points; m < (n / parts + 1) * points; m++)
          work(m, from, to);
      }
    });
  }
};

void check(const at::Tensor& map, const at::Tensor& points) {
  const int64_t dims = map.dim() - 2;
  TORCH_CHECK(map.scalar_type() == at::kFloat && points.scalar_type() == at::kFloat &&
                  (dims == 2 || dims == 3) && map.numel() > 0 && points.dim() == 3 &&
                  points.size(0) == map.size(0) && points.size(2) == dims,
              "sample: a map (B, [T,] H, W, C) and points (B, M, D) of float32, not ",
              map.sizes(), " of ", map.scalar_type(), " and ", points.sizes(), " of ",
              points.scalar_type());
}

template <int D>
void sample_at(const at::Tensor& map, const at::Tensor& points, at::Tensor& out) {
  const Map<D> sizes(map, points);
  const float *x = map.data_ptr<float>(), *at = points.data_ptr<float>();
  float* y = out.data_ptr<float>();
  sizes.for_points([&](int64_t m) {
    const auto corners = sizes.around(at + m * D, m / sizes.points);
    sizes.read(x, corners, y + m * sizes.channels);
  });
}

at::Tensor sample(const at::Tensor& map, const at::Tensor& points) {
  check(map, points);
  const at::Tensor x = map.contiguous(), at = points.contiguous();
  at::Tensor out = x.new_empty({at.size(0), at.size(1), x.size(-1)});
  x.dim() == 4 ? sample_at<2>(x, at, out) : sample_at<3>(x, at, out);
  return out;
}

template <int D>
void sample_gradients(const at::Tensor& map, const at::Tensor& points,
                      const at::Tensor& grad, at::Tensor& grad_map,
                      at::Tensor& grad_points) {
  const Map<D> sizes(map, points);
  const int64_t channels = sizes.channels;
  const float *x = map.data_ptr<float>(), *at = points.data_ptr<float>();
  const float* g = grad.data_ptr<float>();
  std::vector<Corners<D>> corners(sizes.batch * sizes.points);
  float* of_points = grad_points.defined() ? grad_points.data_ptr<float>() : nullptr;
  sizes.for_points([&](int64_t m) {
    corners[m] = sizes.around(at + m * D, m / sizes.points);
    if (of_points)
      sizes.differentiate(x, corners[m], g + m * channels, of_points + m * D);
  });
  if (!grad_map.defined()) return;
  float* of_map = grad_map.data_ptr<float>();
  sizes.for_channels([&](int64_t m, int64_t from, int64_t to) {
    sizes.write(of_map, corners[m], g + m * channels, from, to);
  });
}

std::tuple<at::Tensor, at::Tensor> sample_backward(const at::Tensor& map,
                                                   const at::Tensor& points,
                                                   const at::Tensor& gradient,
                                                   bool of_map, bool of_points) {
  check(map, points);
  const int64_t channels = map.size(-1);
  TORCH_CHECK(gradient.scalar_type() == at::kFloat &&
                  gradient.sizes() ==
                      at::IntArrayRef({points.size(0), points.size(1), channels}),
              "sample_backward: a gradient of ", gradient.sizes(), " of ",
              gradient.scalar_type());
  const at::Tensor x = map.contiguous(), at = points.contiguous();
  const at::Tensor grad = gradient.contiguous();
  at::Tensor grad_map, grad_points;
  if (of_map) grad_map = x.new_zeros(x.sizes());
  if (of_points) grad_points = at.new_empty(at.sizes());
  x.dim() == 4 ? sample_gradients<2>(x, at, grad, grad_map, grad_points)
               : sample_gradients<3>(x, at, grad, grad_map, grad_points);
  return {grad_map, grad_points};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparseformer_mm_kernels, library) {
  library.def("sample(Tensor map, Tensor points) -> Tensor");
  library.def(
      "sample_backward(Tensor map, Tensor points, Tensor grad, bool of_map, "
      "bool of_points) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(sparseformer_mm_kernels, CPU, library) {
  library.impl("sample", sample);
  library.impl("sample_backward", sample_backward);
}
