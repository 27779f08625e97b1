// What the CPAB operators hand to their kernels. No torch here.
#pragma once
#include "common/cpab.h"

namespace stn {

// Points of an item that have been transformed: what CpabProblem::at_points gets.
constexpr int64_t kCpabRun = 1024;  // at most so many
struct CpabRun {
  int64_t task, item, first, count;
  void* coordinates;  // (count, n), normalized, of the type of the points
};

// One call on points. "Item" i = b * samples + s counts the transformations.
struct CpabProblem {
  CpabTables tables;
  int dimensions;
  int64_t batch, samples, points, vertices;
  int steps;            // 0: exact
  bool is_double;       // everything below, else float32
  bool own_points;      // (batch, points, n), else (points, n) for all
  const void* at;       // points, in units of the domain; nullptr: the pixel centres of an output
  int64_t out_size[3];  // its extents, x first
  bool align_corners;
  const void* velocities;   // (items, vertices, n)
  void* output;             // (items, points, n), or of the Jacobian (items, points, n, vertices, n)
  const void* grad_output;  // (items, points, n)
  void* grad_points;        // (items, points, n), nullptr if not wanted
  double* sums;             // (tasks, vertices * n): each task's part of the gradient to velocities, or nullptr
  void* starts;             // what `locate` fills: `start_bytes` bytes, aligned to 64
  int64_t* unfinished;      // counts the paths that hit the segment limit
  // If given, it gets the points instead of `output`; backwards it replaces them by their cotangents, which are then
  // pulled back instead of grad_output. Runs of an item come in order.
  void (*at_points)(const void* context, const CpabRun&);
  const void* context;

  int64_t items() const { return batch * samples; }
  bool bounded() const { return tables.regions == tables.cells; }  // nothing lies outside
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
  CpabWork (*locate)(const CpabProblem&);  // before the others, if points are shared and the method is exact
  CpabWork (*forward)(const CpabProblem&);
  CpabWork (*backward)(const CpabProblem&);
  CpabWork (*jacobian)(const CpabProblem&);
  // For CpabProblem::at_points, with a CpabSampling (cpab_sample.h).
  void (*read)(const void* context, const CpabRun&);       // images at points -> output
  void (*transpose)(const void* context, const CpabRun&);  // grad_output -> grad_input
  void (*pull)(const void* context, const CpabRun&);       // grad_output -> cotangents, and grad_input if given
};

}  // namespace stn
