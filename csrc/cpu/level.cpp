#include "level.h"

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#define STN_DECLARE(level) extern const stn::Kernels stn_kernels_##level;
STN_LEVELS(STN_DECLARE)

namespace stn {
namespace {

bool supported(const char* level) {
#if defined(__x86_64__)
  if (!std::strcmp(level, "v4")) return __builtin_cpu_supports("x86-64-v4");
  if (!std::strcmp(level, "v3")) return __builtin_cpu_supports("x86-64-v3");
#endif
  return level != nullptr;
}

struct Choice {
  const Kernels *best, *float64;
};

Choice choose() {
#define STN_ADDRESS(level) &stn_kernels_##level,
  const Kernels* const all[] = {STN_LEVELS(STN_ADDRESS)};  // in rising order
  const char* wanted = std::getenv("STN_KERNELS_CPU_LEVEL");
  Choice choice{};
  const Kernels* float64 = nullptr;
  std::string names;
  for (const Kernels* k : all) {
    if (!supported(k->level)) continue;
    names += std::string(names.empty() ? "" : ", ") + k->level;
    if (k->has_float64) float64 = k;
    if (!wanted || !*wanted || !std::strcmp(wanted, k->level)) choice = {k, float64};
  }
  if (!choice.best) {
    throw std::runtime_error("STN_KERNELS_CPU_LEVEL must be one of " + names + " on this processor, got " +
                             std::string(wanted));
  }
  return choice;
}

}  // namespace

const Kernels& kernels(bool float64) {
  static const Choice chosen = choose();
  return float64 ? *chosen.float64 : *chosen.best;
}

}  // namespace stn
