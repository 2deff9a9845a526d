// Vectors of float32, as long as those of the processor that this is compiled for, or
// of eight.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif

typedef float Lanes __attribute__((vector_size(kLanes * 4)));

// (A number beside a vector stands for one of its like.)
static inline Lanes all(float x) { return x - Lanes{}; }

static inline Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

static inline void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }
