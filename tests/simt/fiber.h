// Switching between stacks: the threads of a block and the scheduler.
#pragma once
#include <cstddef>

#if defined(__x86_64__)  // by hand: swapcontext makes two system calls a switch
using Context = void*;   // the saved stack pointer
extern "C" void simt_switch(Context* save, const Context* load);

inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);
  context = top - 8;  // the six registers that simt_switch pops, then its return address
}
#else
#include <ucontext.h>
using Context = ucontext_t;

inline void simt_switch(Context* save, const Context* load) { swapcontext(save, load); }

inline void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif
