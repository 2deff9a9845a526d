// Vectors of float32, as long as the processor that this is compiled for has them.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif

typedef float Lanes __attribute__((vector_size(kLanes * 4)));
typedef int32_t Bits __attribute__((vector_size(kLanes * 4)));

// (A number beside a vector stands for one of its like.)
inline Lanes all(float x) { return x - Lanes{}; }

inline Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }

inline float sum(Lanes x) {
  float total = 0;
  for (int64_t i = 0; i < kLanes; i++) total += x[i];
  return total;
}
