// Compiled once a level, like kernels.cpp, and under its rules.
#include "channel_blocks.h"

#include "item_groups.h"
#include "samplers.h"

namespace stn::STN_LEVEL {
namespace {

int64_t block_count(const Problem& p) { return (p.channels + kBlockLanes - 1) / kBlockLanes; }

// An image's blocks of channels, and one of them at a time.
struct BlockImage {
  const Problem& p;
  const QuadLattice lattice;
  const int64_t blocks;
  const bool fetches;
  Scratch<float> pixels;  // zeros; the margin stays so where planes are read
  STN_INLINE explicit BlockImage(const Problem& problem, bool used = true)
      : p(problem),
        lattice(problem.width, problem.height, kBlockLanes),
        blocks(block_count(problem)),
        fetches(leaves_cache(p, p.dtype == DType::float32 ? 4 : 2)),
        pixels(used ? lattice.size : 1) {}

  // Of image (or item) i of some images, from an output row on.
  template <class T, class Void>
  STN_INLINE BlockPlanes<T> planes(const Images<Void>& images, int64_t i, int64_t block, int64_t row = 0) const {
    const int64_t c = block * kBlockLanes;
    return {elements<T>(p, images.data) + (i * images.batch + c * images.channel + row * p.out_width), images.channel,
            int(minimum<int64_t>(kBlockLanes, p.channels - c))};
  }
  template <class T>
  STN_INLINE BlockAhead ahead(const BlockPlanes<T>& planes) const {
    if (!fetches) return {reinterpret_cast<const char*>(pixels.data), 0, 0};
    constexpr int64_t size = sizeof(planes.first[0]);
    return {reinterpret_cast<const char*>(address(planes.first)), planes.plane * size, size};
  }
};

// Images whose points are placed together, and the tasks of such a group: bands, only to occupy the threads, of some
// `parts` of an image.
struct BlockTasks {
  static constexpr int64_t kMostPoints = 1 << 16;
  const Problem& p;
  int64_t size, count, bands;
  STN_INLINE BlockTasks(const Problem& problem, int64_t parts)
      : p(problem), size(1), bands(p.batch >= p.threads ? 1 : minimum(parts, (p.threads + p.batch - 1) / p.batch)) {
    if (p.transform == Transform::tps)  // they share the radial functions
      size = maximum<int64_t>(1, minimum(kMostPoints / (p.samples * p.item_points()), p.batch / p.threads));
    count = (p.batch + size - 1) / size;
  }
  STN_INLINE bool placed() const { return p.transform == Transform::tps || p.transform == Transform::homography; }
  STN_INLINE int64_t tasks() const { return count * bands; }
  // Calls body(first image, last image, band).
  template <class Body>
  STN_INLINE void over(int64_t begin, int64_t end, Body body) const {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / bands * size;
      body(b, minimum(b + size, p.batch), task % bands);
    }
  }
  STN_INLINE int64_t start(int64_t number, int64_t band) const { return number * band / bands; }
};

// Places the points of parts, of a group first where they share what they are placed by.
struct BlockPlacer {
  const Problem& p;
  const BlockPoints& points;
  const bool grouped;
  ItemRuns runs;
  STN_INLINE BlockPlacer(const BlockTasks& tasks, const BlockPoints& to)
      : p(tasks.p), points(to), grouped(tasks.placed()), runs(p, grouped ? tasks.size * p.samples : 0) {}
  STN_INLINE void begin(int64_t first_image, int64_t last_image) {
    if (grouped) runs.place(first_image * p.samples, last_image * p.samples);
  }
  template <bool kGradients>
  STN_INLINE void place(const BlockPart& part) const {
    points.place<kGradients>(p, part, grouped ? runs.row(part.item, part.first) : nullptr);
  }
};

template <class T>
void run_forward(const Problem& p, int64_t begin, int64_t end) {
  const BlockParts parts(p);
  BlockImage image(p);
  const BlockTasks tasks(p, image.blocks);
  const BlockPoints points(image.lattice, parts.most_points(), false);
  BlockPlacer placer(tasks, points);
  tasks.over(begin, end, [&](int64_t first_image, int64_t last_image, int64_t band) STN_LAMBDA {
    placer.begin(first_image, last_image);
    for (int64_t b = first_image; b < last_image; ++b) {
      parts.over_groups(b, 0, parts.count(), [&](int64_t i, int64_t end_i) STN_LAMBDA {
        parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA { placer.place<false>(part); });
        for (int64_t block = tasks.start(image.blocks, band); block < tasks.start(image.blocks, band + 1); ++block) {
          const auto to = image.planes<T>(p.output, parts.part(b, i).item, block);
          fill_block<T>(image.planes<const T>(p.input, b, block), image.lattice, image.pixels.data, image.ahead(to));
          const auto next = image.ahead(image.planes<const T>(p.input, b, block + 1));
          parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
            block_forward<T>(points, part.at, part.count, image.pixels.data,
                             image.planes<T>(p.output, part.item, block, part.first), next);
          });
        }
      });
    }
  });
}

// A row block's share in the sums of the parameters of some items, from the gradients of their points, item after item.
template <class Sums>
void sum_rows(const Problem& p, int64_t first, int64_t last, const BlockPart& rows, const float* grad_x,
              const float* grad_y) {
  constexpr int64_t kPoints = Run<float>::kPoints;
  const auto add = [&](const Source& source, int64_t v, int64_t end, Sums& total) STN_LAMBDA {
    for (; v < end; ++v) {
      const int64_t at = (source.item - first) * p.item_points() + v * p.out_width;
      for (int64_t u = 0; u < p.out_width; u += kPoints) {
        const int64_t count = minimum<int64_t>(kPoints, p.out_width - u);
        float x[kPoints] = {}, y[kPoints] = {};  // zeros up to a whole vector
        __builtin_memcpy(x, grad_x + at + u, size_t(count) * sizeof(float));
        __builtin_memcpy(y, grad_y + at + u, size_t(count) * sizeof(float));
        total.add(source, Cotangents(v, u, count, x, y));
      }
    }
  };
  sum_items<Sums>(p, first, last, rows.block, rows.first, rows.last, add);
}

// The gradients of a group's points, and where they go.
struct BlockGradients {
  const Problem& p;
  Scratch<float> x, y;  // item after item, from first_item on
  int64_t first_item = 0;
  STN_INLINE BlockGradients(const Problem& problem, int64_t items)
      : p(problem),
        x(items * p.item_points() + kBlockLanes, uninitialized),
        y(items * p.item_points() + kBlockLanes, uninitialized) {}
  STN_INLINE int64_t at(const BlockPart& part) const {
    return (part.item - first_item) * p.item_points() + part.first * p.out_width;
  }
  // Of the source before padding.
  STN_INLINE void apply_slopes(const BlockPoints& points, const BlockPart& part) const {
    float *to_x = x.data + at(part), *to_y = y.data + at(part);
    const float *slope_x = points.slope_x.data + part.at, *slope_y = points.slope_y.data + part.at;
    for (int64_t i = 0; i < part.count; ++i) to_x[i] *= slope_x[i], to_y[i] *= slope_y[i];
  }
  // Of the items [first, last), as those of `part` in the first one.
  void put(int64_t first, int64_t last, const BlockPart& part) const {
    const int64_t begin = (first - first_item) * p.item_points();
    const float *from_x = x.data + begin, *from_y = y.data + begin;
    if (p.transform == Transform::grid) {
      const int64_t row = part.first * p.out_width;
      const auto to = p.double_parameters ? put_grad_grid<float, double> : put_grad_grid<float, float>;
      return to(p.grad_grid, Source(p, first), part.first, 0, part.count, from_x + row, from_y + row);
    }
    if (p.transform == Transform::affine) return sum_rows<AffineSums>(p, first, last, part, from_x, from_y);
    if constexpr (kHasTiles) {
      if (p.out_width >= Square::kWidth && p.out_height >= Square::kHeight)
        return sum_item_strips(p, first, last, part.block, part.first, part.last, from_x, from_y);
    }
    with_transform(p, [&]<class Row, class Sums>(Row*, Sums*)
                          STN_LAMBDA { sum_rows<Sums>(p, first, last, part, from_x, from_y); });
  }
};

template <class T, bool kInput, bool kPoints>
void run_gradients(const Problem& p, int64_t begin, int64_t end) {
  const BlockParts parts(p);
  BlockImage image(p, kPoints), sums(p, kInput);
  const BlockTasks tasks(p, kPoints ? parts.count() : image.blocks);
  const BlockPoints points(image.lattice, parts.most_points(), true);
  BlockPlacer placer(tasks, points);
  BlockGradients gradients(p, kPoints ? tasks.size * p.samples : 0);
  const auto place = [&](int64_t b, int64_t i, int64_t end_i) STN_LAMBDA {
    parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA { placer.place<true>(part); });
  };
  const auto fill = [&](int64_t b, int64_t block) STN_LAMBDA {
    if constexpr (kInput) __builtin_memset(sums.pixels.data, 0, size_t(sums.lattice.size) * sizeof(float));
    if constexpr (kPoints)
      fill_block<T>(image.planes<const T>(p.input, b, block), image.lattice, image.pixels.data,
                    image.ahead(image.planes<const T>(p.grad_output, b * p.samples, block)));
  };
  const auto add = [&](int64_t b, int64_t block, int64_t i, int64_t end_i) STN_LAMBDA {
    const auto next = kPoints ? image.ahead(image.planes<const T>(p.input, b, block + 1))
                              : image.ahead(image.planes<const T>(p.grad_output, parts.part(b, i).item, block + 1));
    const auto grad = [&](const BlockPart& part)
                          STN_LAMBDA { return image.planes<const T>(p.grad_output, part.item, block, part.first); };
    if constexpr (kPoints) {
      parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
        const int64_t at = gradients.at(part);
        block_grad_points<T>(points, part.at, part.count, image.pixels.data, grad(part), block == 0,
                             gradients.x.data + at, gradients.y.data + at, next);
      });
    }
    if constexpr (kInput) {
      const auto results = image.ahead(image.planes<T>(p.grad_input, b, block));
      parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
        block_scatter<T>(points, part.at, part.count, grad(part), sums.pixels.data, results, next);
      });
    }
  };
  const auto finish = [&](int64_t b, int64_t block) STN_LAMBDA {
    if constexpr (kInput) empty_block<T>(image.planes<T>(p.grad_input, b, block), sums.lattice, sums.pixels.data);
  };
  tasks.over(begin, end, [&](int64_t first_image, int64_t last_image, int64_t band) STN_LAMBDA {
    placer.begin(first_image, last_image);
    if constexpr (kPoints) {
      const int64_t first = tasks.start(parts.count(), band), last = tasks.start(parts.count(), band + 1);
      gradients.first_item = first_image * p.samples;
      for (int64_t b = first_image; b < last_image; ++b) {
        parts.over_groups(b, first, last, [&](int64_t i, int64_t end_i) STN_LAMBDA {
          place(b, i, end_i);
          for (int64_t block = 0; block < image.blocks; ++block)
            fill(b, block), add(b, block, i, end_i), finish(b, block);
          parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA { gradients.apply_slopes(points, part); });
        });
      }
      if (tasks.size > 1) {
        for (int64_t i = 0; i < parts.each; ++i)
          gradients.put(first_image * p.samples, last_image * p.samples, parts.part(first_image, i));
      } else {
        for (int64_t i = first; i < last; ++i) {
          const BlockPart part = parts.part(first_image, i);
          gradients.put(part.item, part.item + 1, part);
        }
      }
    } else {
      const bool once = parts.all_at_once();
      for (int64_t b = first_image; b < last_image; ++b) {
        if (once) place(b, 0, parts.count());
        for (int64_t block = tasks.start(image.blocks, band); block < tasks.start(image.blocks, band + 1); ++block) {
          fill(b, block);
          if (once) {
            add(b, block, 0, parts.count());
          } else {
            parts.over_groups(b, 0, parts.count(), [&](int64_t i, int64_t end_i) STN_LAMBDA {
              place(b, i, end_i), add(b, block, i, end_i);
            });
          }
          finish(b, block);
        }
      }
    }
  });
}

}  // namespace

bool in_blocks(const Problem& p, bool reads) {
  // At a grid and for the image's gradient nothing else is as fast; windows and tiles read large images as fast, and
  // few channels faster.
  const bool given = p.transform == Transform::grid, always = given || (!reads && p.transform != Transform::affine);
  const int64_t most_bytes = given || !reads ? 1 << 23 : 1 << 19, longest_row = 512;
  const int64_t pixels = p.width * p.height, points = p.samples * p.item_points(), margins = 2 * QuadLattice::kMargin;
  const int64_t most_points = 1 << 19;  // of an image, that are held at once
  const bool worthwhile = always ? p.channels > kQuadChannels : 4 * p.channels >= 3 * kBlockLanes * block_count(p);
  return worthwhile && !p.channels_last && (reads ? p.in_rows() && p.input.row == p.width : p.scatters_rows()) &&
         p.mode == Mode::bilinear && pixels >= kBlockLanes && p.item_points() >= kBlockLanes &&
         p.out_width <= longest_row && 4 * points >= pixels && points <= most_points &&
         (p.width + margins) * (p.height + margins) * kBlockLanes * 4 <= most_bytes;
}

Work blocks_forward(const Problem& p) {
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, BlockTasks(p, block_count(p)).tasks(), run_forward<decltype(t)>};
  });
}

Work blocks_grad_input(const Problem& p) {
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, BlockTasks(p, block_count(p)).tasks(), run_gradients<decltype(t), true, false>};
  });
}

Work blocks_grad_parameters(const Problem& p) {
  const BlockParts parts(p);
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, BlockTasks(p, parts.count()).tasks(), run_gradients<decltype(t), false, true>, parts.each};
  });
}

Work blocks_gradients(const Problem& p) {
  const BlockParts parts(p);
  if (p.batch < p.threads || !parts.all_at_once()) return {};
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, BlockTasks(p, 1).tasks(), run_gradients<decltype(t), true, true>, parts.each};
  });
}

}  // namespace stn::STN_LEVEL
