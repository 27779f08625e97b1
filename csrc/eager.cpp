// `stn_kernels._lib._eager`: sampling operators called from Python on plain CPU tensors, without the dispatcher and
// Python's autograd, which cost more than a small call. Of torch's own ABI, unlike the kernels: it serves the torch
// that it was built with. What is not plain, or not right, is left to the operators in Python.
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <dlfcn.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <bit>
#include <optional>

#include "cpu/huge_pages.h"
#include "cpu/images.h"
#include "spline_system.h"

namespace {

using at::Tensor;
using stn::Problem;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;

// The CPU library's, once `bind` has found it.
void (*run_forward)(Problem*, int64_t outputs) = nullptr;
void (*run_gradients)(Problem*, void* grad_parameters) = nullptr;

constexpr int64_t kMostDimensions = 3;
constexpr const char* kTransforms[] = {"affine", "grid", "homography", "tps"};  // as stn::Transform
constexpr const char* kModes[] = {"bilinear", "nearest", "bicubic"};
constexpr const char* kBackends[] = {"cpu"};
constexpr const char* kPaddings[] = {"zeros", "border", "reflection"};

// The operator's arguments but the tensors and the output's size.
struct Call {
  int16_t transform, mode, padding, align_corners;
  bool at_grid() const { return stn::Transform(transform) == stn::Transform::grid; }
  bool is_spline() const { return stn::Transform(transform) == stn::Transform::tps; }
};

// A spline's system, control points (K, n) and solver (K + n + 1, K) in float64, and what it makes of the parameters,
// which are points (B[, S], K, n): coefficients (B[, S], K + n + 1, n). Of another transform undefined.
struct Spline {
  Tensor control_points, solver, coefficients;

  stn::Matrix matrix() const {
    return {solver.const_data_ptr<double>(), solver.size(0), solver.size(1), solver.stride(0), solver.stride(1)};
  }
  static Tensor product(const stn::Matrix& matrix, const Tensor& x, at::ScalarType type) {
    c10::SmallVector<int64_t, 4> shape(x.sizes().begin(), x.sizes().end());
    shape.end()[-2] = matrix.rows;
    Tensor y = at::detail::empty_cpu(shape, type);
    const int64_t n = x.size(-1), items = x.numel() / (matrix.columns * n);
    const auto run = [&](const auto* from, auto* to) {
      n == 2 ? stn::multiply<2>(matrix, from, to, items) : stn::multiply<3>(matrix, from, to, items);
    };
    const auto with = [&](const auto* from) {
      type == at::kDouble ? run(from, y.mutable_data_ptr<double>()) : run(from, y.mutable_data_ptr<float>());
    };
    x.scalar_type() == at::kDouble ? with(x.const_data_ptr<double>()) : with(x.const_data_ptr<float>());
    return y;
  }
  void solve(const Tensor& points) { coefficients = product(matrix(), points, at::kDouble); }
};

// Whether nothing listens to the dispatcher: no mode, transform, trace, autocast or profiler.
bool plain_state() {
  const c10::impl::LocalDispatchKeySet local = c10::impl::tls_local_dispatch_key_set();
  return local.included_ == c10::default_included_set && local.excluded_ == c10::default_excluded_set &&
         !at::impl::torch_function_mode_enabled() && !at::hasCallbacks();
}
bool plain(const Tensor& t) {
  static const c10::DispatchKeySet dense = at::empty({0}).key_set();
  return t.key_set() == dense && !t._fw_grad(0).defined();
}

// Parameters are (B[, S], ...).
bool has_samples(const Call& call, const Tensor& input, const Tensor& parameters) {
  return parameters.dim() > (call.at_grid() ? input.dim() : 3);
}

Problem problem(const Call& call, const Tensor& input, const Tensor& given, const Spline& spline, const int64_t* size) {
  const Tensor& parameters = call.is_spline() ? spline.coefficients : given;
  Problem p = stn::problem_of_images(input, {call.mode, call.padding, call.align_corners != 0});
  stn::set_out_size(p, size);
  p.samples = has_samples(call, input, parameters) ? parameters.size(1) : 1;
  p.transform = stn::Transform(call.transform);
  p.parameters = parameters.const_data_ptr(), p.double_parameters = parameters.scalar_type() == at::kDouble;
  if (call.is_spline())
    p.control_points = spline.control_points.const_data_ptr<double>(), p.controls = spline.control_points.size(0);
  p.threads = at::get_num_threads();
  return p;
}

// Images like others, as the operators give them.
Tensor empty_images(at::IntArrayRef shape, const Tensor& like, bool channels_last) {
  const at::ScalarType type = like.scalar_type();
  const size_t n = size_t(like.dim() - 2);
  Tensor t = channels_last ? at::detail::empty_strided_cpu(shape, stn::channels_last_strides(shape.vec(), n), type)
                           : at::detail::empty_cpu(shape, type);
  stn::prefer_huge_pages(t.mutable_data_ptr(), t.nbytes());
  return t;
}

Tensor run(const Call& call, const Tensor& input, const Tensor& parameters, const Spline& spline, const int64_t* size) {
  Problem p = problem(call, input, parameters, spline, size);
  c10::SmallVector<int64_t, 6> shape{p.batch};
  if (has_samples(call, input, parameters)) shape.push_back(p.samples);
  shape.push_back(p.channels), shape.append(size, size + p.dimensions);
  Tensor output = empty_images(shape, input, p.channels_last);
  p.output = stn::images<void*>(output, p.dimensions);
  run_forward(&p, output.numel());
  return output;
}

// In the layout of images that are channels_last or not.
Tensor with_layout(const Tensor& grad, const Tensor& images, bool channels_last) {
  if (!channels_last) return grad.contiguous();
  if (grad.strides() == at::IntArrayRef(stn::channels_last_strides(grad.sizes().vec(), size_t(images.dim() - 2))))
    return grad;
  return empty_images(grad.sizes(), images, true).copy_(grad);
}

// grad_output is not empty.
std::array<Tensor, 2> gradients(const Call& call, const Tensor& grad_output, const Tensor& input,
                                const Tensor& parameters, const Spline& spline, bool need_input, bool need_parameters) {
  const int n = int(input.dim() - 2);
  Problem p = problem(call, input, parameters, spline, grad_output.sizes().end() - n);
  const Tensor grad = with_layout(grad_output, input, p.channels_last);
  p.grad_output = stn::images<const void*>(grad, n);
  Tensor of_input, of_parameters;
  if (need_input) {
    of_input = empty_images(input.sizes(), input, p.channels_last);
    p.grad_input = stn::images<void*>(of_input, n);
  }
  const Tensor& values = call.is_spline() ? spline.coefficients : parameters;
  if (need_parameters) of_parameters = at::detail::empty_cpu(values.sizes(), values.scalar_type());
  const bool constant = p.mode == stn::Mode::nearest;  // in the coordinates
  if (need_parameters && constant) of_parameters.zero_();
  run_gradients(&p, need_parameters && !constant ? of_parameters.mutable_data_ptr() : nullptr);
  if (need_parameters && call.is_spline())
    of_parameters = Spline::product(spline.matrix().transposed(), of_parameters, parameters.scalar_type());
  return {of_input, of_parameters};
}

// The first gradients where they are differentiated again, or something listens: the operator.
std::array<Tensor, 2> dispatched(const Call& call, const Tensor& grad, const Tensor& input, const Tensor& parameters,
                                 const Spline& spline, bool need_input, bool need_parameters) {
  const std::string name = std::string("stn_kernels::_") + kTransforms[call.transform] + "_sample_backward";
  const c10::OperatorHandle handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  const auto of = [&](const auto&... tensors) {
    using Operator = std::tuple<Tensor, Tensor>(const std::remove_cvref_t<decltype(tensors)>&..., int64_t, int64_t,
                                                bool, bool, bool, bool);
    return handle.typed<Operator>().call(tensors..., call.mode, call.padding, call.align_corners != 0, need_input,
                                         need_parameters, at::globalContext().deterministicAlgorithms());
  };
  if (!call.is_spline()) {
    auto [of_input, of_parameters] = of(grad, input, parameters);
    return {of_input, of_parameters};
  }
  const Tensor coefficients = at::matmul(spline.solver, parameters.to(at::kDouble));
  auto [of_input, of_coefficients] = of(grad, input, coefficients, spline.control_points);
  if (!need_parameters) return {of_input, of_coefficients};
  return {of_input, at::matmul(spline.solver.mT(), of_coefficients).to(parameters.scalar_type())};
}

// The node of a recorded call: a Node, as torch's own operators have, since Function costs as much as the call.
struct SampleBackward : torch::autograd::Node {
  Call call;
  SavedVariable input, parameters;
  Spline spline;

  std::string name() const override { return std::string(kTransforms[call.transform]) + "_sample_backward"; }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    input.reset_data(), parameters.reset_data(), spline = {};
  }
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(2);
    const Tensor& grad = grads[0];
    if (!grad.defined()) return result;
    const Tensor image = input.unpack(), values = parameters.unpack();
    const bool needs[] = {task_should_compute_output(0), task_should_compute_output(1)};
    const bool simple = !at::GradMode::is_enabled() && plain_state() && plain(grad) && plain(image) && plain(values);
    auto of = (simple ? gradients : dispatched)(call, grad, image, values, spline, needs[0], needs[1]);
    for (size_t i = 0; i < 2; ++i) {
      if (needs[i]) result[i] = std::move(of[i]);
    }
    return result;
  }
  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(std::bit_cast<int64_t>(call)), args.collect(input, false), args.collect(parameters, false);
    args.collect(spline.control_points), args.collect(spline.solver);
  }
  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& saved) override {
    saved.before(input), saved.before(parameters);
    saved.before(spline.control_points), saved.before(spline.solver);
    variable_list result = apply(variable_list(grads));
    saved.after(input), saved.after(parameters);
    saved.after(spline.control_points), saved.after(spline.solver);
    return result;
  }
};
template <class N>
auto new_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::make_intrusive<N>();
  } else {  // of an older torch
    return std::shared_ptr<N>(new N, [](auto* node) { deleteNode(node); });
  }
}

Tensor record(const Call& call, const Tensor& input, const Tensor& parameters, const Spline& spline,
              const int64_t* size) {
  auto node = new_node<SampleBackward>();
  node->set_next_edges(torch::autograd::collect_next_edges(input, parameters));
  node->call = call, node->input = {input, false}, node->parameters = {parameters, false}, node->spline = spline;
  Tensor output = run(call, input, parameters, spline, size);
  torch::autograd::set_history(output, node);
  return output;
}

// What is said in `names`, else -1.
template <size_t kCount>
int16_t number_of(PyObject* name, const char* const (&names)[kCount]) {
  if (!PyUnicode_CheckExact(name)) return -1;
  for (size_t i = 0; i < kCount; ++i) {
    if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0) return int16_t(i);
  }
  return -1;
}

// A tuple or list of n positive integers.
bool read_size(PyObject* object, int64_t n, int64_t* size) {
  if ((!PyTuple_Check(object) && !PyList_CheckExact(object)) || PySequence_Fast_GET_SIZE(object) != n) return false;
  for (int64_t a = 0; a < n; ++a) {
    PyObject* extent = PySequence_Fast_ITEMS(object)[a];
    int overflow = 0;
    if (!PyLong_CheckExact(extent)) return false;
    size[a] = PyLong_AsLongLongAndOverflow(extent, &overflow);
    if (overflow || size[a] <= 0 || size[a] > INT32_MAX) return false;
  }
  return true;
}

// What the operators' checks in Python let pass, but for one image under a batch, parameters that are converted first,
// and nothing to do.
bool fit(const Call& call, const Tensor& input, const Tensor& parameters, const Spline& spline) {
  const at::ScalarType image = input.scalar_type(), type = parameters.scalar_type();
  const int64_t n = input.dim() - 2, lead = parameters.dim() - (call.at_grid() ? n + 1 : 2);
  const bool homography = stn::Transform(call.transform) == stn::Transform::homography;
  if (n < 1 || n > kMostDimensions || (homography && n != 2) || (lead != 1 && lead != 2)) return false;
  if (image != at::kFloat && image != at::kDouble && image != at::kBFloat16 && image != at::kHalf) return false;
  if ((type != at::kFloat && type != at::kDouble) || !parameters.is_contiguous()) return false;
  if (parameters.size(0) != input.size(0) || input.numel() == 0 || parameters.numel() == 0) return false;
  if (call.at_grid()) return parameters.size(-1) == n;
  if (call.is_spline()) {
    const Tensor &control_points = spline.control_points, &solver = spline.solver;
    return n > 1 && control_points.dim() == 2 && control_points.scalar_type() == at::kDouble && solver.dim() == 2 &&
           solver.scalar_type() == at::kDouble && control_points.is_contiguous() && control_points.size(1) == n &&
           parameters.size(-1) == n && parameters.size(-2) == control_points.size(0) &&
           solver.size(1) == control_points.size(0) && solver.size(0) == solver.size(1) + n + 1;
  }
  return parameters.size(-2) == (homography ? 3 : n) && parameters.size(-1) == (homography ? 3 : n + 1);
}

// Whether this thread asks for another backend.
thread_local bool elsewhere = false;

// sample(transform, input, parameters, size or None, mode, padding_mode, align_corners, backend[, control points,
// solver of a spline]) -> the result, or None for what is left to the operator.
PyObject* sample(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if ((count != 8 && count != 10) || !run_forward || !THPVariable_CheckExact(args[1]) ||
      !THPVariable_CheckExact(args[2]))
    Py_RETURN_NONE;
  if (args[7] == Py_None ? elsewhere : number_of(args[7], kBackends) < 0) Py_RETURN_NONE;
  const int16_t flag = args[6] == Py_True ? 1 : args[6] == Py_False ? 0 : -1;
  const Call call{number_of(args[0], kTransforms), number_of(args[4], kModes), number_of(args[5], kPaddings), flag};
  if (call.transform < 0 || call.mode < 0 || call.padding < 0 || flag < 0 || !plain_state()) Py_RETURN_NONE;
  const Tensor &input = THPVariable_Unpack(args[1]), &parameters = THPVariable_Unpack(args[2]);
  Spline spline;
  if (call.is_spline() != (count == 10)) Py_RETURN_NONE;
  if (call.is_spline()) {
    if (!THPVariable_CheckExact(args[8]) || !THPVariable_CheckExact(args[9])) Py_RETURN_NONE;
    spline = {THPVariable_Unpack(args[8]), THPVariable_Unpack(args[9]), {}};
    if (!plain(spline.control_points) || !plain(spline.solver)) Py_RETURN_NONE;
  }
  if (!plain(input) || !plain(parameters) || !fit(call, input, parameters, spline)) Py_RETURN_NONE;
  const int64_t n = input.dim() - 2;
  int64_t size[kMostDimensions];
  if (call.at_grid()) {
    std::copy_n(parameters.sizes().end() - 1 - n, n, size);
  } else if (!read_size(args[3], n, size)) {
    Py_RETURN_NONE;
  }
  // Letting other threads of Python run costs a tenth of a small call.
  constexpr int64_t kShort = 1 << 12;  // elements
  const int64_t items = parameters.size(0) * (has_samples(call, input, parameters) ? parameters.size(1) : 1);
  const int64_t outputs = items * input.size(1) * c10::multiply_integers(size, size + n);
  std::optional<pybind11::gil_scoped_release> release;
  if (input.numel() + outputs > kShort) release.emplace();
  if (call.is_spline()) spline.solve(parameters);
  const bool recorded = at::GradMode::is_enabled() && (input.requires_grad() || parameters.requires_grad());
  Tensor output = (recorded ? record : run)(call, input, parameters, spline, size);
  release.reset();
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

// leave(whether calls of this thread that name no backend are for another one).
PyObject* leave(PyObject*, PyObject* flag) {
  elsewhere = flag == Py_True;
  Py_RETURN_NONE;
}

// bind(path of the CPU library, which is loaded) -> whether it has what is needed.
PyObject* bind(PyObject*, PyObject* path) {
  const char* name = PyUnicode_AsUTF8(path);
  if (!name) return nullptr;
  void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (!library) Py_RETURN_FALSE;
  const auto bytes = reinterpret_cast<size_t (*)()>(dlsym(library, "stn_kernels_problem_bytes"));
  if (!bytes || bytes() != sizeof(Problem)) Py_RETURN_FALSE;  // of another build
  run_forward = reinterpret_cast<decltype(run_forward)>(dlsym(library, "stn_kernels_forward"));
  run_gradients = reinterpret_cast<decltype(run_gradients)>(dlsym(library, "stn_kernels_gradients"));
  Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"sample", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(sample)), METH_FASTCALL, nullptr},
    {"leave", leave, METH_O, nullptr},
    {"bind", bind, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_eager", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__eager() {
  PyObject* module = PyModule_Create(&definition);
  if (module) PyModule_AddStringConstant(module, "TORCH", STN_TORCH);
  return module;
}
