// What the CPAB operators hand to their kernels. No torch here.
#pragma once
#include "common/cpab.h"

namespace stn {

// One call on points. "Item" i = b * samples + s counts the transformations.
struct CpabProblem {
  CpabTables tables;
  int dimensions;
  int64_t batch, samples, points, vertices;
  int steps;                // 0: exact
  bool is_double;           // everything below, else float32
  bool own_points;          // (batch, points, n), else (points, n) for all
  const void* at;           // points, in units of the domain
  const void* velocities;   // (items, vertices, n)
  void* output;             // (items, points, n), or of the Jacobian (items, points, n, vertices, n)
  const void* grad_output;  // (items, points, n)
  void* grad_points;        // (items, points, n), nullptr if not wanted
  double* sums;             // (tasks, vertices * n): each task's part of the gradient to velocities, or nullptr
  void* starts;             // what `locate` fills: `start_bytes` bytes, aligned to 64
  int* unfinished;          // set to 1 by a path that hits the segment limit

  int64_t items() const { return batch * samples; }
  // A fixed partition into tasks of some points of one item, so that results do not depend on the number of threads.
  int64_t block() const {
    if (items() >= 16) return points;
    const int64_t part = (points * items() + 15) / 16;
    return part < 512 ? 512 : (part + 63) / 64 * 64;
  }
  int64_t blocks() const { return points == 0 ? 0 : (points + block() - 1) / block(); }
};

struct CpabWork {
  int64_t tasks;
  void (*run)(const CpabProblem&, int64_t begin, int64_t end);
};

struct CpabKernels {
  int64_t (*start_bytes)(const CpabProblem&);
  CpabWork (*locate)(const CpabProblem&);  // before the others, if points are shared
  CpabWork (*forward)(const CpabProblem&);
  CpabWork (*backward)(const CpabProblem&);
};

}  // namespace stn
