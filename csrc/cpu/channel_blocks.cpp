// Compiled once a level, like kernels.cpp, and under its rules.
#include "channel_blocks.h"

#include "parameter_sums.h"
#include "samplers.h"

namespace stn::STN_LEVEL {
namespace {

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
        blocks((problem.channels + kBlockLanes - 1) / kBlockLanes),
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

int64_t block_count(const Problem& p) { return (p.channels + kBlockLanes - 1) / kBlockLanes; }
// Tasks are images, in bands only to occupy the threads: of `parts` of an image.
int64_t bands_of(const Problem& p, int64_t parts) {
  return p.batch >= p.threads ? 1 : minimum(parts, (p.threads + p.batch - 1) / p.batch);
}

template <class T>
void run_forward(const Problem& p, int64_t begin, int64_t end) {
  const BlockParts parts(p);
  BlockImage image(p);
  const BlockPoints points(image.lattice, parts.most_points(), false);
  const int64_t bands = bands_of(p, image.blocks);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / bands, first = image.blocks * (task % bands) / bands,
                  last = image.blocks * (task % bands + 1) / bands;
    parts.over_groups(b, 0, parts.count(), [&](int64_t i, int64_t end_i) STN_LAMBDA {
      parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA { points.place<false>(p, part); });
      for (int64_t block = first; block < last; ++block) {
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
}

// The gradients of points, to the parameters' sums or the grid's.
void put_gradients(const Problem& p, const BlockParts& parts, const BlockPoints& points, const BlockPart& part,
                   float* grad_x, float* grad_y) {
  grad_x += part.at, grad_y += part.at;
  const float *slope_x = points.slope_x.data + part.at, *slope_y = points.slope_y.data + part.at;
  for (int64_t i = 0; i < part.count; ++i) grad_x[i] *= slope_x[i], grad_y[i] *= slope_y[i];
  const Source source(p, part.item);
  if (p.transform == Transform::grid) {
    const auto put = p.double_parameters ? put_grad_grid<float, double> : put_grad_grid<float, float>;
    return put(p.grad_grid, source, part.first, 0, part.count, grad_x, grad_y);
  }
  AffineSums total(p);
  for (int64_t v = part.first; v < part.last; ++v) {
    for (int64_t u = 0; u < p.out_width; u += Run<float>::kPoints) {
      const int64_t count = minimum<int64_t>(Run<float>::kPoints, p.out_width - u);
      float x[Run<float>::kPoints] = {}, y[Run<float>::kPoints] = {};
      __builtin_memcpy(x, grad_x, size_t(count) * sizeof(float)),
          __builtin_memcpy(y, grad_y, size_t(count) * sizeof(float));
      total.add(source, Cotangents(v, u, count, x, y));
      grad_x += count, grad_y += count;
    }
  }
  total.finish(source, p.sums + 6 * (part.item * parts.each + part.block));
}

template <class T, bool kInput, bool kPoints>
void run_gradients(const Problem& p, int64_t begin, int64_t end) {
  const BlockParts parts(p);
  BlockImage image(p, kPoints), sums(p, kInput);
  const int64_t most = parts.most_points();
  const BlockPoints points(image.lattice, most, true);
  Scratch<float> grad_x(kPoints ? most + kBlockLanes : 1, uninitialized),
      grad_y(kPoints ? most + kBlockLanes : 1, uninitialized);
  const int64_t bands = kInput && kPoints ? 1 : bands_of(p, kPoints ? parts.count() : image.blocks);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / bands, band = task % bands;
    const auto share = [&](bool shared, int64_t count, int64_t i)
                           STN_LAMBDA { return !shared ? i * count : count * (band + i) / bands; };
    const int64_t first_block = share(!kPoints, image.blocks, 0), last_block = share(!kPoints, image.blocks, 1);
    const int64_t first_part = share(kPoints, parts.count(), 0), last_part = share(kPoints, parts.count(), 1);
    const auto place = [&](int64_t i, int64_t end_i) STN_LAMBDA {
      parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA { points.place<true>(p, part); });
    };
    const auto fill = [&](int64_t block) STN_LAMBDA {
      if constexpr (kInput) __builtin_memset(sums.pixels.data, 0, size_t(sums.lattice.size) * sizeof(float));
      if constexpr (kPoints)
        fill_block<T>(image.planes<const T>(p.input, b, block), image.lattice, image.pixels.data,
                      image.ahead(image.planes<const T>(p.grad_output, b * p.samples, block)));
    };
    const auto add = [&](int64_t block, int64_t i, int64_t end_i) STN_LAMBDA {
      const auto next = kPoints ? image.ahead(image.planes<const T>(p.input, b, block + 1))
                                : image.ahead(image.planes<const T>(p.grad_output, parts.part(b, i).item, block + 1));
      if constexpr (kPoints) {
        parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
          const auto grad = image.planes<const T>(p.grad_output, part.item, block, part.first);
          block_grad_points<T>(points, part.at, part.count, image.pixels.data, grad, block == 0, grad_x.data,
                               grad_y.data, next);
        });
      }
      if constexpr (kInput) {
        const auto results = image.ahead(image.planes<T>(p.grad_input, b, block));
        parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
          const auto grad = image.planes<const T>(p.grad_output, part.item, block, part.first);
          block_scatter<T>(points, part.at, part.count, grad, sums.pixels.data, results, next);
        });
      }
    };
    const auto finish = [&](int64_t block) STN_LAMBDA {
      if constexpr (kInput) empty_block<T>(image.planes<T>(p.grad_input, b, block), sums.lattice, sums.pixels.data);
    };
    if constexpr (kPoints) {
      parts.over_groups(b, first_part, last_part, [&](int64_t i, int64_t end_i) STN_LAMBDA {
        place(i, end_i);
        for (int64_t block = first_block; block < last_block; ++block) fill(block), add(block, i, end_i), finish(block);
        parts.over(b, i, end_i, [&](const BlockPart& part) STN_LAMBDA {
          put_gradients(p, parts, points, part, grad_x.data, grad_y.data);
        });
      });
    } else {
      const bool once = parts.all_at_once();
      if (once) place(0, parts.count());
      for (int64_t block = first_block; block < last_block; ++block) {
        fill(block);
        if (once) {
          add(block, 0, parts.count());
        } else {
          parts.over_groups(b, 0, parts.count(),
                            [&](int64_t i, int64_t end_i) STN_LAMBDA { place(i, end_i), add(block, i, end_i); });
        }
        finish(block);
      }
    }
  }
}

}  // namespace

bool in_blocks(const Problem& p, bool reads) {
  const bool given = p.transform == Transform::grid;
  // Affine tiles read large images as fast, and blocks that are not full faster.
  const int64_t most_bytes = given || !reads ? 1 << 23 : 1 << 19, longest_row = 512;
  const int64_t pixels = p.width * p.height, margins = 2 * QuadLattice::kMargin;
  const int64_t lanes = block_count(p) * kBlockLanes;
  const bool worthwhile = given ? p.channels > kQuadChannels : 5 * p.channels >= 4 * lanes;
  return worthwhile && (given || p.transform == Transform::affine) && p.mode == Mode::bilinear && p.in_rows() &&
         !p.channels_last && p.input.row == p.width && pixels >= kBlockLanes && p.item_points() >= kBlockLanes &&
         p.out_width <= longest_row && 4 * p.samples * p.item_points() >= pixels &&
         (p.width + margins) * (p.height + margins) * kBlockLanes * 4 <= most_bytes;
}

Work blocks_forward(const Problem& p) {
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, p.batch * bands_of(p, block_count(p)), run_forward<decltype(t)>};
  });
}

Work blocks_grad_input(const Problem& p) {
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, p.batch * bands_of(p, block_count(p)), run_gradients<decltype(t), true, false>};
  });
}

Work blocks_grad_parameters(const Problem& p) {
  const BlockParts parts(p);
  return with_row_storage(p.dtype, [&](auto t) STN_LAMBDA {
    return Work{p, p.batch * bands_of(p, parts.count()), run_gradients<decltype(t), false, true>, parts.each};
  });
}

Work blocks_gradients(const Problem& p) {
  const BlockParts parts(p);
  if (p.batch < p.threads || !parts.all_at_once()) return {};
  return with_row_storage(
      p.dtype, [&](auto t) STN_LAMBDA { return Work{p, p.batch, run_gradients<decltype(t), true, true>, parts.each}; });
}

}  // namespace stn::STN_LEVEL
