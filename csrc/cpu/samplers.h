// The kernels of one instruction set for every sampler but bilinear in two dimensions (samplers.cpp).
#pragma once
#include "kernels.h"

namespace stn::STN_LEVEL {

Work sampler_forward(const Problem&);
Work sampler_grad_input(const Problem&);
Work sampler_grad_parameters(const Problem&);
void add_grad_input(const Problem&, int64_t first, int64_t last);
// Linearized multi-sampling. The input's gradient through all samples: that of the centre is the bilinear one's.
Work multi_forward(const Problem&);
Work multi_grad_input(const Problem&);
Work multi_grad_grid(const Problem&);
// Sampling in two dimensions tile by tile of points (windows.cpp), where in_windows says so.
bool in_windows(const Problem&);
Work window_forward(const Problem&);
Work window_grad_parameters(const Problem&);
Work window_gradients(const Problem&);  // both at once, or no tasks where they are not
// Whether the points of a homography or spline can be placed tile by tile, and that: as Run<float> of the rows
// [top, bottom), at least four, of the items [first, last).
bool has_placed_runs(const Problem&);
struct ItemStrips;
ItemStrips* new_item_strips(const Problem&, int64_t most_items);
void delete_item_strips(ItemStrips*);
void place_item_runs(ItemStrips&, int64_t first, int64_t last, int64_t top, int64_t bottom, void* runs);
// The shares of a row block, [top, bottom), in the sums of such items from the gradients of their points.
void sum_item_strips(const Problem&, int64_t first, int64_t last, int64_t block, int64_t top, int64_t bottom,
                     const float* grad_x, const float* grad_y);
// Many channels of small planar images (channel_blocks.cpp), where in_blocks says so.
bool in_blocks(const Problem&, bool reads);  // reads: not the input's gradient alone
Work blocks_forward(const Problem&);
Work blocks_grad_input(const Problem&);
Work blocks_grad_parameters(const Problem&);
Work blocks_gradients(const Problem&);  // both at once, if that is worthwhile
// The second backward at a grid: the gradients to grad_output (into p.output), bilinear or nearest; to input and grid,
// bilinear. Those asked for at once, or no tasks where one by one they are as fast.
Work second_gradients(const Problem&);
Work second_grad_output(const Problem&);
Work second_grad_input(const Problem&);
Work second_grad_grid(const Problem&);

}  // namespace stn::STN_LEVEL
