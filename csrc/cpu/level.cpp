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

const Kernels& choose() {
#define STN_ADDRESS(level) &stn_kernels_##level,
  const Kernels* const all[] = {STN_LEVELS(STN_ADDRESS)};  // in rising order
  const char* wanted = std::getenv("STN_KERNELS_CPU_LEVEL");
  const Kernels* best = nullptr;
  std::string names;
  for (const Kernels* k : all) {
    if (!supported(k->level)) continue;
    names += std::string(names.empty() ? "" : ", ") + k->level;
    if (!wanted || !*wanted || !std::strcmp(wanted, k->level)) best = k;
  }
  if (!best) {
    throw std::runtime_error("STN_KERNELS_CPU_LEVEL must be one of " + names + " on this processor, got " +
                             std::string(wanted));
  }
  return *best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace stn
