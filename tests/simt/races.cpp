// The race detector: kernels are compiled with -fsanitize=thread but linked without libtsan, so that the compiler's
// __tsan_* calls land here. Two accesses to a byte by different threads, one of them a write, not both atomic, must
// have between them a __syncthreads of their block or a full __syncwarp of their warp.
// SIMT_RACES=1 turns it on.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "scheduler.h"

namespace simt {
namespace {

const bool watching = std::getenv("SIMT_RACES") != nullptr;

enum Kind : uint8_t { kRead = 0, kWrite = 1, kAtomic = 2 };
const char* const kKindNames[] = {"read", "write", "atomic"};

struct Access {
  Now at;
  uint8_t bytes;  // of the word
  Kind kind;
};
struct Word {
  Access last[4];  // launch 0: empty
  unsigned next = 0;
};
std::unordered_map<uintptr_t, Word> shadow;  // by address / 8

bool same_thread(const Now& a, const Now& b) { return a.block == b.block && a.thread == b.thread; }

bool ordered(const Now& a, const Now& b) {
  if (same_thread(a, b)) return true;
  if (a.block != b.block) return false;
  return a.epoch != b.epoch || (a.thread / 32 == b.thread / 32 && a.warp_epoch != b.warp_epoch);
}

[[noreturn]] void report(const Access& before, const Access& after, bool shared, const void* pc) {
  Dl_info library{};
  dladdr(pc, &library);
  char text[400];
  snprintf(text, sizeof text,
           "data race on %s memory: %s by block %u thread %u, then %s by block %u thread %u; addr2line -Cfie %s %#zx",
           shared ? "shared" : "global", kKindNames[before.kind], before.at.block, before.at.thread,
           kKindNames[after.kind], after.at.block, after.at.thread, library.dli_fname,
           size_t(pc) - size_t(library.dli_fbase) - 1);
  fail(text);
}

void record(const void* address, size_t size, Kind kind, const void* pc) {
  const uintptr_t begin = uintptr_t(address), end = begin + size;
  const bool shared = is_shared(address);
  for (uintptr_t index = begin >> 3; index <= (end - 1) >> 3; ++index) {
    uint8_t bytes = 0;
    for (unsigned i = 0; i < 8; ++i) bytes |= ((index << 3) + i >= begin && (index << 3) + i < end) << i;
    const Access access{now(), bytes, kind};
    Word& word = shadow[index];
    Access* place = nullptr;
    for (Access& old : word.last) {
      if (old.at.launch != access.at.launch || (shared && old.at.block != access.at.block)) {
        old.at.launch = 0;
        if (!place) place = &old;
        continue;
      }
      const bool conflicting = (old.bytes & bytes) && old.kind + kind != 0 && !(old.kind == kAtomic && kind == kAtomic);
      if (conflicting && !ordered(old.at, access.at)) report(old, access, shared, pc);
      if (same_thread(old.at, access.at) && old.kind == kind && old.bytes == bytes) place = &old;
    }
    *(place ? place : &word.last[word.next++ % 4]) = access;
  }
}

inline void touch(const void* address, size_t size, Kind kind, const void* pc) {
  if (watching && in_kernel() && !is_stack(address)) record(address, size, kind, pc);
}

}  // namespace

void touch_atomic(const void* address, size_t size, const void* pc) { touch(address, size, kAtomic, pc); }

#define HOOK extern "C" __attribute__((visibility("hidden"))) void
#define PC __builtin_return_address(0)
#define HOOKS(n)                                                     \
  HOOK __tsan_read##n(void* p) { touch(p, n, kRead, PC); }           \
  HOOK __tsan_write##n(void* p) { touch(p, n, kWrite, PC); }         \
  HOOK __tsan_unaligned_read##n(void* p) { touch(p, n, kRead, PC); } \
  HOOK __tsan_unaligned_write##n(void* p) { touch(p, n, kWrite, PC); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16) HOOK __tsan_read_range(void* p, size_t n) {
  if (n) touch(p, n, kRead, PC);
}
HOOK __tsan_write_range(void* p, size_t n) {
  if (n) touch(p, n, kWrite, PC);
}
HOOK __tsan_init() {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit() {}
HOOK __tsan_vptr_update(void**, void*) {}
HOOK __tsan_vptr_read(void**) {}
// Reference counts in the operators' host code.
extern "C" __attribute__((visibility("hidden"))) int __tsan_atomic32_fetch_add(volatile int* p, int v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}

}  // namespace simt
