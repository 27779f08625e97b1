// Linear and trilinear sampling of small signals and volumes at points that lie anywhere, up to four channels at a
// time, as quad_passes.h does in two dimensions.
#pragma once
#include <vector>

#include "signal_passes.h"
#include "tap_passes.h"
#include "volume_passes.h"

namespace stn::STN_LEVEL {

template <int n>
using QuadPassesOf = std::conditional_t<n == 1, SignalPasses, VolumePasses>;

// Pixels of a volume, or samples of a signal, by axis.
struct Box {
  int64_t first[3] = {}, extent[3];
  STN_INLINE int64_t pixels() const { return extent[0] * extent[1] * extent[2]; }
  // Where it begins in images.
  template <class Pointer>
  STN_INLINE int64_t at(const Images<Pointer>& images) const {
    return first[0] * images.column + first[1] * images.row + first[2] * images.slice;
  }
};
STN_INLINE Box whole_box(const Problem& p) { return {{}, {p.width, p.height, p.depth}}; }
// Slices, or samples, [first, last).
STN_INLINE Box slices_of(const Problem& p, int64_t first, int64_t last) {
  Box box = whole_box(p);
  box.first[p.dimensions - 1] = first, box.extent[p.dimensions - 1] = last - first;
  return box;
}

// Some channels of a box of a volume or signal, or the sums of its gradient, as quads.
template <int n>
struct QuadVolume {
  using Passes = QuadPassesOf<n>;
  static constexpr int N = Passes::N;
  Problem p;  // of these channels of the box alone
  Passes passes;
  int64_t plane;
  float* quads;
  Scratch<float> rows;

  // quads: `size` numbers, of sums zeros.
  STN_INLINE QuadVolume(const Problem& problem, int64_t channels, const Box& box, float* numbers, bool sums)
      : p(of_box(problem, channels, box)),
        passes{lattice(box), p.channels},
        plane(p.width + kVectorBytes / 4),
        quads(numbers),
        rows((sums || !in_cells() ? p.channels : 2 * p.height + 1) * plane) {
    if constexpr (n > 1) {
      if (!sums && in_cells() && is_half(p.dtype) && in_planes(p, p.width))
        passes.format = p.dtype, passes.lattice.each = 2;
    }
  }
  static STN_INLINE Problem of_box(Problem p, int64_t channels, const Box& box) {
    if (p.input.data) p.input.data = (elements<const Any>(p, p.input.data) + box.at(p.input)).data;
    if (p.grad_input.data) p.grad_input.data = (elements<Any>(p, p.grad_input.data) + box.at(p.grad_input)).data;
    p.width = box.extent[0], p.height = box.extent[1], p.depth = box.extent[2], p.channels = channels;
    return p;
  }
  static STN_INLINE VolumeLattice<n> lattice(const Box& box) {
    VolumeLattice<n> of(box.extent[0], box.extent[1], box.extent[2]);
    for (int a = 0; a < n; ++a) of.origin[a] = box.first[a];
    return of;
  }
  static STN_INLINE int64_t size(const Box& box) { return lattice(box).size(); }
  STN_INLINE bool in_cells() const { return n > 1 && p.channels == 1; }
  STN_INLINE bool holds_halves() const {
    if constexpr (n > 1) return is_half(passes.format);
    return false;
  }
  STN_INLINE Planes<float> buffer(int64_t i = 0) const { return {rows.data + i * plane, plane}; }

  STN_SHARED void read(int64_t number, int64_t channel) const {
    const auto from = elements<const Any>(p, p.input.data) + (number * p.input.batch + channel * p.input.channel);
    const auto row = [&](int64_t y, int64_t z, int64_t slot) STN_LAMBDA {
      const auto first = from + (z * p.input.slice + y * p.input.row);
      if (holds_halves()) return Planes<const Any>{first, 0};
      return row_to_read(p, first, p.input.channel, p.width, buffer(slot));
    };
    int64_t filled = 0;
    const auto clear_to = [&](int64_t end)
                              STN_LAMBDA { __builtin_memset(quads + filled, 0, size_t(end - filled) * sizeof(float)); };
    const auto fill = [&](int64_t y, int64_t z, auto set) STN_LAMBDA {
      const int64_t begin = passes.lattice.at(0, y, z);
      clear_to(begin), set(quads + begin), filled = begin + passes.lattice.each * p.width;
    };
    if (!in_cells()) {
      for (int64_t z = 0; z < p.depth; ++z) {
        for (int64_t y = 0; y < p.height; ++y) {
          fill(y, z, [&](float* to) STN_LAMBDA { quads_from_planes<N>(row(y, z, 0), p.channels, p.width, to); });
        }
      }
    } else if constexpr (n > 1) {
      // The rows of two slices at hand, with one of zeros before and behind.
      const auto fill_cells = [&]<class T>(const T* zeros, auto row_at) STN_LAMBDA {
        std::vector<const T*> lines(size_t(2 * (p.height + 2)), zeros);
        const auto line = [&](int64_t y, int64_t z)
                              STN_LAMBDA -> const T*& { return lines[size_t((z & 1) * (p.height + 2) + y + 1)]; };
        for (int64_t z = -1; z < p.depth; ++z) {
          for (int64_t y = 0; y < p.height; ++y)
            line(y, z + 1) = z + 1 < p.depth ? row_at(row(y, z + 1, (z + 1) % 2 * p.height + y)) : zeros;
          for (int64_t y = -1; y < p.height; ++y) {
            const T* of[] = {line(y, z), line(y + 1, z), line(y, z + 1), line(y + 1, z + 1)};
            fill(y, z, [&](float* to) STN_LAMBDA { passes.set_cells(of, to); });
          }
        }
      };
      const float* zeros = buffer(2 * p.height).data;
      if (holds_halves()) {
        fill_cells(reinterpret_cast<const uint16_t*>(zeros),
                   [](const Planes<const Any>& of) STN_LAMBDA { return of.data.template as<uint16_t>(); });
      } else {
        fill_cells(zeros, single_row);
      }
    }
    clear_to(passes.lattice.size());
  }
  void write(int64_t number, int64_t channel) const {
    const auto to =
        elements<Any>(p, p.grad_input.data) + (number * p.grad_input.batch + channel * p.grad_input.channel);
    const auto from = [&](int64_t y, int64_t z) STN_LAMBDA { return quads + passes.lattice.at(0, y, z); };
    for (int64_t z = 0; z < p.depth; ++z) {
      for (int64_t y = 0; y < p.height; ++y) {
        write_row(p, to + (z * p.grad_input.slice + y * p.grad_input.row), p.grad_input.channel, p.width, buffer(),
                  [&](const Planes<Any>& planes) STN_LAMBDA {
                    if (!in_cells()) return quads_to_planes<N>(from(y, z), p.channels, p.width, planes);
                    if constexpr (n > 1)
                      passes.add_cells({from(y, z), from(y - 1, z), from(y, z - 1), from(y - 1, z - 1)}, planes.data);
                  });
      }
    }
  }
};

// Channels are taken in blocks.
STN_INLINE int64_t quad_blocks(const Problem& p) { return (p.channels + kQuadChannels - 1) / kQuadChannels; }
STN_INLINE int64_t channels_of_block(const Problem& p, int64_t block) {
  return minimum(kQuadChannels, p.channels - block * kQuadChannels);
}

// Images that are held at a time: the latest, or, where tasks take items side by side, all.
STN_INLINE int64_t quad_images(const Problem& p) { return RadialRows::are_worth_it(p) ? p.batch : 1; }
// Whether a call could be sampled so, but for its size.
STN_INLINE bool suits_volume_quads(const Problem& p) {
  if (p.dimensions == 2 || p.mode != Mode::bilinear || p.channels < (p.dimensions == 1 ? 2 : 1)) return false;
  if (p.dtype != DType::float32 && (p.dtype == DType::float64 || !kHasHalfRows)) return false;
  return p.channels_last ? p.channels <= kQuadChannels : p.input.column == 1;
}
// Whether it adds to its gradient so: volumes are worth their filling and emptying, and stay near, of one or two
// channels nearer, which are read soon without.
STN_INLINE bool in_volume_quads(const Problem& p) {
  const int64_t pixels = whole_box(p).pixels(), most = p.channels > 2 ? 1 << 20 : 1 << 18;
  return suits_volume_quads(p) && 4 * p.samples * p.item_points() >= pixels && pixels * quad_images(p) <= most;
}
// Whether it reads so: not where a single channel of all images would be held, four times what they are.
STN_INLINE bool reads_volume_quads(const Problem& p) {
  return in_volume_quads(p) && !(p.channels == 1 && quad_images(p) > 1);
}
// Whether the gradient of its parameters does, for which every thread fills the blocks of an image that it has a part
// of.
STN_INLINE bool has_volume_quad_gradients(const Problem& p) {
  return reads_volume_quads(p) && quad_blocks(p) <= maximum<int64_t>(2, p.batch) &&
         p.width * p.height * p.depth * quad_images(p) * quad_blocks(p) <= 1 << 20;
}

// The volumes that tasks read, as they come by.
template <int n>
class QuadVolumes {
  const int64_t images, blocks;
  const Scratch<float> quads;  // one buffer, which malloc keeps between calls as it would not keep many
  std::vector<QuadVolume<n>> volumes;
  std::vector<int64_t> held;  // the image in each

 public:
  STN_INLINE explicit QuadVolumes(const Problem& p)
      : images(quad_images(p)),
        blocks(quad_blocks(p)),
        quads(images * blocks * QuadVolume<n>::size(whole_box(p)), uninitialized),
        held(size_t(images * blocks), -1) {
    volumes.reserve(held.size());
    for (int64_t i = 0; i < images * blocks; ++i) {
      float* numbers = quads.data + i * QuadVolume<n>::size(whole_box(p));
      volumes.emplace_back(p, channels_of_block(p, i % blocks), whole_box(p), numbers, false);
    }
  }
  STN_INLINE const QuadVolume<n>& of(int64_t image, int64_t channel) {
    const size_t i = size_t(image % images * blocks + channel / kQuadChannels);
    if (held[i] != image) volumes[i].read(image, channel), held[i] = image;
    return volumes[i];
  }
};

// Has the interface of tap_passes.h: its lists are the points of a run.
struct RunSampler {
  struct List : Points<float> {
    static constexpr bool outside = false;
  };
  LocatePoints<float> locate;
  STN_INLINE RunSampler(const Problem& p, bool) : locate(point_locator<float>(p)) {}
  static STN_INLINE int64_t planes(const Problem&) { return kQuadChannels; }
  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region&, Body body) const {
    List points;
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      locate(item, row, u, count, points);
      body(points, u, 0, int(count));
    }
  }
};

// The passes over a run of points of a row, whose images lie where they lie, or in a buffer.
using RunBuffer = float[kQuadChannels][kRun];

template <int n>
STN_INLINE void sample_run(const QuadVolume<n>& volume, const Row& row, const Points<float>& points, int64_t u,
                           int count, int64_t channel, RunBuffer& buffer) {
  const Problem& p = volume.p;
  const int64_t at = row.at(p.output, u) + channel * p.output.channel;
  write_row(p, elements<Any>(p, p.output.data) + at, p.output.channel, count, {buffer[0], kRun},
            [&](const Planes<Any>& out) STN_LAMBDA { volume.passes.forward(volume.quads, points, count, out); });
}
template <int n>
STN_INLINE Planes<const Any> run_of_gradient(const QuadVolume<n>& volume, const Row& row, int64_t u, int count,
                                             int64_t channel, RunBuffer& buffer) {
  const Problem& p = volume.p;
  const int64_t at = row.at(p.grad_output, u) + channel * p.grad_output.channel;
  return row_to_read(p, elements<const Any>(p, p.grad_output.data) + at, p.grad_output.channel, count,
                     {buffer[0], kRun});
}
template <int n>
STN_INLINE void take_run_gradients(const QuadVolume<n>& volume, const Row& row, const Points<float>& points, int64_t u,
                                   int count, int64_t channel, RunBuffer& buffer, const TakeGradients<float>& to) {
  using V = TapList<float>::V;
  constexpr int N = TapList<float>::N;
  float gradient[3][kRun];
  volume.passes.grad_points(volume.quads, points, count, run_of_gradient(volume, row, u, count, channel, buffer),
                            gradient);
  for (int i = 0; i < count; i += N) {
    const V by_axis[] = {load<V>(gradient[0] + i), load<V>(gradient[1] + i), load<V>(gradient[2] + i)};
    to.take(to.state, row, u + i, 0, minimum(N, count - i), channel == 0, by_axis);
  }
}
template <int n>
STN_INLINE void scatter_run(const QuadVolume<n>& sums, const Row& row, const Points<float>& points, int64_t u,
                            int count, int64_t channel, RunBuffer& buffer) {
  sums.passes.scatter(run_of_gradient(sums, row, u, count, channel, buffer), points, count, sums.quads);
}

template <int n>
void volume_quads_gradients(const Problem& p, int64_t begin, int64_t end, const TakeGradients<float>& to) {
  QuadVolumes<n> volumes(p);
  RunBuffer buffer;
  const auto end_line = [&](const Row& row, int64_t task, bool last) {
    if (to.end_line) to.end_line(to.state, row, task, last);
  };
  over_points<RunSampler>(
      p, begin, end, Region(p, p.input), true, end_line,
      [&](const Row& row, const RunSampler::List& points, int64_t u, int, int count, int64_t channel, int64_t)
          STN_LAMBDA {
            take_run_gradients(volumes.of(row.item.image, channel), row, points, u, count, channel, buffer, to);
          });
}

// Tasks are blocks of channels of images, in bands only to occupy the threads: of output rows, or of slices of the
// gradient, where a pixel's sum has the order of the outputs either way, so that the bits do not depend on the bands.
// Images whose splines share their radial functions are taken together.
struct VolumeTasks {
  const Problem& p;
  const bool shared;
  const int64_t images, blocks, whole, bands;
  STN_INLINE explicit VolumeTasks(const Problem& problem)
      : p(problem),
        shared(RadialRows::are_worth_it(p)),
        images(shared ? (p.batch + p.threads - 1) / p.threads : 1),
        blocks(quad_blocks(p)),
        whole((p.batch + images - 1) / images * blocks),
        bands(whole >= p.threads ? 1 : minimum(p.extent(p.dimensions - 1), (p.threads + whole - 1) / whole)) {}
  STN_INLINE int64_t count() const { return whole * bands; }
};

// One of them.
template <int n>
struct VolumeTask {
  const Problem& p;
  const bool shared;
  const int64_t band, bands, image, images, channel, channels;
  STN_INLINE VolumeTask(const VolumeTasks& of, int64_t task)
      : p(of.p),
        shared(of.shared),
        band(task % of.bands),
        bands(of.bands),
        image(task / of.bands / of.blocks * of.images),
        images(minimum(of.images, p.batch - image)),
        channel(task / of.bands % of.blocks * kQuadChannels),
        channels(channels_of_block(p, channel / kQuadChannels)) {}
  // What of `count` is the band's.
  STN_INLINE int64_t begin(int64_t count) const { return count * band / bands; }
  STN_INLINE int64_t end(int64_t count) const { return count * (band + 1) / bands; }

  std::vector<QuadVolume<n>> volumes(const Box& box, float* numbers, bool sums) const {
    std::vector<QuadVolume<n>> all;
    all.reserve(size_t(images));
    for (int64_t i = 0; i < images; ++i)
      all.emplace_back(p, channels, box, numbers + i * QuadVolume<n>::size(box), sums);
    return all;
  }
  // Calls body(row, points, u, count) for the runs of output rows [first, last) of its images.
  template <class Body>
  STN_INLINE void over_rows(int64_t first, int64_t last, SharedRows& radial, Body body) const {
    const RunSampler sampler(p, false);
    const Region region(p, p.input);
    std::vector<Item> items;
    items.reserve(size_t(images * p.samples));
    for (int64_t i = image * p.samples; i < (image + images) * p.samples; ++i) items.emplace_back(p, i, radial.rows());
    const int64_t together = shared ? int64_t(items.size()) : 1;
    for (size_t i = 0; i < items.size(); i += size_t(together)) {
      for (int64_t r = first; r < last; ++r) {
        for (size_t k = i; k < i + size_t(together); ++k) {
          const Row row(items[k], r);
          sampler.over(items[k], r, 0, p.row_width(r), region,
                       [&](const Points<float>& points, int64_t u, int, int count)
                           STN_LAMBDA { body(row, points, u, count); });
        }
      }
    }
  }
};

template <int n>
void volume_quads_forward(const Problem& p, int64_t begin, int64_t end) {
  const VolumeTasks tasks(p);
  SharedRows radial(p, true);
  RunBuffer buffer;
  const Scratch<float> quads(tasks.images * QuadVolume<n>::size(whole_box(p)), uninitialized);
  int64_t held = -1;  // of whose tasks
  std::vector<QuadVolume<n>> volumes;
  for (int64_t number = begin; number < end; ++number) {
    const VolumeTask<n> task(tasks, number);
    if (held != number / tasks.bands) {
      held = number / tasks.bands, volumes = task.volumes(whole_box(p), quads.data, false);
      for (int64_t i = 0; i < task.images; ++i) volumes[size_t(i)].read(task.image + i, task.channel);
    }
    const int64_t rows = p.out_depth * p.out_height;
    task.over_rows(task.begin(rows), task.end(rows), radial,
                   [&](const Row& row, const Points<float>& points, int64_t u, int count) STN_LAMBDA {
                     sample_run(volumes[size_t(row.item.image - task.image)], row, points, u, count, task.channel,
                                buffer);
                   });
  }
}

template <int n>
void volume_quads_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const VolumeTasks tasks(p);
  SharedRows radial(p, true);
  RunBuffer buffer;
  for (int64_t number = begin; number < end; ++number) {
    const VolumeTask<n> task(tasks, number);
    const int64_t extent = p.extent(n - 1);
    const Box slices = slices_of(p, task.begin(extent), task.end(extent));
    const Scratch<float> zeros(task.images * QuadVolume<n>::size(slices));
    const std::vector<QuadVolume<n>> sums = task.volumes(slices, zeros.data, true);
    task.over_rows(0, p.out_depth * p.out_height, radial,
                   [&](const Row& row, const Points<float>& points, int64_t u, int count) STN_LAMBDA {
                     scatter_run(sums[size_t(row.item.image - task.image)], row, points, u, count, task.channel,
                                 buffer);
                   });
    for (int64_t i = 0; i < task.images; ++i) sums[size_t(i)].write(task.image + i, task.channel);
  }
}

}  // namespace stn::STN_LEVEL
