// Trilinear affine sampling of volumes that are too large to be held as quads: by blocks of the output, of which each
// reads a box of pixels; and the image's gradient by boxes, to which parts of the output's rows add.
#pragma once
#include "volume_quads.h"

namespace stn::STN_LEVEL {

constexpr int64_t kHeldPixels = 1 << 18;  // as quads: what stays near, and what malloc keeps between calls
// Parts of rows begin where runs of whole rows place points from, so that the parts do not change their roundings.
constexpr int64_t kRowStep = kVectorBytes / 4;

// A lattice cut into blocks of almost one size.
class Blocks {
  Box all;
  int64_t parts[3] = {1, 1, 1};

 public:
  STN_INLINE explicit Blocks(const Box& lattice) : all(lattice) {}
  STN_INLINE int64_t count() const { return parts[0] * parts[1] * parts[2]; }
  STN_INLINE int64_t edge(int a) const {  // of the largest
    if (parts[a] == 1) return all.extent[a];
    return (all.extent[a] + parts[a] - 1) / parts[a] + (a == 0 ? kRowStep : 0);
  }
  STN_INLINE int64_t points() const { return edge(0) * edge(1) * edge(2); }
  // Cuts the longest edge, of equal ones the last; rows stay long.
  STN_INLINE void cut() {
    int longest = 2;
    for (int a = 1; a >= 0; --a) {
      if (edge(a) > edge(longest) * (a == 0 ? 2 : 1)) longest = a;
    }
    ++parts[longest];
  }
  STN_INLINE Box at(int64_t i) const {
    Box block;
    for (int a = 0; a < 3; i /= parts[a++]) {
      const auto cut = [&](int64_t part) STN_LAMBDA {
        const int64_t at = all.extent[a] * part / parts[a];
        return a > 0 || part == parts[a] ? at : at / kRowStep * kRowStep;
      };
      block.first[a] = cut(i % parts[a]), block.extent[a] = cut(i % parts[a] + 1) - block.first[a];
    }
    return block;
  }
};

// Source coordinates along an axis: from, to.
struct Span {
  double low, high;
};
// Of a block of the output.
STN_INLINE Span span_of(const Item& item, int a, const Box& block) {
  Span span{item.map[a][3], item.map[a][3]};
  for (int b = 0; b < 3; ++b) {
    const double first = item.map[a][b] * item.lattice[b].from_centre(int(block.first[b]));
    const double last = item.map[a][b] * item.lattice[b].from_centre(int(block.first[b] + block.extent[b] - 1));
    span.low += minimum(first, last), span.high += maximum(first, last);
  }
  return span;
}
// What it reads, moved inside the image.
STN_INLINE Box box_of(const Item& item, const Box& block) {
  Box box;
  for (int a = 0; a < 3; ++a) {
    const Span span = span_of(item, a, block);
    clip(span.low, span.high, item.p.extent(a), 1, box.first[a], box.extent[a]);
  }
  return box;
}

constexpr double kAround = 2;  // pixels that taps, and roundings, may be aside
// The largest extents of what blocks of this size read; false if it may lie far from the image or theta is not finite.
STN_INLINE bool set_box_extents(const Item& item, const Blocks& blocks, double (&extent)[3]) {
  bool near = true;
  for (int a = 0; a < 3; ++a) {
    extent[a] = 2 * kAround + 1;
    for (int b = 0; b < 3; ++b) extent[a] += absolute(item.map[a][b]) * double(blocks.edge(b) - 1);
    near &= extent[a] < 0x1p21 && absolute(item.map[a][3]) < 0x1p21;
  }
  return near;
}
// Whether boxes are small enough, wherever they lie.
STN_INLINE bool boxes_fit(const Item& item, const Blocks& blocks) {
  double extent[3], pixels = 1;
  if (!set_box_extents(item, blocks, extent)) return false;
  for (int a = 0; a < 3; ++a) pixels *= minimum(extent[a], double(item.p.extent(a))) + 2 * VolumeLattice<3>::kMargin;
  return pixels <= double(minimum(kHeldPixels, 8 * blocks.points()));
}

// Whether a volume is small enough as a whole.
STN_INLINE bool is_held(const Problem& p) { return whole_box(p).pixels() <= kHeldPixels; }
// Whether a call may be cut so.
STN_INLINE bool may_be_in_boxes(const Problem& p) {
  return p.dimensions == 3 && p.transform == Transform::affine && p.padding != Padding::reflection &&
         suits_volume_quads(p);
}

// Calls f(item) for all; false if it is for one.
template <class F>
STN_INLINE bool for_all_items(const Problem& p, F f) {
  for (int64_t i = 0; i < p.items(); ++i) {
    if (!f(Item(p, i))) return false;
  }
  return true;
}

// The output's blocks: a partition that depends on the call alone. None where a box would be too large for what is read
// of it.
struct OutputBlocks {
  static constexpr int64_t kMost = 1 << 16, kLeast = 1 << 12;  // points
  Blocks blocks;
  bool fit = false;
  STN_INLINE explicit OutputBlocks(const Problem& p) : blocks({{}, {p.out_width, p.out_height, p.out_depth}}) {
    while (blocks.points() > kMost) blocks.cut();
    const auto fits = [&](const Item& item) STN_LAMBDA { return boxes_fit(item, blocks); };
    for (; blocks.points() >= kLeast; blocks.cut()) {
      if ((fit = for_all_items(p, fits))) return;
    }
  }
  STN_INLINE Work work(const Problem& p, void (*run)(const Problem&, int64_t, int64_t)) const {
    return {p, p.items() * blocks.count(), run};
  }
};
// Whether a call is sampled so: also where a volume could be held, but by more threads than there are volumes.
STN_INLINE bool reads_boxes(const Problem& p) {
  const bool apart = p.items() < p.threads && p.item_points() > OutputBlocks::kMost;
  return may_be_in_boxes(p) && (apart || !is_held(p)) && OutputBlocks(p).fit;
}
// Whether the gradient of theta is summed so, whatever the threads.
STN_INLINE bool has_box_gradients(const Problem& p) { return may_be_in_boxes(p) && !is_held(p) && OutputBlocks(p).fit; }

// Calls body(row, points, first point, count, channel, quads) for all points of tasks [begin, end), some channels after
// others, and end_line(row, task, whether it is the task's last) after each part of a row.
template <class Line, class Body>
STN_INLINE void over_output_blocks(const Problem& p, int64_t begin, int64_t end, Line end_line, Body body) {
  const Blocks blocks = OutputBlocks(p).blocks;
  const RunSampler sampler(p, false);
  const Region region(p, p.input);
  const Scratch<float> quads(4 * kHeldPixels + kVectorBytes, uninitialized);
  for (int64_t task = begin; task < end; ++task) {
    const Item item(p, task / blocks.count());
    const Box block = blocks.at(task % blocks.count()), box = box_of(item, block);
    for (int64_t channel = 0; channel < p.channels; channel += kQuadChannels) {
      const int64_t channels = minimum(kQuadChannels, p.channels - channel);
      const QuadVolume<3> volume(p, channels, box, quads.data, false);
      volume.read(item.image, channel);
      const int64_t rows = block.extent[1] * block.extent[2], u = block.first[0];
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t y = block.first[1] + r % block.extent[1], z = block.first[2] + r / block.extent[1];
        const Row row(item, z * p.out_height + y);
        sampler.over(item, row.row, u, u + block.extent[0], region,
                     [&](const Points<float>& points, int64_t at, int, int count)
                         STN_LAMBDA { body(row, points, at, count, channel, volume); });
        end_line(row, task, r + 1 == rows && channel + channels == p.channels);
      }
    }
  }
}

inline void volume_blocks_forward(const Problem& p, int64_t begin, int64_t end) {
  RunBuffer buffer;
  over_output_blocks(p, begin, end, Nothing{},
                     [&](const Row& row, const Points<float>& points, int64_t u, int count, int64_t channel,
                         const QuadVolume<3>& volume)
                         STN_LAMBDA { sample_run(volume, row, points, u, count, channel, buffer); });
}

inline void volume_blocks_gradients(const Problem& p, int64_t begin, int64_t end, const TakeGradients<float>& to) {
  RunBuffer buffer;
  over_output_blocks(
      p, begin, end,
      [&](const Row& row, int64_t task, bool last) STN_LAMBDA { to.end_line(to.state, row, task, last); },
      [&](const Row& row, const Points<float>& points, int64_t u, int count, int64_t channel,
          const QuadVolume<3>& volume)
          STN_LAMBDA { take_run_gradients(volume, row, points, u, count, channel, buffer, to); });
}

// The boxes of the image's gradient. A pixel's sum has the order of the outputs whatever they are, so that the bits do
// not depend on them.
struct GradientBoxes {
  Blocks blocks;
  bool fit = false;
  STN_INLINE explicit GradientBoxes(const Problem& p) : blocks(whole_box(p)) {
    if (!may_be_in_boxes(p) || (is_held(p) && quad_blocks(p) * p.batch >= p.threads)) return;
    if (4 * p.samples * p.item_points() < whole_box(p).pixels()) return;
    const auto held = [&]() STN_LAMBDA {
      return QuadVolume<3>::size({{}, {blocks.edge(0), blocks.edge(1), blocks.edge(2)}});
    };
    while (held() > 4 * kHeldPixels || blocks.count() * quad_blocks(p) * p.batch < p.threads) {
      if (blocks.points() < OutputBlocks::kLeast) return;
      blocks.cut();
    }
    const Blocks whole({{}, {p.out_width, p.out_height, p.out_depth}});
    double extent[3];
    fit = for_all_items(p, [&](const Item& item) STN_LAMBDA { return set_box_extents(item, whole, extent); });
  }
  STN_INLINE int64_t tasks(const Problem& p) const { return p.batch * quad_blocks(p) * blocks.count(); }
};

// Which points of an item may add to a box, by axis after axis: z, y of that slice, u of that row.
class PointsOfBox {
  const Item& item;
  Span wanted[3];    // source pixels
  Span lower[3][3];  // what the axes before b add to source axis a

 public:
  STN_INLINE PointsOfBox(const Item& of, const Box& box) : item(of) {
    const Problem& p = item.p;
    for (int a = 0; a < 3; ++a) {
      const double first = double(box.first[a]), last = first + double(box.extent[a]);
      const bool border = p.padding == Padding::border;  // whose pixels are given what lies outside
      wanted[a].low = border && box.first[a] == 0 ? -0x1p40 : first - kAround;
      wanted[a].high = border && box.first[a] + box.extent[a] == p.extent(a) ? 0x1p40 : last + kAround;
      lower[0][a] = {0, 0};
      for (int b = 0; b < 2; ++b) {
        const double along = absolute(item.map[a][b]) * item.lattice[b].centre;
        lower[b + 1][a] = {lower[b][a].low - along, lower[b][a].high + along};
      }
    }
  }
  // Calls body(first, last) with those along axis b where the axes behind it add up to base.
  template <class Body>
  STN_INLINE void along(int b, const double (&base)[3], Body body) const {
    const double centre = item.lattice[b].centre;
    double first = 0, last = double(item.p.out_extent(b) - 1);
    for (int a = 0; a < 3; ++a) {
      const double step = item.map[a][b], low = wanted[a].low - lower[b][a].high - base[a],
                   high = wanted[a].high - lower[b][a].low - base[a];
      if (step == 0) {
        if (low > 0 || high < 0) return;
        continue;
      }
      const double from = (step > 0 ? low : high) / step + centre, to = (step > 0 ? high : low) / step + centre;
      first = maximum(first, from), last = minimum(last, to);
    }
    if (first <= last) body(int64_t(first), int64_t(last) + 1);
  }
  STN_INLINE void add(int b, int64_t i, const double (&base)[3], double (&sum)[3]) const {
    for (int a = 0; a < 3; ++a) sum[a] = base[a] + item.map[a][b] * item.lattice[b].from_centre(int(i));
  }
  // Calls body(row, first point, last point) for the parts of rows.
  template <class Body>
  STN_INLINE void over_rows(Body body) const {
    const double origin[] = {item.map[0][3], item.map[1][3], item.map[2][3]};
    along(2, origin, [&](int64_t first_z, int64_t last_z) STN_LAMBDA {
      for (int64_t z = first_z; z < last_z; ++z) {
        double slice[3];
        add(2, z, origin, slice);
        along(1, slice, [&](int64_t first_y, int64_t last_y) STN_LAMBDA {
          for (int64_t y = first_y; y < last_y; ++y) {
            double line[3];
            add(1, y, slice, line);
            along(0, line, [&](int64_t first, int64_t last) STN_LAMBDA {
              body(Row(item, z * item.p.out_height + y), first / kRowStep * kRowStep, last);
            });
          }
        });
      }
    });
  }
};

inline void volume_boxes_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const Blocks blocks = GradientBoxes(p).blocks;
  const RunSampler sampler(p, false);
  const Region region(p, p.input);
  const Scratch<float> quads(4 * kHeldPixels + kVectorBytes, uninitialized);
  RunBuffer buffer;
  for (int64_t task = begin; task < end; ++task) {
    const Box box = blocks.at(task % blocks.count());
    const int64_t channel = task / blocks.count() % quad_blocks(p) * kQuadChannels;
    const int64_t image = task / blocks.count() / quad_blocks(p);
    __builtin_memset(quads.data, 0, size_t(QuadVolume<3>::size(box)) * sizeof(float));
    const QuadVolume<3> sums(p, minimum(kQuadChannels, p.channels - channel), box, quads.data, true);
    for (int64_t s = 0; s < p.samples; ++s) {
      const Item item(p, image * p.samples + s);
      PointsOfBox(item, box).over_rows([&](const Row& row, int64_t first, int64_t last) STN_LAMBDA {
        sampler.over(item, row.row, first, last, region,
                     [&](const Points<float>& points, int64_t u, int, int count)
                         STN_LAMBDA { scatter_run(sums, row, points, u, count, channel, buffer); });
      });
    }
    sums.write(image, channel);
  }
}

}  // namespace stn::STN_LEVEL
