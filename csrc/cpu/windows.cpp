// Compiled once a level that has tiles, like kernels.cpp, and under its rules.
#include "windows.h"

#include "samplers.h"
#include "window_gradients.h"

namespace stn::STN_LEVEL {
namespace {

// The work that f(mode) runs.
template <class F>
Work with_kernels(const Problem& p, F f) {
  const Groups groups(p);
  const auto run = with_mode(p.mode, [&]<Mode kMode>() STN_LAMBDA { return f(std::integral_constant<Mode, kMode>{}); });
  return {p, groups.count * groups.blocks, run, groups.blocks};
}

}  // namespace

bool in_windows(const Problem& p) { return windowed(p); }

bool has_placed_runs(const Problem& p) {
  return p.padding != Padding::reflection && p.out_width >= kTile && p.out_height >= kTile;
}
ItemStrips* new_item_strips(const Problem& p, int64_t most_items) { return new ItemStrips(p, most_items); }
void delete_item_strips(ItemStrips* strips) { delete strips; }
void place_item_runs(ItemStrips& strips, int64_t first, int64_t last, int64_t top, int64_t bottom, void* runs) {
  place_runs(strips, first, last, top, bottom, static_cast<Run<float>*>(runs));
}

void sum_item_strips(const Problem& p, int64_t first, int64_t last, int64_t block, int64_t top, int64_t bottom,
                     const float* grad_x, const float* grad_y) {
  sum_strips(p, first, last, block, top, bottom, grad_x, grad_y);
}

Work window_forward(const Problem& p) {
  return with_kernels(p, [&](auto mode) STN_LAMBDA { return windows_forward<mode>; });
}

Work window_grad_parameters(const Problem& p) {
  return with_kernels(p, [&](auto mode) STN_LAMBDA {
    constexpr Mode kSmooth = mode == Mode::nearest ? Mode::bilinear : mode;  // nearest has no gradient: not called
    return windows_grad_parameters<kSmooth>;
  });
}

Work window_gradients(const Problem& p) {
  if (!swept(p)) return {};
  const SweptTasks tasks(p);
  return {p, tasks.count(), windows_gradients, tasks.blocks};
}

}  // namespace stn::STN_LEVEL
