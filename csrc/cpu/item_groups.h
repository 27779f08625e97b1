// The passes of transforms in two dimensions that are neither affine nor a grid. A task takes a group of items through
// its output rows, row by row, so that they share what does not depend on the item.
#pragma once
#include <vector>

#include "gradient_band.h"
#include "grid_passes.h"
#include "passes.h"
#include "samplers.h"
#include "tile_passes.h"

namespace stn::STN_LEVEL {

// The items of a call in groups, and the output's rows in blocks: a fixed partition, as far as sums go, so that results
// do not depend on the number of threads. A group has few enough items that their rows stay in the cache and that all
// threads have some.
struct Groups {
  int64_t items, size, count, rows, blocks;
  STN_INLINE explicit Groups(const Problem& p) : Groups(p, p.items(), 64, row_blocks(p.out_height)) {}
  // parts: the tasks of one group.
  STN_INLINE Groups(const Problem& p, int64_t number, int64_t most, int64_t parts)
      : items(number), rows(p.out_height), blocks(row_blocks(rows)) {
    const int64_t row = maximum<int64_t>(1, p.channels * maximum(p.width, p.out_width));
    most = minimum(minimum(most, 65536 / row), (items * parts + p.threads - 1) / p.threads);
    size = p.transform != Transform::tps ? 1 : maximum<int64_t>(1, most);
    count = (items + size - 1) / size;
  }

  // Calls body(first item, last item, block, first row, last row) for tasks [begin, end) of groups x row blocks.
  template <class Body>
  STN_INLINE void over(int64_t begin, int64_t end, Body body) const {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t item = task / blocks * size, block = task % blocks, first = block * kRowBlock;
      body(item, minimum(item + size, items), block, first, block + 1 < blocks ? first + kRowBlock : rows);
    }
  }
};

// Rows of which a task keeps the radial functions: several only where blocks of channels ask for them again.
STN_INLINE int64_t basis_rows(const Problem& p) {
  if (p.channels <= shared_channels(p)) return 1;
  return maximum<int64_t>(1, minimum<int64_t>(kRowBlock, 32768 / maximum<int64_t>(1, p.out_width * p.controls)));
}

// Calls body(source, first row, last row) for the items of a group, a few rows at a time.
template <class Body>
STN_INLINE void over_rows_of_items(const Problem& p, int64_t first_item, int64_t last_item, int64_t row_begin,
                                   int64_t row_end, Body body) {
  if (p.transform != Transform::tps) {
    for (int64_t item = first_item; item < last_item; ++item) body(Source(p, item), row_begin, row_end);
    return;
  }
  TpsBasis basis(p, basis_rows(p));
  for (int64_t v = row_begin; v < row_end; v += basis.rows) {
    const int64_t last = minimum(v + basis.rows, row_end);
    for (int64_t item = first_item; item < last_item; ++item) body(Source(p, item, &basis), v, last);
  }
}

inline void group_forward(const Problem& p, int64_t begin, int64_t end) {
  Groups(p).over(begin, end, [&](int64_t first, int64_t last, int64_t, int64_t top, int64_t bottom) STN_LAMBDA {
    over_rows_of_items(p, first, last, top, bottom, [&](const Source& source, int64_t v, int64_t end_v) STN_LAMBDA {
      rows_forward_of(p)(p, source, v, end_v);
    });
  });
}

template <class Row>
void group_grid(const Problem& p, int64_t begin, int64_t end) {
  Groups(p).over(begin, end, [&](int64_t first, int64_t last, int64_t, int64_t top, int64_t bottom) STN_LAMBDA {
    over_rows_of_items(p, first, last, top, bottom, [&](const Source& source, int64_t v, int64_t end_v) STN_LAMBDA {
      rows_grid<Row>(source, v, end_v);
    });
  });
}

// The shares of a row block, [top, bottom), in the sums of the items [first, last): add(source, first row, last row,
// total) adds what some rows give.
template <class Sums, class Add>
STN_INLINE void sum_items(const Problem& p, int64_t first, int64_t last, int64_t block, int64_t top, int64_t bottom,
                          Add add) {
  std::vector<Sums> totals;
  totals.reserve(size_t(last - first));
  for (int64_t item = first; item < last; ++item) totals.emplace_back(p);
  over_rows_of_items(p, first, last, top, bottom, [&](const Source& source, int64_t v, int64_t end_v) STN_LAMBDA {
    add(source, v, end_v, totals[size_t(source.item - first)]);
  });
  for (int64_t item = first; item < last; ++item) {
    totals[size_t(item - first)].finish(Source(p, item),
                                        p.sums + (item * row_blocks(p.out_height) + block) * p.parameter_count());
  }
}

template <class Sums, class Add>
STN_INLINE void sum_groups(const Problem& p, int64_t begin, int64_t end, Add add) {
  Groups(p).over(begin, end, [&](int64_t first, int64_t last, int64_t block, int64_t top, int64_t bottom) STN_LAMBDA {
    sum_items<Sums>(p, first, last, block, top, bottom, add);
  });
}

template <class Sums>
void group_parameter_sums(const Problem& p, int64_t begin, int64_t end) {
  sum_groups<Sums>(p, begin, end, [&](const Source& source, int64_t v, int64_t end_v, Sums& total) STN_LAMBDA {
    rows_parameter_sums(p, source, v, end_v, total);
  });
}

template <class Sums>
void group_grid_sums(const Problem& p, int64_t begin, int64_t end) {
  sum_groups<Sums>(p, begin, end, [&](const Source& source, int64_t v, int64_t end_v, Sums& total) STN_LAMBDA {
    rows_grid_sums<Sums>(source, v, end_v, total);
  });
}

// Groups of images for the input gradient: as many as a few MB hold the points of, placed row by row of all and then
// added up image by image. Tasks are groups x bands of rows of the input.
STN_INLINE Groups image_groups(const Problem& p) {
  const int64_t points = maximum<int64_t>(1, p.samples * p.out_height * p.out_width);
  return Groups(p, p.batch, minimum<int64_t>(16, (1 << 18) / points), 1);
}
STN_INLINE int64_t image_bands(const Problem& p) { return bands_of(p, image_groups(p).count); }

// Places the points of items as runs by tiles, where there are any.
class RunPlacer {
  const Problem& p;
  const int64_t most_items;
  ItemStrips* strips = nullptr;  // once they are needed

 public:
  STN_INLINE RunPlacer(const Problem& problem, int64_t items) : p(problem), most_items(items) {}
  STN_INLINE ~RunPlacer() {
    if constexpr (kHasTiles) {
      if (strips) delete_item_strips(strips);
    }
  }
  RunPlacer(const RunPlacer&) = delete;
  STN_INLINE bool possible() const {
    if constexpr (kHasTiles) return has_placed_runs(p);
    return false;
  }
  STN_INLINE void place(int64_t first, int64_t last, int64_t top, int64_t bottom, Run<float>* runs) {
    if constexpr (kHasTiles) {
      if (!strips) strips = new_item_strips(p, most_items);
      place_item_runs(*strips, first, last, top, bottom, runs);
    }
  }
};

// The points of some items, placed row by row of all of them.
struct ItemRuns {
  static constexpr int64_t kPoints = Run<float>::kPoints;
  const Problem& p;
  const int64_t per_row, per_item;
  int64_t first_item = 0;
  const Scratch<Run<float>> runs;
  RunPlacer placer;
  STN_INLINE ItemRuns(const Problem& problem, int64_t most_items)
      : p(problem),
        per_row((p.out_width + kPoints - 1) / kPoints),
        per_item(p.out_height * per_row),
        runs(most_items * per_item + 1, uninitialized),
        placer(problem, maximum<int64_t>(1, most_items)) {}
  STN_INLINE Run<float>* row(int64_t item, int64_t v) const {
    return runs.data + (item - first_item) * per_item + v * per_row;
  }
  void place(int64_t first, int64_t last) {
    first_item = first;
    if (placer.possible()) return placer.place(first, last, 0, p.out_height, runs.data);
    const Locate<float> locate = locator<float>(p);
    over_rows_of_items(p, first, last, 0, p.out_height,
                       [&](const Source& source, int64_t begin, int64_t end) STN_LAMBDA {
                         for (int64_t v = begin; v < end; ++v) {
                           Run<float>* run = row(source.item, v);
                           for (int64_t u = 0; u < p.out_width; u += kPoints)
                             locate(source, v, u, minimum(kPoints, p.out_width - u), *run++);
                         }
                       });
  }
};

inline void group_grad_input(const Problem& p, int64_t begin, int64_t end) {
  constexpr int64_t kPoints = Run<float>::kPoints;
  const Groups groups = image_groups(p);
  const int64_t bands = image_bands(p), step = scattered_channels(p);
  // Else placed where they are used: some rows at a time, or run by run.
  const bool kept = groups.size > 1 || step < p.channels;
  constexpr int64_t kRows = 16, kFewest = 4;
  ItemRuns placed(p, kept ? groups.size * p.samples : 0);
  const int64_t per_row = placed.per_row;
  const Scratch<Run<float>> runs(kept ? 1 : (kRows + kFewest) * per_row, uninitialized);
  const auto add_row = [&](GradientBand& band, int64_t item, int64_t v, const Run<float>* run) STN_LAMBDA {
    for (int64_t u = 0; u < p.out_width; u += kPoints) band.add_run(item, v, u, *run++);
  };
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b0 = task / bands * groups.size, b1 = minimum(b0 + groups.size, p.batch);
    const int64_t first = p.height * (task % bands) / bands, last = p.height * (task % bands + 1) / bands;
    if (kept) placed.place(b0 * p.samples, b1 * p.samples);
    for (int64_t b = b0; b < b1; ++b) {
      for (int64_t c = 0; c < p.channels; c += step) {
        GradientBand band(p, b, c, minimum(step, p.channels - c), first, last);
        for (int64_t item = b * p.samples; item < (b + 1) * p.samples; ++item) {
          if (kept) {
            for (int64_t v = 0; v < p.out_height; ++v) add_row(band, item, v, placed.row(item, v));
          } else if (placed.placer.possible()) {
            for (int64_t top = 0, bottom; top < p.out_height; top = bottom) {
              bottom = p.out_height - top < kRows + kFewest ? p.out_height : top + kRows;
              placed.placer.place(item, item + 1, top, bottom, runs.data);
              for (int64_t v = top; v < bottom; ++v) add_row(band, item, v, runs.data + (v - top) * per_row);
            }
          } else {
            band.add(Source(p, item), 0, p.out_height);
          }
        }
        band.finish();
      }
    }
  }
}

}  // namespace stn::STN_LEVEL
