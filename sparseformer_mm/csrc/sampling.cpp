// Reading a channels-last map at points, bilinearly or trilinearly, float32 on a CPU,
// forward and backward. What lies outside the map counts as zero and is not read.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "lanes.h"

namespace {

// The pixels around a point that are in the map, at most 2^D.
template <int D>
struct Corners {
  int count = 0;
  int64_t pixel[1 << D];
  float weight[1 << D];
  float slope[1 << D][D];  // of the weight, along each coordinate of the point

  void add(int64_t index, float share, const float* slopes) {
    pixel[count] = index;
    weight[count] = share;
    std::copy_n(slopes, D, slope[count]);
    count++;
  }
};

template <int D>
struct Map {
  int64_t batch, points, channels, pixels = 1;
  int64_t size[D];  // x first

  Map(const at::Tensor& map, int64_t points)
      : batch(map.size(0)), points(points), channels(map.size(D + 1)) {
    for (int a = 0; a < D; a++) pixels *= size[a] = map.size(D - a);
  }

  // Of point m of all, whose coordinates are in `where`; 0 and 1 are the map's outer
  // edges.
  Corners<D> around(const float* where, int64_t m) const {
    const int64_t first = m / points * pixels;  // of its image
    Corners<D> found;
    int64_t low[D];
    float share[D];  // of the upper pixel
    for (int a = 0; a < D; a++) {
      // Rounded, as elsewhere: with product and difference in one, a point on a pixel's
      // center would be a bit beside it, and might have another gradient.
      const volatile float product = where[m * D + a] * size[a];
      // Beyond one pixel outside all is zero.
      const float pixel = std::min(std::max(product - 0.5f, -2.0f), size[a] + 1.0f);
      const float lower = std::floor(pixel);
      share[a] = pixel - lower;
      if (std::isnan(product)) {  // reads NaN, wherever the others are
        float slope[D];
        std::fill_n(slope, D, product);
        found.add(first, product, slope);
        return found;
      }
      low[a] = int64_t(lower);
    }
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
      if (inside) found.add(first + pixel, weight, slope);
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
      float sum = 0;
      for (int k = 0; k < corners.count; k++)
        sum += map[corners.pixel[k] * channels + c] * corners.weight[k];
      out[c] = sum;
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
      float total = 0;
      for (int64_t i = 0; i < kLanes; i++) total += sums[i];
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
    const int64_t vectors = (channels + kLanes - 1) / kLanes;
    const int64_t threads = at::get_num_threads();
    // As many tasks for each thread.
    const int64_t parts = std::min(vectors, threads / std::gcd(threads, batch));
    at::parallel_for(0, batch * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        const int64_t image = n / parts, part = n % parts;
        const int64_t from = vectors * part / parts * kLanes;
        const int64_t to = std::min(vectors * (part + 1) / parts * kLanes, channels);
        for (int64_t m = image * points; m < (image + 1) * points; m++)
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
  const Map<D> sizes(map, points.size(1));
  const float *x = map.data_ptr<float>(), *where = points.data_ptr<float>();
  float* y = out.data_ptr<float>();
  sizes.for_points([&](int64_t m) {
    sizes.read(x, sizes.around(where, m), y + m * sizes.channels);
  });
}

at::Tensor sample(const at::Tensor& map, const at::Tensor& points) {
  check(map, points);
  const at::Tensor x = map.contiguous(), where = points.contiguous();
  at::Tensor out = x.new_empty({x.size(0), where.size(1), x.size(-1)});
  x.dim() == 4 ? sample_at<2>(x, where, out) : sample_at<3>(x, where, out);
  return out;
}

template <int D>
void sample_gradients(const at::Tensor& map, const at::Tensor& points,
                      const at::Tensor& grad, at::Tensor& grad_map,
                      at::Tensor& grad_points) {
  const Map<D> sizes(map, points.size(1));
  const int64_t channels = sizes.channels;
  const float *x = map.data_ptr<float>(), *where = points.data_ptr<float>();
  const float* g = grad.data_ptr<float>();
  if (grad_points.defined()) {
    float* of_points = grad_points.data_ptr<float>();
    sizes.for_points([&](int64_t m) {
      const auto corners = sizes.around(where, m);
      sizes.differentiate(x, corners, g + m * channels, of_points + m * D);
    });
  }
  if (grad_map.defined()) {
    float* of_map = grad_map.data_ptr<float>();
    sizes.for_channels([&](int64_t m, int64_t from, int64_t to) {
      sizes.write(of_map, sizes.around(where, m), g + m * channels, from, to);
    });
  }
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
  const at::Tensor x = map.contiguous(), where = points.contiguous();
  const at::Tensor grad = gradient.contiguous();
  at::Tensor grad_map, grad_points;
  if (of_map) grad_map = x.new_zeros(x.sizes());
  if (of_points) grad_points = where.new_empty(where.sizes());
  x.dim() == 4 ? sample_gradients<2>(x, where, grad, grad_map, grad_points)
               : sample_gradients<3>(x, where, grad, grad_map, grad_points);
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
