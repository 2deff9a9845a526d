// Self-attention in many narrow heads, float32 on a CPU, forward and backward.
//
// As many queries as a vector has lanes go through all keys together, so that nothing
// is summed across lanes and scores are never written. A head's queries, keys and values
// are gathered first, from where the projection wrote them. Weights are powers of two of
// scores.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "lanes.h"

namespace {

typedef int32_t Bits __attribute__((vector_size(kLanes * 4)));

// Up to this, powers of scores as they are neither overflow nor lose bits.
constexpr float kMaxScore = 48.0f;
constexpr float kLog2E = 1.44269504f;

// Steps of a loop that run side by side: one alone waits for its own results.
constexpr int kSteps = 4;

// 2^x to an ulp or two, of S vectors; 2^-126 below -126. NaN stays NaN.
template <int S>
inline void exp2(Lanes* x) {
  // Added to 1.5 * 2^23 a number is rounded; its last bits are the biased exponent.
  const Lanes shift = all(12582912.0f + 127.0f);
  // Taylor's, ln(2)^n / n!; what follows is below 1.2e-7 for |rest| <= 1/2.
  constexpr float terms[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f,
                             5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
  Lanes rounded[S], power[S];
  for (int s = 0; s < S; s++) x[s] = x[s] < all(-126.0f) ? all(-126.0f) : x[s];
  for (int s = 0; s < S; s++) rounded[s] = x[s] + shift;
  for (int s = 0; s < S; s++) x[s] -= rounded[s] - shift;
  for (int s = 0; s < S; s++) power[s] = all(terms[0]);
  for (int t = 1; t < 7; t++)
    for (int s = 0; s < S; s++) power[s] = power[s] * x[s] + terms[t];
  for (int s = 0; s < S; s++) {
    Bits exponent;
    std::memcpy(&exponent, &rounded[s], sizeof exponent);
    exponent <<= 23;
    Lanes scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    x[s] = power[s] * scale;
  }
}

// Of W lanes with each of S rows.
template <int W, int S>
inline void dots(const Lanes* x, const float* rows, Lanes* to) {
  for (int s = 0; s < S; s++) to[s] = x[0] * rows[s * W];
  for (int c = 1; c < W; c++)
    for (int s = 0; s < S; s++) to[s] += x[c] * rows[s * W + c];
}

template <int W>
inline void clear(Lanes* x) {
  for (int c = 0; c < W; c++) x[c] = all(0.0f);
}

// run(j, steps) for all j, kSteps at a time while there are so many.
template <typename F>
inline void in_steps(int64_t count, F run) {
  int64_t j = 0;
  for (; j + kSteps <= count; j += kSteps)
    run(j, std::integral_constant<int, kSteps>());
  for (; j < count; j++) run(j, std::integral_constant<int, 1>());
}

// A row of W numbers for each token of one head, or W columns of vectors.
template <int W>
struct Rows {
  std::vector<float> numbers;

  explicit Rows(int64_t tokens) : numbers(tokens * W) {}

  void read(const float* from, int64_t tokens, int64_t stride, float scale = 1.0f) {
    for (int64_t i = 0; i < tokens; i++)
      for (int c = 0; c < W; c++) numbers[i * W + c] = from[i * stride + c] * scale;
  }

  const float* operator[](int64_t token) const { return &numbers[token * W]; }

  float longest() const {
    float most = 0;
    for (size_t i = 0; i < numbers.size(); i += W) {
      float square = 0;
      for (int c = 0; c < W; c++) square += numbers[i + c] * numbers[i + c];
      if (!(square <= most) && most == most) most = square;  // NaN stays
    }
    return std::sqrt(most);
  }
};

template <int W>
struct Columns {
  int64_t vectors;
  std::vector<float> numbers;

  explicit Columns(int64_t tokens)
      : vectors((tokens + kLanes - 1) / kLanes), numbers(vectors * W * kLanes) {}

  float& at(int64_t token, int column) {
    return numbers[(token / kLanes * W + column) * kLanes + token % kLanes];
  }

  void read(const Rows<W>& rows) {
    for (size_t i = 0; i < rows.numbers.size(); i++) at(i / W, i % W) = rows.numbers[i];
  }

  void write(float* to, int64_t tokens, int64_t stride) {
    for (int64_t i = 0; i < tokens; i++)
      for (int c = 0; c < W; c++) to[i * stride + c] = at(i, c);
  }

  void load(int64_t vector, Lanes* to) const {
    std::memcpy(to, &numbers[vector * W * kLanes], W * sizeof(Lanes));
  }

  void store(int64_t vector, const Lanes* from) {
    std::memcpy(&numbers[vector * W * kLanes], from, W * sizeof(Lanes));
  }
};

// What one thread needs for one head after the other.
template <int W>
struct Head {
  int64_t tokens;
  Rows<W> query, key, value, grad_out;
  Columns<W> columns, more, sums, more_sums;
  Columns<1> tops, shares, means;

  explicit Head(int64_t n)
      : tokens(n), query(n), key(n), value(n), grad_out(n), columns(n), more(n), sums(n),
        more_sums(n), tops(n), shares(n), means(n) {}

  void read(const float* qkv, int64_t channels) {
    query.read(qkv, tokens, 3 * channels, kLog2E / std::sqrt(float(W)));
    key.read(qkv + channels, tokens, 3 * channels);
    value.read(qkv + 2 * channels, tokens, 3 * channels);
  }

  // What a query's scores are lowered by (0 where none can be too large) and one over
  // the sum of its weights go to `stats` (2, tokens).
  void attend(float* out, int64_t channels, float* stats) {
    const bool overflows = !(query.longest() * key.longest() < kMaxScore);
    columns.read(query);
    for (int64_t v = 0; v < columns.vectors; v++) {
      Lanes q[W], sum[W], total = all(0.0f), highest = all(0.0f);
      columns.load(v, q);
      if (overflows) {
        dots<W, 1>(q, key[0], &highest);
        for (int64_t j = 1; j < tokens; j++) {
          Lanes score;
          dots<W, 1>(q, key[j], &score);
          highest = score > highest ? score : highest;
        }
      }
      clear<W>(sum);
      in_steps(tokens, [&](int64_t j, auto steps) {
        constexpr int S = decltype(steps)::value;
        Lanes weight[S];
        dots<W, S>(q, key[j], weight);
        for (int s = 0; s < S; s++) weight[s] -= highest;
        exp2<S>(weight);
        for (int s = 0; s < S; s++) {
          total += weight[s];
          for (int c = 0; c < W; c++) sum[c] += weight[s] * value[j][s * W + c];
        }
      });
      const Lanes one_over = 1.0f / total;
      for (int c = 0; c < W; c++) sum[c] *= one_over;
      sums.store(v, sum);
      tops.store(v, &highest);
      shares.store(v, &one_over);
    }
    sums.write(out, tokens, channels);
    tops.write(stats, tokens, 1);
    shares.write(stats + tokens, tokens, 1);
  }

  // `out` and `grad` (tokens, W), `channels` apart.
  void differentiate(const float* stats, const float* out, const float* grad,
                     float* grad_qkv, int64_t channels) {
    std::copy_n(stats, tokens, tops.numbers.data());
    std::copy_n(stats + tokens, tokens, shares.numbers.data());
    grad_out.read(grad, tokens, channels);
    for (int64_t i = 0; i < tokens; i++) {
      float sum = 0;
      for (int c = 0; c < W; c++) sum += grad_out[i][c] * out[i * channels + c];
      means.numbers[i] = sum;
    }

    const float scale = 1.0f / std::sqrt(float(W));
    columns.read(query);
    more.read(grad_out);
    for (int64_t v = 0; v < columns.vectors; v++) {
      Lanes q[W], g[W], sum[W], lower, part, average;
      columns.load(v, q);
      more.load(v, g);
      tops.load(v, &lower);
      shares.load(v, &part);
      means.load(v, &average);
      clear<W>(sum);
      in_steps(tokens, [&](int64_t j, auto steps) {
        constexpr int S = decltype(steps)::value;
        Lanes weight[S], grad_score[S];
        dots<W, S>(q, key[j], weight);
        for (int s = 0; s < S; s++) weight[s] -= lower;
        exp2<S>(weight);
        dots<W, S>(g, value[j], grad_score);
        for (int s = 0; s < S; s++) {
          grad_score[s] = weight[s] * (grad_score[s] - average);
          for (int c = 0; c < W; c++) sum[c] += grad_score[s] * key[j][s * W + c];
        }
      });
      for (int c = 0; c < W; c++) sum[c] *= part * scale;
      sums.store(v, sum);
    }
    sums.write(grad_qkv, tokens, 3 * channels);

    // The same with keys in lanes, which sum over queries.
    columns.read(key);
    more.read(value);
    for (int64_t v = 0; v < columns.vectors; v++) {
      Lanes k[W], u[W], grad_key[W], grad_value[W];
      columns.load(v, k);
      more.load(v, u);
      clear<W>(grad_key);
      clear<W>(grad_value);
      in_steps(tokens, [&](int64_t i, auto steps) {
        constexpr int S = decltype(steps)::value;
        Lanes weight[S], grad_score[S];
        dots<W, S>(k, query[i], weight);
        for (int s = 0; s < S; s++) weight[s] -= tops.numbers[i + s];
        exp2<S>(weight);
        dots<W, S>(u, grad_out[i], grad_score);
        for (int s = 0; s < S; s++) {
          weight[s] *= shares.numbers[i + s];
          grad_score[s] = weight[s] * (grad_score[s] - means.numbers[i + s]);
          for (int c = 0; c < W; c++) {
            grad_key[c] += grad_score[s] * query[i][s * W + c];
            grad_value[c] += weight[s] * grad_out[i][s * W + c];
          }
        }
      });
      for (int c = 0; c < W; c++) grad_key[c] *= 1.0f / kLog2E;
      sums.store(v, grad_key);
      more_sums.store(v, grad_value);
    }
    sums.write(grad_qkv + channels, tokens, 3 * channels);
    more_sums.write(grad_qkv + 2 * channels, tokens, 3 * channels);
  }
};

struct Sizes {
  int64_t batch, tokens, channels, heads;

  Sizes(const at::Tensor& qkv, int64_t heads) : heads(heads) {
    TORCH_CHECK(qkv.scalar_type() == at::kFloat && qkv.dim() == 3 && heads > 0 &&
                    qkv.size(2) > 0 && qkv.size(2) % (3 * heads) == 0,
                "self_attention: qkv must be (B, N, 3 d) of float32, d a multiple of ",
                heads, "; got ", qkv.sizes(), " of ", qkv.scalar_type());
    batch = qkv.size(0), tokens = qkv.size(1), channels = qkv.size(2) / 3;
  }

  void check(const at::Tensor& x, at::IntArrayRef shape) const {
    TORCH_CHECK(x.scalar_type() == at::kFloat && x.sizes() == shape,
                "self_attention_backward: ", x.sizes(), " of ", x.scalar_type(),
                " in place of ", shape, " of Float");
  }

  template <int W, typename F>
  void for_heads(F work) const {
    at::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
      Head<W> head(tokens);
      for (int64_t n = begin; n < end; n++)
        work(head, n, n / heads * tokens, n % heads * W);
    });
  }

  template <typename F>
  void dispatch(F run) const {
    switch (channels / heads) {
      case 4: return run(std::integral_constant<int, 4>());
      case 5: return run(std::integral_constant<int, 5>());
      case 6: return run(std::integral_constant<int, 6>());
      case 8: return run(std::integral_constant<int, 8>());
      case 10: return run(std::integral_constant<int, 10>());
      case 12: return run(std::integral_constant<int, 12>());
    }
    TORCH_CHECK(false, "self_attention: heads of width ", channels / heads);
  }
};

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& input, int64_t heads) {
  const Sizes sizes(input, heads);
  const at::Tensor qkv = input.contiguous();
  const int64_t d = sizes.channels, tokens = sizes.tokens;
  at::Tensor out = qkv.new_empty({sizes.batch, tokens, d});
  at::Tensor stats = qkv.new_empty({sizes.batch * heads, 2, tokens});
  const float* x = qkv.data_ptr<float>();
  float *y = out.data_ptr<float>(), *s = stats.data_ptr<float>();
  sizes.dispatch([&](auto width) {
    constexpr int W = decltype(width)::value;
    sizes.for_heads<W>([&](Head<W>& head, int64_t n, int64_t row, int64_t column) {
      head.read(x + row * 3 * d + column, d);
      head.attend(y + row * d + column, d, s + n * 2 * tokens);
    });
  });
  return {out, stats};
}

at::Tensor backward(const at::Tensor& input, const at::Tensor& output,
                    const at::Tensor& statistics, const at::Tensor& gradient,
                    int64_t heads) {
  const Sizes sizes(input, heads);
  sizes.check(output, {sizes.batch, sizes.tokens, sizes.channels});
  sizes.check(gradient, {sizes.batch, sizes.tokens, sizes.channels});
  sizes.check(statistics, {sizes.batch * heads, 2, sizes.tokens});
  const at::Tensor qkv = input.contiguous(), out = output.contiguous();
  const at::Tensor grad = gradient.contiguous(), stats = statistics.contiguous();
  const int64_t d = sizes.channels, tokens = sizes.tokens;
  at::Tensor grad_qkv = qkv.new_empty(qkv.sizes());
  const float *x = qkv.data_ptr<float>(), *y = out.data_ptr<float>();
  const float *s = stats.data_ptr<float>(), *g = grad.data_ptr<float>();
  float* result = grad_qkv.data_ptr<float>();
  sizes.dispatch([&](auto width) {
    constexpr int W = decltype(width)::value;
    sizes.for_heads<W>([&](Head<W>& head, int64_t n, int64_t row, int64_t column) {
      head.read(x + row * 3 * d + column, d);
      head.differentiate(s + n * 2 * tokens, y + row * d + column, g + row * d + column,
                         result + row * 3 * d + column, d);
    });
  });
  return grad_qkv;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparseformer_mm_kernels, library) {
  library.def("self_attention(Tensor qkv, int heads) -> (Tensor, Tensor)");
  library.def(
      "self_attention_backward(Tensor qkv, Tensor out, Tensor stats, Tensor grad, "
      "int heads) -> Tensor");
}

TORCH_LIBRARY_IMPL(sparseformer_mm_kernels, CPU, library) {
  library.impl("self_attention", forward);
  library.impl("self_attention_backward", backward);
}
