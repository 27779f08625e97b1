// Trilinear sampling of small volumes at points that lie anywhere, up to four channels at a time, as quad_passes.h does
// in two dimensions. Of several channels the numbers of a pixel are its channels, and a point's eight taps are four
// pairs of pixels; of a single one they are the pixel, the one below, and those two of the next slice: one pair is all
// taps.
#pragma once
#include <vector>

#include "quads.h"
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Slices of a volume with zeros around: a margin before each row, behind which the next one's is that of its end, and
// so of rows and slices.
struct VolumeLattice {
  static constexpr int64_t kMargin = 2;  // two taps an axis
  int64_t extent[3], step[3];            // by axis, in pixels
  STN_INLINE VolumeLattice(int64_t width, int64_t height, int64_t slices)
      : extent{width, height, slices}, step{1, width + kMargin, (width + kMargin) * (height + kMargin)} {}
  STN_INLINE int64_t at(int64_t x, int64_t y, int64_t z) const {
    return 4 * ((z + kMargin) * step[2] + (y + kMargin) * step[1] + x + kMargin);
  }
  STN_INLINE int64_t size() const {
    return at(extent[0] + kMargin, extent[1] + kMargin, extent[2] + kMargin) + kVectorBytes;  // vectors may end behind
  }
  // Of pixels, of which those outside are moved into the margin.
  template <class I>
  STN_INLINE I offset(const I (&pixel)[3]) const {
    I sum{};
    for (int a = 0; a < 3; ++a) {
      const I inside = minimum(maximum(pixel[a], splat<I>(int32_t(-kMargin))), splat<I>(int32_t(extent[a])));
      sum += (inside + int32_t(kMargin)) * int32_t(step[a]);
    }
    return sum;
  }
};

// The passes over a run of points; N at a time, of which the last may be outside.
struct VolumePasses {
  static constexpr int N = kVectorBytes / 4;
  using V = Vec<float, N>;
  using I = Vec<int32_t, N>;
  VolumeLattice lattice;
  int64_t channels;

  // What is stored for a whole run, to be loaded otherwise later: at once it would have to wait.
  using Offsets = int32_t[kRun];
  using Weights = Quad[2][kRun];  // of the taps of the first slice, and of the second; or of the left, and of the right

  STN_INLINE void set_offsets(const Points<float>& points, int64_t count, int64_t first_slice, Offsets& offset) const {
    for (int64_t i = 0; i < count; i += N) {
      const I pixel[] = {load<I>(points.index[0] + i), load<I>(points.index[1] + i),
                         load<I>(points.index[2] + i) - int32_t(first_slice)};
      store(offset + i, 4 * lattice.offset(pixel));
    }
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
  }
  // Of N points by axis, and what remains to one. Rows are counted as the numbers of a pixel of a single channel.
  struct Fractions {
    V f[3], g[3];
    STN_INLINE Fractions(const Points<float>& points, int64_t i) {
      for (int a = 0; a < 3; ++a) f[a] = load<V>(points.fraction[a] + i), g[a] = 1 - f[a];
    }
    STN_INLINE V of_row(int r) const { return (r % 2 ? f[1] : g[1]) * (r / 2 ? f[2] : g[2]); }
    STN_INLINE V between(V left, V right) const { return g[0] * left + f[0] * right; }
    STN_INLINE V of_rows(const V (&row)[4]) const {
      return g[2] * (g[1] * row[0] + f[1] * row[1]) + f[2] * (g[1] * row[2] + f[1] * row[3]);
    }
  };
  static STN_INLINE void set_weights(const Points<float>& points, int64_t count, Weights& weight) {
    for (int64_t i = 0; i < count; i += N) {
      const Fractions w(points, i);
      for (int z = 0; z < 2; ++z) {
        const V above = w.of_row(2 * z), below = w.of_row(2 * z + 1);
        interleave<4, N>({w.g[0] * above, w.f[0] * above, w.g[0] * below, w.f[0] * below}, (float*)(weight[z] + i));
      }
    }
    asm volatile("" : "+m"(weight));  // as above
  }

  // Of a single channel: the taps of N points by row.
  static STN_INLINE void read(const float* volume, const int32_t* offset, V (&left)[4], V (&right)[4]) {
    apart<N>([&](int l) STN_LAMBDA { return load<Quad>(volume + offset[l]); }, left);
    apart<N>([&](int l) STN_LAMBDA { return load<Quad>(volume + offset[l] + 4); }, right);
  }

  STN_SHARED void forward(const float* volume, const Points<float>& points, int64_t count, Planes<float> out) const {
    Offsets offset;
    Weights weight;
    set_offsets(points, count, 0, offset);
    if (channels == 1) {
      for (int64_t first = 0; first < count; first += N) {
        const int64_t i = whole_vector<N>(first, count);
        const Fractions w(points, i);
        V left[4], right[4];
        read(volume, offset + i, left, right);
        for (int r = 0; r < 4; ++r) left[r] = w.between(left[r], right[r]);
        store(out[0] + i, w.of_rows(left));
      }
      return;
    }
    set_weights(points, count, weight);
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      const auto sum = [&](int l) STN_LAMBDA {
        const float* from = volume + offset[i + l];
        const TwoQuads both = weighted_taps(from, 4 * lattice.step[1], weight[0][i + l]) +
                              weighted_taps(from + 4 * lattice.step[2], 4 * lattice.step[1], weight[1][i + l]);
        return lower(both) + upper(both);
      };
      V values[4];
      apart<N>(sum, values);
      for (int c = 0; c < channels; ++c) store(out[c] + i, values[c]);
    }
  }

  // dL/d(pixel coordinate before padding) of each point by axis, from the output's gradient.
  STN_SHARED void grad_points(const float* volume, const Points<float>& points, int64_t count, Planes<const float> grad,
                              float (&to)[3][kRun]) const {
    Offsets offset;
    Quad pixels[kRun];
    set_offsets(points, count, 0, offset);
    if (channels > 1) quads_from_planes<N>(grad, channels, count, (float*)pixels);
    asm volatile("" : "+m"(pixels));  // as above
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      V left[4], right[4];  // taps by row, times the output's gradient, summed over channels
      if (channels == 1) {
        read(volume, offset + i, left, right);
        for (int r = 0; r < 4; ++r) left[r] *= load<V>(grad[0] + i), right[r] *= load<V>(grad[0] + i);
      } else {
        TwoQuads dots[N];
#pragma GCC unroll 16
        for (int l = 0; l < N; ++l) {
          const float* from = volume + offset[i + l];
          const Quad g = pixels[i + l];
          dots[l] = pairwise_sums(tap_products(from, 4 * lattice.step[1], g),
                                  tap_products(from + 4 * lattice.step[2], 4 * lattice.step[1], g));
        }
        apart<N>([&](int l) STN_LAMBDA { return lower(dots[l]); }, left);
        apart<N>([&](int l) STN_LAMBDA { return upper(dots[l]); }, right);
      }
      const Fractions w(points, i);
      V line[4], along[4];
      for (int r = 0; r < 4; ++r) line[r] = w.between(left[r], right[r]), along[r] = right[r] - left[r];
      const V y = w.g[2] * (line[1] - line[0]) + w.f[2] * (line[3] - line[2]);
      const V z = w.g[1] * (line[2] - line[0]) + w.f[1] * (line[3] - line[1]);
      store(to[0] + i, w.of_rows(along) * load<V>(points.slope[0] + i));
      store(to[1] + i, y * load<V>(points.slope[1] + i)), store(to[2] + i, z * load<V>(points.slope[2] + i));
    }
  }

  // Adds the output's gradient to the sums of the slices from first_slice on.
  STN_SHARED void scatter(Planes<const float> grad, const Points<float>& points, int64_t count, int64_t first_slice,
                          float* sums) const {
    Offsets offset;
    Weights weight;
    Quad pixels[kRun];
    set_offsets(points, count, first_slice, offset);
    if (channels == 1) {
      for (int64_t first = 0; first < count; first += N) {
        const int64_t i = whole_vector<N>(first, count);
        const Fractions w(points, i);
        const V g = load<V>(grad[0] + i), left = w.g[0] * g, right = w.f[0] * g;
        const V row[] = {w.of_row(0), w.of_row(1), w.of_row(2), w.of_row(3)};
        interleave<4, N>({row[0] * left, row[1] * left, row[2] * left, row[3] * left}, (float*)(weight[0] + i));
        interleave<4, N>({row[0] * right, row[1] * right, row[2] * right, row[3] * right}, (float*)(weight[1] + i));
      }
      asm volatile("" : "+m"(weight));  // as above
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i) {
        float* to = sums + offset[i];
        store(to, load<Quad>(to) + weight[0][i]), store(to + 4, load<Quad>(to + 4) + weight[1][i]);
      }
      return;
    }
    set_weights(points, count, weight);
    quads_from_planes<N>(grad, channels, count, (float*)pixels);
    asm volatile("" : "+m"(pixels));  // as above
#pragma GCC unroll 2
    for (int64_t i = 0; i < count; ++i) {
      float* to = sums + offset[i];
      add_taps(to, 4 * lattice.step[1], weight[0][i], pixels[i]);
      add_taps(to + 4 * lattice.step[2], 4 * lattice.step[1], weight[1][i], pixels[i]);
    }
  }

  // Of a single channel: a row's numbers from the rows of pixels that they are; and what rows of sums give to a row.
  STN_SHARED void set_cells(const float* const (&rows)[4], float* quads) const {
    for (int64_t first = 0; first < lattice.extent[0]; first += N) {
      const int64_t x = whole_vector<N>(first, lattice.extent[0]);
      const V parts[] = {load<V>(rows[0] + x), load<V>(rows[1] + x), load<V>(rows[2] + x), load<V>(rows[3] + x)};
      interleave<4, N>(parts, quads + 4 * x);
    }
  }
  STN_SHARED void add_cells(const float* const (&sums)[4], float* row) const {
    for (int64_t first = 0; first < lattice.extent[0]; first += N) {
      const int64_t x = whole_vector<N>(first, lattice.extent[0]);
      V of[4];
      for (int r = 0; r < 4; ++r) {
        V parts[4];
        deinterleave<4, N>(sums[r] + 4 * x, parts);
        of[r] = parts[r];
      }
      store(row + x, (of[0] + of[1]) + (of[2] + of[3]));
    }
  }
};

// Some channels of a volume, or the sums of its gradient's slices from the first one on, as quads.
struct QuadVolume {
  static constexpr int N = VolumePasses::N;
  Problem p;  // of these channels alone
  VolumePasses passes;
  int64_t plane;
  float* quads;
  Scratch<float> rows;

  // quads: `size` numbers, of sums zeros.
  STN_INLINE QuadVolume(const Problem& problem, int64_t channels, int64_t slices, float* numbers, bool sums)
      : p(of_channels(problem, channels)),
        passes{lattice(p, slices), p.channels},
        plane(p.width + kVectorBytes / 4),
        quads(numbers),
        rows((sums || p.channels > 1 ? p.channels : 2 * p.height + 1) * plane) {}
  static STN_INLINE Problem of_channels(Problem p, int64_t channels) { return p.channels = channels, p; }
  static STN_INLINE VolumeLattice lattice(const Problem& p, int64_t slices) { return {p.width, p.height, slices}; }
  static STN_INLINE int64_t size(const Problem& p, int64_t slices) { return lattice(p, slices).size(); }
  STN_INLINE Planes<float> buffer(int64_t i = 0) const { return {rows.data + i * plane, plane}; }

  STN_SHARED void read(int64_t number, int64_t channel) const {
    const auto from = elements<const Any>(p, p.input.data) + (number * p.input.batch + channel * p.input.channel);
    const auto row = [&](int64_t y, int64_t z, int64_t slot) STN_LAMBDA {
      return row_to_read(p, from + (z * p.input.slice + y * p.input.row), p.input.channel, p.width, buffer(slot));
    };
    int64_t filled = 0;
    const auto clear_to = [&](int64_t end)
                              STN_LAMBDA { __builtin_memset(quads + filled, 0, size_t(end - filled) * sizeof(float)); };
    const auto fill = [&](int64_t y, int64_t z, auto set) STN_LAMBDA {
      const int64_t begin = passes.lattice.at(0, y, z);
      clear_to(begin), set(quads + begin), filled = begin + 4 * p.width;
    };
    if (p.channels > 1) {
      for (int64_t z = 0; z < p.depth; ++z) {
        for (int64_t y = 0; y < p.height; ++y) {
          fill(y, z, [&](float* to) STN_LAMBDA { quads_from_planes<N>(row(y, z, 0), p.channels, p.width, to); });
        }
      }
    } else {
      // The rows of two slices at hand, with one of zeros before and behind.
      const float* const zeros = buffer(2 * p.height).data;
      std::vector<const float*> lines(size_t(2 * (p.height + 2)), zeros);
      const auto line = [&](int64_t y, int64_t z)
                            STN_LAMBDA -> const float*& { return lines[size_t((z & 1) * (p.height + 2) + y + 1)]; };
      for (int64_t z = -1; z < p.depth; ++z) {
        for (int64_t y = 0; y < p.height; ++y)
          line(y, z + 1) = z + 1 < p.depth ? row(y, z + 1, (z + 1) % 2 * p.height + y).data : zeros;
        for (int64_t y = -1; y < p.height; ++y) {
          const float* of[] = {line(y, z), line(y + 1, z), line(y, z + 1), line(y + 1, z + 1)};
          fill(y, z, [&](float* to) STN_LAMBDA { passes.set_cells(of, to); });
        }
      }
    }
    clear_to(passes.lattice.size());
  }
  void write(Elements<Any> to) const {
    const auto from = [&](int64_t y, int64_t z) STN_LAMBDA { return quads + passes.lattice.at(0, y, z); };
    for (int64_t z = 0; z < passes.lattice.extent[2]; ++z) {
      for (int64_t y = 0; y < p.height; ++y) {
        write_row(p, to + (z * p.grad_input.slice + y * p.grad_input.row), p.grad_input.channel, p.width, buffer(),
                  [&](Planes<float> planes) STN_LAMBDA {
                    if (p.channels > 1) return quads_to_planes<N>(from(y, z), p.channels, p.width, planes);
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
// Pixels, of those and of blocks of channels, that are: few of one or two channels, which are read soon without.
STN_INLINE int64_t most_quad_pixels(const Problem& p) { return p.channels > 2 ? 1 << 19 : 1 << 18; }

// Whether a call adds to its gradient so: volumes are worth their filling and emptying, and stay near.
STN_INLINE bool in_volume_quads(const Problem& p) {
  const int64_t pixels = p.width * p.height * p.depth;
  if (p.dimensions != 3 || p.mode != Mode::bilinear || p.channels < 1) return false;
  if (p.dtype != DType::float32 && (p.dtype == DType::float64 || !kHasHalfRows)) return false;
  return (p.channels_last ? p.channels <= kQuadChannels : p.input.column == 1) &&
         4 * p.samples * p.item_points() >= pixels && pixels * quad_images(p) <= most_quad_pixels(p);
}
// Whether it reads so: not where a single channel of all images would be held, four times what they are.
STN_INLINE bool reads_volume_quads(const Problem& p) {
  return in_volume_quads(p) && !(p.channels == 1 && quad_images(p) > 1) &&
         p.width * p.height * p.depth * quad_images(p) * quad_blocks(p) <= most_quad_pixels(p);
}

// The volumes that tasks read, as they come by.
class QuadVolumes {
  const int64_t images, blocks;
  const Scratch<float> quads;  // one buffer, which malloc keeps between calls as it would not keep many
  std::vector<QuadVolume> volumes;
  std::vector<int64_t> held;  // the image in each

 public:
  STN_INLINE explicit QuadVolumes(const Problem& p)
      : images(quad_images(p)),
        blocks(quad_blocks(p)),
        quads(images * blocks * QuadVolume::size(p, p.depth), uninitialized),
        held(size_t(images * blocks), -1) {
    volumes.reserve(held.size());
    for (int64_t i = 0; i < images * blocks; ++i) {
      float* numbers = quads.data + i * QuadVolume::size(p, p.depth);
      volumes.emplace_back(p, channels_of_block(p, i % blocks), p.depth, numbers, false);
    }
  }
  STN_INLINE const QuadVolume& of(int64_t image, int64_t channel) {
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

// Channels of a run of the output's gradient, where they lie or in a buffer.
STN_INLINE Planes<const float> run_of_gradient(const QuadVolume& volume, int64_t at, int64_t count,
                                               float (&buffer)[kQuadChannels][kRun]) {
  const Problem& p = volume.p;
  const auto from = elements<const Any>(p, p.grad_output.data) + at;
  return row_to_read(p, from, p.grad_output.channel, count, {buffer[0], kRun});
}

inline void volume_quads_gradients(const Problem& p, int64_t begin, int64_t end, const TakeGradients<float>& to) {
  using V = TapList<float>::V;
  constexpr int N = TapList<float>::N;
  QuadVolumes volumes(p);
  float buffer[kQuadChannels][kRun];
  const auto end_line = [&](const Row& row, int64_t task, bool last) {
    if (to.end_line) to.end_line(to.state, row, task, last);
  };
  over_points<RunSampler>(
      p, begin, end, Region(p, p.input), true, end_line,
      [&](const Row& row, const RunSampler::List& points, int64_t u, int, int count, int64_t channel,
          int64_t) STN_LAMBDA {
        const QuadVolume& volume = volumes.of(row.item.image, channel);
        const int64_t at = row.at(p.grad_output, u) + channel * p.grad_output.channel;
        float gradient[3][kRun];
        volume.passes.grad_points(volume.quads, points, count, run_of_gradient(volume, at, count, buffer), gradient);
        for (int i = 0; i < count; i += N) {
          const V by_axis[] = {load<V>(gradient[0] + i), load<V>(gradient[1] + i), load<V>(gradient[2] + i)};
          to.take(to.state, row, u + i, 0, minimum(N, count - i), channel == 0, by_axis);
        }
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
        bands(whole >= p.threads ? 1 : minimum(p.depth, (p.threads + whole - 1) / whole)) {}
  STN_INLINE int64_t count() const { return whole * bands; }
};

// One of them.
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
        channels(minimum(kQuadChannels, p.channels - channel)) {}
  // What of `count` is the band's.
  STN_INLINE int64_t begin(int64_t count) const { return count * band / bands; }
  STN_INLINE int64_t end(int64_t count) const { return count * (band + 1) / bands; }

  std::vector<QuadVolume> volumes(int64_t slices, float* numbers, bool sums) const {
    std::vector<QuadVolume> all;
    all.reserve(size_t(images));
    for (int64_t i = 0; i < images; ++i)
      all.emplace_back(p, channels, slices, numbers + i * QuadVolume::size(p, slices), sums);
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

inline void volume_quads_forward(const Problem& p, int64_t begin, int64_t end) {
  const VolumeTasks tasks(p);
  SharedRows radial(p, true);
  float buffer[kQuadChannels][kRun];
  const Scratch<float> quads(tasks.images * QuadVolume::size(p, p.depth), uninitialized);
  int64_t held = -1;  // of whose tasks
  std::vector<QuadVolume> volumes;
  for (int64_t number = begin; number < end; ++number) {
    const VolumeTask task(tasks, number);
    if (held != number / tasks.bands) {
      held = number / tasks.bands, volumes = task.volumes(p.depth, quads.data, false);
      for (int64_t i = 0; i < task.images; ++i) volumes[size_t(i)].read(task.image + i, task.channel);
    }
    const int64_t rows = p.out_depth * p.out_height;
    task.over_rows(task.begin(rows), task.end(rows), radial,
                   [&](const Row& row, const Points<float>& points, int64_t u, int count) STN_LAMBDA {
                     const QuadVolume& from = volumes[size_t(row.item.image - task.image)];
                     const int64_t at = row.at(p.output, u) + task.channel * p.output.channel;
                     write_row(from.p, elements<Any>(p, p.output.data) + at, p.output.channel, count, {buffer[0], kRun},
                               [&](Planes<float> out)
                                   STN_LAMBDA { from.passes.forward(from.quads, points, count, out); });
                   });
  }
}

inline void volume_quads_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const VolumeTasks tasks(p);
  SharedRows radial(p, true);
  float buffer[kQuadChannels][kRun];
  for (int64_t number = begin; number < end; ++number) {
    const VolumeTask task(tasks, number);
    const int64_t first = task.begin(p.depth), slices = task.end(p.depth) - first;
    const Scratch<float> zeros(task.images * QuadVolume::size(p, slices));
    const std::vector<QuadVolume> sums = task.volumes(slices, zeros.data, true);
    task.over_rows(0, p.out_depth * p.out_height, radial,
                   [&](const Row& row, const Points<float>& points, int64_t u, int count) STN_LAMBDA {
                     const QuadVolume& to = sums[size_t(row.item.image - task.image)];
                     const int64_t at = row.at(p.grad_output, u) + task.channel * p.grad_output.channel;
                     to.passes.scatter(run_of_gradient(to, at, count, buffer), points, count, first, to.quads);
                   });
    const auto target =
        elements<Any>(p, p.grad_input.data) + (task.channel * p.grad_input.channel + first * p.grad_input.slice);
    for (int64_t i = 0; i < task.images; ++i) sums[size_t(i)].write(target + (task.image + i) * p.grad_input.batch);
  }
}

}  // namespace stn::STN_LEVEL
