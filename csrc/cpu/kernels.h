// What the operators hand to the kernels, and the table of kernels that each instruction set provides. No torch here.
#pragma once
#include <cstdint>

#include "common/linearized.h"

namespace stn {

enum class DType : int { float32, float64, bfloat16, float16 };
enum class Transform : int { affine, grid, homography, tps };

// An image batch (B, C, D, H, W) in memory; strides in elements, 0 along dimensions that are not there.
template <class Pointer>
struct Images {
  Pointer data;
  int64_t batch, channel, row, column, slice = 0;
};

// One call of a sampling operator. "Item" n = b * samples + s counts the transformed images.
struct Problem {
  int64_t batch, samples, channels, height, width, out_height, out_width;
  DType dtype;
  bool has_half_rows;  // whether the level's kernels for rows take half precision
  int dimensions = 2;  // 1: (W), 2: (H, W), 3: (D, H, W); the extents of the others are 1
  int64_t depth = 1, out_depth = 1;
  int64_t lacking = 0;  // points that the last row of the output has less than the others
  Mode mode = Mode::bilinear;
  MultiSampling multi{};  // of Mode::linearized
  Padding padding;
  bool align_corners;
  bool channels_last;  // how images, outputs and gradients are stored, all alike
  Transform transform;
  // theta (items, n, n + 1), matrix (items, 3, 3), coefficients (items, controls + n + 1, n) or grid (items, *out, n)
  const void* parameters;
  bool double_parameters;        // float64, else float32; contiguous
  const double* control_points;  // of a thin-plate spline: (controls, n)
  int64_t controls;
  bool normalized;  // the coordinates alone are wanted, and normalized: a grid operator
  Images<const void*> input;
  Images<void*> output;             // forward: (items, C, Ho, Wo)
  Images<void*> slopes;             // of Mode::linearized: (items, n C, Ho, Wo) of the compute type; null for none
  Images<const void*> grad_output;  // backward: the same shape
  Images<void*> grad_input;
  // Second backward: the cotangents of grad_input, dense like input, and of grad_grid; null where there is none.
  const void* grad_grad_input;
  const void* grad_grad_grid;
  void* grid;        // (items, *out, n): result of a grid operator
  bool double_grid;  // float64, else float32
  void* grad_grid;   // as the grid
  // A task's share of the gradient of its item's parameters: (items, tasks an item, parameter_count). Of affine
  // bilinear sampling in two dimensions six moments of dL/d(pixel), see theta_gradient.
  double* sums;
  int64_t threads;

  int64_t items() const { return batch * samples; }
  bool is_float64() const { return dtype == DType::float64 || double_grid; }
  int64_t parameter_count() const {  // of an item, but for a grid
    if (transform == Transform::homography) return 9;
    return ((transform == Transform::tps ? controls : 0) + dimensions + 1) * dimensions;
  }
  int64_t extent(int axis) const { return axis == 0 ? width : axis == 1 ? height : depth; }  // x, y, z
  int64_t out_extent(int axis) const { return axis == 0 ? out_width : axis == 1 ? out_height : out_depth; }
  int64_t item_points() const { return out_width * out_height * out_depth - lacking; }
  int64_t row_width(int64_t row) const { return row + 1 < out_height * out_depth ? out_width : out_width - lacking; }
  // Whether the kernels for rows of points (passes.h) add to the image's gradient; else those for lists of taps.
  bool scatters_rows() const {
    return mode == Mode::bilinear && dimensions == 2 &&
           (dtype == DType::float32 || (has_half_rows && dtype != DType::float64));
  }
  // Whether they read the image: not where its rows are strided or one pixel wide.
  bool in_rows() const { return scatters_rows() && (channels_last || (width > 1 && input.column == 1)); }
  // The same call at a grid, whose points are dense, with rows of one length.
  Problem in_lines() const {
    constexpr int64_t kLine = 512;
    Problem p = *this;
    if (transform != Transform::grid) return p;
    const int64_t points = item_points(), column = channels_last ? channels : 1;
    p.out_width = points < kLine ? points : kLine, p.out_height = (points + p.out_width - 1) / p.out_width;
    p.out_depth = 1, p.lacking = p.out_width * p.out_height - points;
    p.output.row = p.grad_output.row = p.out_width * column;
    p.output.column = p.grad_output.column = column;
    p.slopes.column = channels_last ? dimensions * column : 1, p.slopes.row = p.out_width * p.slopes.column;
    return p;
  }
};

// Tasks are blocks of this many rows, the last one with the remainder: a fixed partition, so that results do not depend
// on the number of threads.
constexpr int64_t kRowBlock = 32;
constexpr int64_t row_blocks(int64_t rows) { return rows < kRowBlock ? 1 : rows / kRowBlock; }

// A call split into independent tasks; run executes tasks [begin, end) of its problem.
struct Work {
  Problem problem;
  int64_t tasks;
  void (*run)(const Problem&, int64_t begin, int64_t end);
  int64_t shares = 0;  // of the sums, an item; 0: tasks / items
};

struct CpabKernels;

struct Kernels {
  const char* level;
  bool has_float64, has_half_rows;
  Work (*forward)(const Problem&);
  Work (*grad_input)(const Problem&);
  Work (*grad_parameters)(const Problem&);  // sums or grad_grid
  Work (*gradients)(const Problem&);        // grad_input and grad_grid in one, or no tasks where they are not
  Work (*grid)(const Problem&);             // parameters -> grid
  Work (*grid_sums)(const Problem&);        // grad_grid -> sums
  Work (*multi_forward)(const Problem&);    // of Mode::linearized: linearized.cpp
  Work (*multi_grad_input)(const Problem&);
  Work (*multi_grad_grid)(const Problem&);   // slopes -> grad_grid, of the compute type
  Work (*second_gradients)(const Problem&);  // samplers.h
  Work (*second_grad_output)(const Problem&);
  Work (*second_grad_input)(const Problem&);
  Work (*second_grad_grid)(const Problem&);
  // Adds what the outputs give to rows (slices) [first, last) of grad_input, which is of the compute type.
  void (*add_grad_input)(const Problem&, int64_t first, int64_t last);
  const CpabKernels* cpab;
};

}  // namespace stn
