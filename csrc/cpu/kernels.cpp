// The kernels of one instruction set: this file is compiled once a level, with STN_LEVEL naming it. It keeps to code
// that is inlined or internal: a function shared with another level would be merged by the linker and could use foreign
// instructions.
#include "kernels.h"

#include "cpab_kernels.h"
#include "few_channels.h"
#include "item_groups.h"
#include "samplers.h"
#include "storage.h"
#include "volume_spline.h"

#define STN_STRING_(x) #x
#define STN_STRING(x) STN_STRING_(x)
#define STN_CONCAT_(a, b) a##b
#define STN_CONCAT(a, b) STN_CONCAT_(a, b)

namespace stn::STN_LEVEL {

namespace {

// Calls f(i, N) for vectors of N of `count` floats, or, where there are too few, f(i, 1) for each.
template <class F>
STN_INLINE void over_vectors(int64_t count, F f) {
  const auto by = [&](auto width) STN_LAMBDA {
    for (int64_t i = 0; i < count; i += width) f(whole_vector<width>(i, count), width);
  };
  constexpr int kWhole = kVectorBytes / 4;
  if (count >= kWhole) return by(std::integral_constant<int, kWhole>{});
  if (count >= kLanes<float>) return by(std::integral_constant<int, kLanes<float>>{});
  by(std::integral_constant<int, 1>{});
}

}  // namespace

void load_planes(const Problem& p, Elements<const Any> from, int64_t channel, int64_t count, Planes<float> to) {
  if (!p.channels_last || p.channels == 1) return load_rows(from, channel, p.channels, count, to);
  in_format(from, [&](auto pixels) STN_LAMBDA {
    using T = std::remove_cvref_t<decltype(pixels[0])>;
    with_few_channels(p.channels, [&](auto c) STN_LAMBDA { row_to_planes<c, T>(pixels, count, to.data, to.plane); });
  });
}
void store_planes(const Problem& p, Planes<const float> from, int64_t count, Elements<Any> to, int64_t channel) {
  if (!p.channels_last || p.channels == 1) return store_rows(from, p.channels, count, to, channel);
  in_format(to, [&](auto pixels) STN_LAMBDA {
    using T = std::remove_cvref_t<decltype(pixels[0])>;
    with_few_channels(p.channels,
                      [&](auto c) STN_LAMBDA { row_from_planes<c, T>(from.data, from.plane, count, pixels); });
  });
}
STN_SHARED void load_rows(Elements<const Any> from, int64_t step, int64_t rows, int64_t count, Planes<float> to) {
  with_format(from, [&](auto row) STN_LAMBDA {
    for (float* out = to.data; out < to[rows]; out += to.plane, row += step) {
      over_vectors(count, [&](int64_t i, auto width) STN_LAMBDA {
        if constexpr (width == 1) {
          out[i] = load_one(row + i);
        } else {
          store(out + i, load_as<width>(row + i));
        }
      });
    }
  });
}
STN_SHARED void store_rows(Planes<const float> from, int64_t rows, int64_t count, Elements<Any> to, int64_t step) {
  with_format(to, [&](auto row) STN_LAMBDA {
    for (const float* in = from.data; in < from[rows]; in += from.plane, row += step) {
      over_vectors(count, [&](int64_t i, auto width) STN_LAMBDA {
        if constexpr (width == 1) {
          store_one(row + i, in[i]);
        } else {
          store_sampled<width>(row + i, load<Vec<float, width>>(in + i));
        }
      });
    }
  });
}

namespace {

void run_forward(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.out_height, [&](int64_t, int64_t item, int64_t first, int64_t last) STN_LAMBDA {
    const Source source(p, item);
    if constexpr (kHasTiles) {
      const auto run = [&](auto shape) { tile_forward<decltype(shape)>(p, item, source.pixels(), first, last); };
      if (p.transform == Transform::affine) {
        if (with_tiles(p, source.pixels(), run)) return;
        if (tiled_in_blocks(p, source.pixels(), last - first))
          return few_channels_forward(p, item, source.pixels(), first, last);
      }
    }
    rows_forward_of(p)(p, source, first, last);
  });
}

void run_affine_sums(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.out_height, [&](int64_t task, int64_t item, int64_t first, int64_t last) STN_LAMBDA {
    const Source source(p, item);
    double* sums = p.sums + 6 * task;
    if constexpr (kHasTiles) {
      const auto run = [&](auto shape) {
        tile_theta_moments<decltype(shape)>(p, item, source.pixels(), first, last, sums);
      };
      if (with_tiles(p, source.pixels(), run)) return;
      if (tiled_in_blocks(p, source.pixels(), last - first))
        return few_channels_theta_moments(p, item, source.pixels(), first, last, sums);
    }
    AffineSums total(p);
    rows_parameter_sums(p, source, first, last, total);
    total.finish(source, sums);
  });
}

void run_grad_grid(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.out_height, [&](int64_t, int64_t item, int64_t first, int64_t last) STN_LAMBDA {
    const Source source(p, item);
    const auto put = p.double_parameters ? put_grad_grid<float, double> : put_grad_grid<float, float>;
    rows_grad_points_of(p)(p, source, first, last, 0, p.channels, put, p.grad_grid);
  });
}

void scatter(const Problem& p, int64_t b, int64_t channel, int64_t channels, int64_t first, int64_t last) {
  GradientBand band(p, b, channel, channels, first, last);
  for (int64_t n = b * p.samples; n < (b + 1) * p.samples; ++n) band.add(Source(p, n), 0, p.out_height);
  band.finish();
}

template <int N>
using Count = std::integral_constant<int, N>;

// Rows [first, last) of one image's gradient, gathered; false if one of its items cannot be.
STN_INLINE bool gather(const Problem& p, int64_t b, int64_t first, int64_t last) {
  const bool few = has_few_channels(p);
  if (!few && (p.grad_output.column != 1 || p.grad_input.column != 1)) return false;
  if (!few && p.dtype != DType::float32 && p.samples > 1)
    return false;  // half precision is rounded once, after all samples
  const auto map = [&](int64_t s) STN_LAMBDA { return Source(p, b * p.samples + s).pixels(); };
  for (int64_t s = 0; s < p.samples; ++s) {
    if (!gathered(p, map(s), Inverse(map(s)))) return false;
  }
  if (few) return few_channels_gather(p, b, map, first, last), true;
  const Images<Elements<Any>> target{
      elements<Any>(p, p.grad_input.data) + (b * p.grad_input.batch + first * p.grad_input.row), 0,
      p.grad_input.channel, p.grad_input.row, 1};
  bool care = false;
  for (int64_t s = 0; s < p.samples; ++s) {
    if (tile_gather(p, b * p.samples + s, map(s), first, last, target, s > 0, care) || care) continue;
    care = true, s = -1;  // from the first on, with care
  }
  return true;
}

void run_grad_input_rows(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.height, [&](int64_t, int64_t b, int64_t first, int64_t last) STN_LAMBDA {
    if constexpr (kHasTiles) {
      if (gather(p, b, first, last)) return;
    }
    const int64_t block = scattered_channels(p);
    for (int64_t c = 0; c < p.channels; c += block) scatter(p, b, c, minimum(block, p.channels - c), first, last);
  });
}

// Where an output row may reach any input row: whole planes, in bands.
void run_grad_input_planes(const Problem& p, int64_t begin, int64_t end) {
  const int64_t block = scattered_channels(p);
  const int64_t blocks = (p.channels + block - 1) / block, bands = bands_of(p, p.batch * blocks);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t band = task % bands, c = task / bands % blocks * block, b = task / bands / blocks;
    scatter(p, b, c, minimum(block, p.channels - c), p.height * band / bands, p.height * (band + 1) / bands);
  }
}

template <class G, int n>
void run_affine_grid(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.out_depth * p.out_height,
                  [&](int64_t, int64_t item, int64_t first, int64_t last)
                      STN_LAMBDA { rows_affine_grid<G, n>(p, item, first, last); });
}

template <class G, int n>
void run_affine_grid_sums(const Problem& p, int64_t begin, int64_t end) {
  over_row_blocks(begin, end, p.out_depth * p.out_height,
                  [&](int64_t task, int64_t item, int64_t first, int64_t last)
                      STN_LAMBDA { rows_affine_grid_sums<G, n>(p, item, first, last, p.sums + n * (n + 1) * task); });
}

// Calls f(type tag of the grid, number of dimensions).
template <class F>
STN_INLINE auto with_lattice(const Problem& p, F f) {
  const auto of = [&](auto n) STN_LAMBDA {
    if constexpr (kHasFloat64) {
      if (p.double_grid) return f(double{}, n);
    }
    return f(float{}, n);
  };
  return p.dimensions == 1 ? of(Count<1>{}) : p.dimensions == 2 ? of(Count<2>{}) : of(Count<3>{});
}

int64_t group_tasks(const Problem& p) {
  const Groups groups(p);
  return groups.count * groups.blocks;
}

bool is_grouped(const Problem& p) { return p.transform != Transform::affine && p.transform != Transform::grid; }

Work grid(const Problem& p) {
  const int64_t tasks = p.items() * row_blocks(p.out_depth * p.out_height);
  if (is_volume_spline(p)) return {p, tasks, run_volume_spline_grid};
  if (p.transform != Transform::affine) {
    return with_transform(
        p, [&]<class Row, class Sums>(Row*, Sums*) STN_LAMBDA { return Work{p, group_tasks(p), group_grid<Row>}; });
  }
  return with_lattice(p, [&](auto t, auto n) STN_LAMBDA { return Work{p, tasks, run_affine_grid<decltype(t), n>}; });
}

Work grid_sums(const Problem& p) {
  const int64_t tasks = p.items() * row_blocks(p.out_depth * p.out_height);
  if (is_volume_spline(p)) return {p, tasks, run_volume_spline_grid_sums};
  if (p.transform != Transform::affine) {
    return with_transform(p, [&]<class Row, class Sums>(Row*, Sums*) STN_LAMBDA {
      return Work{p, group_tasks(p), group_grid_sums<Sums>, row_blocks(p.out_height)};
    });
  }
  return with_lattice(p,
                      [&](auto t, auto n) STN_LAMBDA { return Work{p, tasks, run_affine_grid_sums<decltype(t), n>}; });
}

template <class F>
Work quad_work(const Problem& call, F kernel) {
  const Problem p = call.in_lines();
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA { return Work{p, QuadTasks(p).count(p), kernel(t)}; });
}

Work forward(const Problem& call) {
  if (in_quads(call)) return quad_work(call, [](auto t) STN_LAMBDA { return quads_forward<decltype(t)>; });
  if constexpr (kHasBlocks) {
    if (const Problem p = call.in_lines(); in_blocks(p, true)) return blocks_forward(p);
  }
  if constexpr (kHasTiles) {
    if (in_windows(call)) return window_forward(call);
  }
  const Problem p = call.in_lines();
  if (!p.in_rows()) return sampler_forward(p);
  if (is_grouped(p)) return {p, group_tasks(p), group_forward};
  return {p, p.items() * row_blocks(p.out_height), run_forward};
}

// Both where the call names both, or no tasks where they are not taken at once.
Work gradients(const Problem& call) {
  if constexpr (kHasBlocks) {
    if (const Problem p = call.in_lines(); in_blocks(p, true)) return blocks_gradients(p);
  }
  if (in_quads(call)) return quad_work(call, [](auto t) STN_LAMBDA { return quads_backward<decltype(t)>; });
  if constexpr (kHasTiles) return window_gradients(call);
  return {};
}

Work grad_parameters(const Problem& call) {
  if (in_quads(call)) {
    Problem p = call;
    return p.grad_input.data = nullptr, gradients(p);
  }
  if constexpr (kHasBlocks) {
    if (const Problem p = call.in_lines(); in_blocks(p, true)) return blocks_grad_parameters(p);
  }
  if constexpr (kHasTiles) {
    if (in_windows(call)) return window_grad_parameters(call);
  }
  const Problem p = call.in_lines();
  if (!p.in_rows()) return sampler_grad_parameters(p);
  if (is_grouped(p)) {
    return with_transform(p, [&]<class Row, class Sums>(Row*, Sums*) STN_LAMBDA {
      return Work{p, group_tasks(p), group_parameter_sums<Sums>, row_blocks(p.out_height)};
    });
  }
  return {p, p.items() * row_blocks(p.out_height), p.transform == Transform::grid ? run_grad_grid : run_affine_sums};
}

Work grad_input(const Problem& call) {
  if (in_quads(call)) {
    Problem p = call;
    return p.grad_grid = nullptr, gradients(p);
  }
  if constexpr (kHasBlocks) {
    if (const Problem p = call.in_lines(); in_blocks(p, false)) return blocks_grad_input(p);
  }
  const Problem p = call.in_lines();
  if (!p.scatters_rows()) return sampler_grad_input(p);
  if (is_grouped(p)) return {p, image_groups(p).count * image_bands(p), group_grad_input};
  if (p.transform == Transform::affine && p.padding == Padding::zeros)
    return {p, p.batch * row_blocks(p.height), run_grad_input_rows};
  const int64_t block = scattered_channels(p);
  const int64_t blocks = (p.channels + block - 1) / block;
  return {p, p.batch * blocks * bands_of(p, p.batch * blocks), run_grad_input_planes};
}

}  // namespace
}  // namespace stn::STN_LEVEL

extern const stn::Kernels STN_CONCAT(stn_kernels_, STN_LEVEL);
const stn::Kernels STN_CONCAT(stn_kernels_, STN_LEVEL) = {STN_STRING(STN_LEVEL),
                                                          stn::STN_LEVEL::kHasFloat64,
                                                          stn::STN_LEVEL::kHasHalfRows,
                                                          stn::STN_LEVEL::forward,
                                                          stn::STN_LEVEL::grad_input,
                                                          stn::STN_LEVEL::grad_parameters,
                                                          stn::STN_LEVEL::gradients,
                                                          stn::STN_LEVEL::grid,
                                                          stn::STN_LEVEL::grid_sums,
                                                          stn::STN_LEVEL::multi_forward,
                                                          stn::STN_LEVEL::multi_grad_input,
                                                          stn::STN_LEVEL::multi_grad_grid,
                                                          stn::STN_LEVEL::second_gradients,
                                                          stn::STN_LEVEL::second_grad_output,
                                                          stn::STN_LEVEL::second_grad_input,
                                                          stn::STN_LEVEL::second_grad_grid,
                                                          stn::STN_LEVEL::add_grad_input,
                                                          &stn::STN_LEVEL::cpab_kernels};
