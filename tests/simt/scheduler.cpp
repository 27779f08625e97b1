// Runs the blocks of a launch one after another, each thread of a block as a fiber.
// SIMT_SEED=0: blocks and threads in ascending order; n: an order drawn anew at every step.
#include "scheduler.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "fiber.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ON_ASAN(...) __VA_ARGS__
#else
#define ON_ASAN(...)
#endif

#if defined(__x86_64__)
asm(R"(.text
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi); mov (%rsi), %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret)");
#endif

namespace simt {
namespace {

constexpr size_t kStack = 256 << 10, kGuard = 4096, kMaxThreads = 1024;
constexpr int kPoison = 0xff;  // what shared memory holds before it is written: NaN
const char* const kMeetingNames[] = {"__shfl_sync",     "__shfl_up_sync", "__shfl_down_sync",
                                     "__shfl_xor_sync", "vote",           "__syncwarp"};

struct Rendezvous {
  Meeting kind;
  unsigned mask, arrived = 0;
  uint64_t value[32] = {};
};
enum class State { ready, at_barrier, at_meeting, done };
struct Thread {
  Context context;
  uint3 index;
  unsigned id;
  State state;
  const char* file;
  int line;
  std::shared_ptr<Rendezvous> meeting;
  unsigned warp_epoch;
  void* fake_stack;
};

Thread threads[kMaxThreads];
Thread* self;  // null outside kernels
Context scheduler;
[[maybe_unused]] void* scheduler_fake_stack;
[[maybe_unused]] const void* scheduler_stack;
[[maybe_unused]] size_t scheduler_stack_size;
const std::function<void()>* body;
unsigned count, epoch, block_id, launch_id;
std::map<std::pair<unsigned, unsigned>, std::shared_ptr<Rendezvous>> open_meetings;  // by warp and mask
void* dynamic_memory;
size_t dynamic_size;
std::string error;
char* stacks;
std::mt19937 rng;

// __shared__ variables are this library's only thread_locals, so its TLS block is the static shared memory.
thread_local char anchor;
struct {
  char* begin = nullptr;
  size_t size = 0;
} static_memory;

void find_static_memory() {
  asm volatile("" : : "r"(&anchor) : "memory");  // has the block allocated
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void*) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& header = object->dlpi_phdr[i];
          char* data = static_cast<char*>(object->dlpi_tls_data);
          if (header.p_type == PT_TLS && data && &anchor >= data && &anchor < data + header.p_memsz) {
            static_memory = {data, header.p_memsz};
            return 1;
          }
        }
        return 0;
      },
      nullptr);
}

char* stack_of(unsigned i) { return stacks + i * (kStack + kGuard) + kGuard; }

void allocate_stacks() {
  const size_t size = kMaxThreads * (kStack + kGuard);
  if (!stacks) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no memory for the stacks");
    stacks = static_cast<char*>(memory);
    for (unsigned i = 0; i < kMaxThreads; ++i) mprotect(stack_of(i) - kGuard, kGuard, PROT_NONE);
  }
  ON_ASAN(__asan_unpoison_memory_region(stacks, size);)
}

std::string where(const Thread& t) {
  return "block " + std::to_string(block_id) + " thread " + std::to_string(t.id) + " at " + t.file + ":" +
         std::to_string(t.line);
}

void to_scheduler(bool last = false) {
  Thread* me = self;
  ON_ASAN(__sanitizer_start_switch_fiber(last ? nullptr : &me->fake_stack, scheduler_stack, scheduler_stack_size);)
  simt_switch(&me->context, &scheduler);
  ON_ASAN(__sanitizer_finish_switch_fiber(me->fake_stack, &scheduler_stack, &scheduler_stack_size);)
  (void)last;
}

void resume(Thread& t) {
  self = &t;
  threadIdx = t.index;
  ON_ASAN(__sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_of(t.id), kStack);)
  simt_switch(&scheduler, &t.context);
  ON_ASAN(__sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);)
  self = nullptr;
}

void entry() {
  ON_ASAN(__sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);)
  (*body)();
  self->state = State::done;
  to_scheduler(true);
}

void start_threads(dim3 block) {
  count = block.x * block.y * block.z;
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = threads[i];
    t.id = i;
    t.state = State::ready;
    t.file = "?";
    t.line = 0;
    t.warp_epoch = 0;
    t.meeting.reset();
    t.index.x = i % block.x;
    t.index.y = i / block.x % block.y;
    t.index.z = i / block.x / block.y;
    prepare(t.context, stack_of(i), kStack, entry);
  }
}

// All threads wait: true if the block is finished, false if they pass a barrier together, an error otherwise.
bool finished_or_at_barrier() {
  Thread *first = nullptr, *done = nullptr;
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = threads[i];
    if (t.state == State::done) {
      done = &t;
      continue;
    }
    if (t.state == State::at_meeting)
      throw std::runtime_error(std::string("simt: deadlock: ") + kMeetingNames[t.meeting->kind] +
                               " waits for a lane of its mask that went elsewhere or returned: " + where(t));
    if (!first) first = &t;
    if (t.line != first->line || std::strcmp(t.file, first->file))
      throw std::runtime_error("simt: divergent __syncthreads: " + where(*first) + " and " + where(t));
  }
  if (first && done)
    throw std::runtime_error("simt: thread " + std::to_string(done->id) + " returned before the __syncthreads of " +
                             where(*first));
  return !first;
}

void run_block(dim3 block, size_t shared_bytes, bool shuffled) {
  std::vector<unsigned char> dynamic(shared_bytes, kPoison);  // the exact size: ASan sees its end
  dynamic_memory = dynamic.data();
  dynamic_size = shared_bytes;
  std::memset(static_memory.begin, kPoison, static_memory.size);
  open_meetings.clear();
  epoch = 0;
  start_threads(block);
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = i;
  for (;;) {
    if (shuffled) std::shuffle(order.begin(), order.end(), rng);
    bool ran = false;
    for (unsigned i : order)
      if (threads[i].state == State::ready && error.empty()) {
        resume(threads[i]);
        ran = true;
      }
    if (!error.empty()) throw std::runtime_error("simt: " + error);
    if (ran) continue;
    if (finished_or_at_barrier()) return;
    ++epoch;
    for (unsigned i = 0; i < count; ++i) threads[i].state = State::ready;
  }
}

void check_configuration(dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z, size = uint64_t(block.x) * block.y * block.z;
  if (!blocks || !size || size > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535 || shared_bytes > 227 * 1024)
    throw std::runtime_error("simt: invalid launch configuration");
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  check_configuration(grid, block, shared_bytes);
  allocate_stacks();
  find_static_memory();
  const char* variable = std::getenv("SIMT_SEED");
  const unsigned seed = variable ? unsigned(std::atoi(variable)) : 0;
  rng.seed(seed);
  error.clear();
  ++launch_id;
  body = &thread;
  gridDim = grid;
  blockDim = block;
  std::vector<unsigned> order(size_t(grid.x) * grid.y * grid.z);
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  if (seed) std::shuffle(order.begin(), order.end(), rng);
  for (unsigned i : order) {
    block_id = i;
    blockIdx.x = i % grid.x;
    blockIdx.y = i / grid.x % grid.y;
    blockIdx.z = i / grid.x / grid.y;
    run_block(block, shared_bytes, seed != 0);
  }
}

void* dynamic_shared() { return dynamic_memory; }
int lane() { return int(self->id % 32); }

bool in_kernel() { return self && error.empty(); }
Now now() { return {launch_id, block_id, self->id, epoch, self->warp_epoch}; }
bool is_stack(const void* address) { return uintptr_t(address) - uintptr_t(stacks) < kMaxThreads * (kStack + kGuard); }
bool is_shared(const void* address) {
  return uintptr_t(address) - uintptr_t(static_memory.begin) < static_memory.size ||
         uintptr_t(address) - uintptr_t(dynamic_memory) < dynamic_size;
}

void fail(const std::string& what) {
  if (error.empty()) error = what;
  for (;;) to_scheduler();  // never resumed
}

void barrier(const char* file, int line) {
  self->state = State::at_barrier;
  self->file = file;
  self->line = line;
  to_scheduler();
}

const uint64_t* meet(Meeting kind, unsigned mask, uint64_t value, const char* file, int line) {
  Thread& t = *self;
  const unsigned warp = t.id / 32, lanes = std::min(count - warp * 32, 32u);
  const unsigned existing = lanes == 32 ? ~0u : (1u << lanes) - 1;
  t.file = file;
  t.line = line;
  const std::string name = kMeetingNames[kind];
  if (!(mask >> lane() & 1)) fail("a lane that is not in its own mask calls " + name + ": " + where(t));
  if (mask & ~existing && mask != ~0u) fail("mask names lanes the block does not have: " + where(t));
  mask &= existing;  // a full mask in a partial last warp is tolerated, as on the device
  auto& slot = open_meetings[{warp, mask}];
  if (!slot) {
    slot = std::make_shared<Rendezvous>(Rendezvous{kind, mask});
    if (kind < kVote) std::memset(slot->value, kPoison, sizeof slot->value);  // for lanes that do not exist
  }
  const auto rendezvous = t.meeting = slot;
  if (rendezvous->kind != kind) fail(name + " meets " + kMeetingNames[rendezvous->kind] + ": " + where(t));
  rendezvous->value[lane()] = value;
  rendezvous->arrived |= 1u << lane();
  if (rendezvous->arrived != mask) {
    t.state = State::at_meeting;
    to_scheduler();
    return rendezvous->value;
  }
  open_meetings.erase({warp, mask});
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1) {
      threads[warp * 32 + i].state = State::ready;
      threads[warp * 32 + i].warp_epoch += kind == kSyncwarp && mask == existing;
    }
  return rendezvous->value;
}

}  // namespace simt
