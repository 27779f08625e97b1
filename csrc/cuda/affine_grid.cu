#include "affine_grid.cuh"
#include "affine_grid.h"

namespace stn {
namespace {

Work work_of(int64_t out_height, int64_t out_width) {
  Work work{};
  work.out_height = int(out_height);
  work.out_width = int(out_width);
  work.samples = 1;
  work.splits = 1;
  return work;
}

template <class T>
void forward(const Tensor& theta, const Tensor& grid, int64_t images, const Work& work, bool align_corners) {
  const Device device(theta);
  launch_tiles<GridAccess>(work, images, work.out_width, work.out_height, [&](dim3 blocks, const Work& now) {
    simt::launch(affine_grid_kernel<T>, blocks, dim3(kThreads), 0, device.stream, data<T>(theta), data<T>(grid),
                 centred_lattice<T>(work.out_width, align_corners), centred_lattice<T>(work.out_height, align_corners),
                 now);
  });
}

template <class T>
void backward(const Tensor& grad, const Tensor& result, int64_t images, const Work& work, bool align_corners) {
  const Device device(grad);
  // Coordinates stay normalized: the output alone counts.
  AffineTransform<T> transform{};
  transform.u = centred_lattice<T>(work.out_width, align_corners);
  transform.v = centred_lattice<T>(work.out_height, align_corners);
  Tensor partial;
  int64_t blocks_each = 0;
  launch_tiles<GridAccess>(work, images, work.out_width, work.out_height, [&](dim3 blocks, const Work& now) {
    blocks_each = blocks_of_image(blocks, now);
    if (now.first == 0) partial = torch::stable::new_empty(grad, {images * blocks_each * kSums});
    simt::launch(affine_grid_backward_kernel<T>, blocks, dim3(kThreads), 0, device.stream, data<T>(grad),
                 data<T>(partial), transform, now);
  });
  simt::launch(sum_partials_kernel<T>, dim3(unsigned(images)), dim3(32), 0, device.stream, data<T>(partial),
               data<T>(result), blocks_each, T(1), T(1));
}

}  // namespace

Tensor affine_grid(const Tensor& theta, const std::vector<int64_t>& size, bool align_corners) {
  const bool wide = theta.scalar_type() == ScalarType::Double;
  const Tensor matrices = coordinates(theta, wide ? ScalarType::Double : ScalarType::Float);
  std::vector<int64_t> shape = shape_of(theta);
  shape.resize(shape.size() - 2);
  shape.insert(shape.end(), {size[0], size[1], 2});
  const Tensor grid = torch::stable::new_empty(matrices, shape);
  if (grid.numel() == 0) return grid;
  const int64_t images = theta.numel() / kSums;
  const Work work = work_of(size[0], size[1]);
  (wide ? forward<double> : forward<float>)(matrices, grid, images, work, align_corners);
  return grid;
}

Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners) {
  const ScalarType dtype = grad_output.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float,
                  "_affine_grid_backward takes float32 or float64");
  std::vector<int64_t> shape = shape_of(grad_output);
  const int64_t out_width = shape[shape.size() - 2], out_height = shape[shape.size() - 3];
  shape.resize(shape.size() - 3);
  shape.insert(shape.end(), {2, 3});
  if (grad_output.numel() == 0) return torch::stable::new_zeros(grad_output, shape);
  const Tensor grad = coordinates(grad_output, dtype);
  const Tensor result = torch::stable::new_empty(grad, shape);
  (dtype == ScalarType::Double ? backward<double> : backward<float>)(grad, result, result.numel() / kSums,
                                                                     work_of(out_height, out_width), align_corners);
  return result;
}

}  // namespace stn
