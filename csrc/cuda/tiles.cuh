// How the points and channels of a call are shared out to blocks and threads.
#pragma once
#include <algorithm>

#include "common/coords.h"
#include "memory.cuh"

namespace stn {

constexpr int kThreads = 256;
// The static table of block shapes, keyed on how a kernel accesses its images, that is on their layout, channels and
// element type. Tuning for a GPU happens here.
// kWarpWidth: a warp covers kWarpWidth x (32 / kWarpWidth) points. Of the shapes with coalesced stores, 16x2 has reads
// that span the fewest cache lines over all rotations.
// kWidth: columns of a block; planar blocks are square after kRows steps, which reads the fewest bytes around them.
// kRows: steps a thread walks down where there are blocks enough.
// kTogether: steps whose loads are in flight at once; a single channel alone does not cover the memory's latency.
// k*Blocks: blocks that fit a multiprocessor at once, a bound on registers: as many as ptxas takes without spilling.
template <class A>
struct Tile {
  static constexpr int kWarpWidth = 16;
  static constexpr int kWidth = A::kPixel == 1 ? 32 : 16;
  static constexpr int kRows = 4;
  static constexpr int kTogether = A::kChannels == 1 ? 2 : 1;
  static constexpr int kForwardBlocks = A::kChannels ? 5 : A::kVector == 4 ? 4 : 3;
  static constexpr int kGatherBlocks = A::kChannels == 1 || (A::kPixel == 0 && A::kVector == 4) ? 3
                                       : A::kVector == 8                                        ? 1
                                                                                                : 2;
  static constexpr int kScatterBlocks = A::kVector > 1 ? 2 : 3;
  static constexpr int kParamsBlocks = A::kVector > 1 || A::kChannels == 0 ? 3 : 4;
};

// A table's bound on registers; float64 sums are for checking and get what they want.
template <class T>
constexpr int resident_blocks(int bound) {
  return sizeof(T) == 8 ? 1 : bound;
}

constexpr int64_t kEnoughBlocks = 8 * 132;  // eight blocks on each multiprocessor of an H100 or H200

// What one launch works on. Points are those of the output, or of the input where a kernel gathers its gradient.
struct Work {
  int width, height, depth;
  int out_width, out_height, out_rows;  // rows: of all slices, which lie below each other
  int channels, samples;                // samples: transformations an image
  bool align_corners;
  Padding padding;
  int rows;           // tiles a thread walks down
  int chunk, splits;  // channels a block takes, blocks that share an image's channels
  int log2_lanes;     // threads that share a point's channels
  int64_t first;      // image of blockIdx.z = 0
};

// A padding mode that is known at run time only: Work::padding.
constexpr Padding kAnyPadding = Padding::any;

// The coordinate x of an axis of `size` pixels after padding.
template <Padding kPadding, class T>
__device__ __forceinline__ Padded<T> pad_by(const Work& work, T x, int size) {
  if constexpr (kPadding != kAnyPadding) return pad<kPadding>(x, size, work.align_corners);
  if (work.padding == Padding::reflection) return pad<Padding::reflection>(x, size, work.align_corners);
  if (work.padding == Padding::border) return pad<Padding::border>(x, size, work.align_corners);
  return pad<Padding::zeros>(x, size, work.align_corners);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// blockIdx.z -> an image and its channels.
struct Share {
  int64_t image;
  int split, first_channel, last_channel;
};
__device__ __forceinline__ Share share_of(const Work& work) {
  int z = int(blockIdx.z), split = 0;
  if (work.splits > 1) {  // a division is 25 instructions
    split = z % work.splits;
    z /= work.splits;
  }
  const int first = split * work.chunk;
  return {work.first + z, split, first, minimum(first + work.chunk, work.channels)};
}

__device__ __forceinline__ int64_t input_image(const Work& work, int64_t image) {
  return work.samples == 1 ? image : unsigned(image) / unsigned(work.samples);  // 64 bits would cost 100 instructions
}

// Only where channels may be adjacent do threads share a point.
template <class A>
__device__ __forceinline__ int log2_lanes(const Work& work) {
  return A::kPixel == 1 ? 0 : work.log2_lanes;
}

// The points of a thread: column x, rows y(0), y(1), ...; and the thread's place among those that share a point.
struct Points {
  int x, first_y, step, lane;
  __device__ __forceinline__ int y(int row) const { return first_y + row * step; }
};

template <class A, int n = 2>
__device__ __forceinline__ Points points_of(const Work& work) {
  constexpr int kWarpWidth = Tile<A>::kWarpWidth, kWidth = Tile<A>::kWidth, kAcross = kWidth / kWarpWidth;
  const int lanes = log2_lanes<A>(work), step = (kThreads / kWidth) >> lanes;
  const int point = int(threadIdx.x) >> lanes, warp = point / 32, place = point % 32;
  if constexpr (n == 1)  // a block is a line
    return {int(blockIdx.x) * (kThreads >> lanes) + point, int(blockIdx.y), 1, int(threadIdx.x) & ((1 << lanes) - 1)};
  return {int(blockIdx.x) * kWidth + warp % kAcross * kWarpWidth + place % kWarpWidth,
          int(blockIdx.y) * step * work.rows + warp / kAcross * (32 / kWarpWidth) + place / kWarpWidth, step,
          int(threadIdx.x) & ((1 << lanes) - 1)};
}

// A block's width and height after one step.
template <class A, int n>
int64_t tile_width(const Work& work) {
  return n == 1 ? kThreads >> work.log2_lanes : Tile<A>::kWidth;
}
template <class A, int n>
int64_t tile_height(const Work& work) {
  return n == 1 ? 1 : (kThreads / Tile<A>::kWidth) >> work.log2_lanes;
}

// Launches over (width, height) points of `images` images: launch(grid, work), as often as the grid's limits need.
template <class A, int n = 2, class F>
void launch_tiles(Work work, int64_t images, int width, int height, F&& launch) {
  constexpr int64_t kLimit = 65535;  // of gridDim.y and gridDim.z
  const int64_t tile_height = stn::tile_height<A, n>(work), columns = ceil_div(width, tile_width<A, n>(work));
  const auto blocks = [&](int64_t rows) { return columns * ceil_div(height, tile_height * rows) * images; };
  const int64_t rows = n > 1 && blocks(Tile<A>::kRows) * work.splits >= kEnoughBlocks ? Tile<A>::kRows : 1;
  work.rows = int(std::max(rows, ceil_div(height, tile_height * kLimit)));
  const unsigned tile_rows = unsigned(ceil_div(height, tile_height * work.rows));
  const int64_t step = kLimit / work.splits;
  for (work.first = 0; work.first < images; work.first += step) {
    const int64_t now = std::min(step, images - work.first);
    launch(dim3(unsigned(columns), tile_rows, unsigned(now * work.splits)), work);
  }
}

// Shares the channels out: over the lanes of a point where they are adjacent, else over blocks while those are too few.
template <class A, int n = 2>
void share_channels(Work& work, int64_t images, int width, int height, bool adjacent, bool splittable) {
  constexpr int kMinimum = 8;  // channels that pay for a point's coordinates
  work.log2_lanes = 0;
  work.splits = 1;
  if (adjacent) {
    while (work.log2_lanes < 4 && (A::kVector << work.log2_lanes) < work.channels) ++work.log2_lanes;
  } else if (A::kChannels == 0 && splittable) {
    const int64_t blocks = ceil_div(width, tile_width<A, n>(work)) * ceil_div(height, tile_height<A, n>(work)) * images;
    const int64_t wanted =
        std::min<int64_t>(work.channels / kMinimum, ceil_div(kEnoughBlocks, std::max<int64_t>(blocks, 1)));
    work.splits = int(std::min<int64_t>(std::max<int64_t>(wanted, 1), 65535));
  }
  work.chunk = int(ceil_div(work.channels, work.splits));
  work.splits = int(ceil_div(work.channels, work.chunk));
}

}  // namespace stn
