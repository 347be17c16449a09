// A stack of one's own and the switch between two of them: what a CUDA thread of the shim runs on. swapcontext makes
// two system calls; on x86-64 this one is a dozen instructions. The sanitizers are told where they are there.
#pragma once

#include <cstddef>
#include <cstdint>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "kernels/version.h"

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_bottom, size_t* old_size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
}

#if defined(__x86_64__)
// Saves what a callee must keep, and the stack pointer at *from. Weak: one is enough.
extern "C" void quantplug_shim_switch(void** from, void* to);
asm(".text\n"
    ".weak quantplug_shim_switch\n"
    ".hidden quantplug_shim_switch\n"
    ".type quantplug_shim_switch,@function\n"
    "quantplug_shim_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size quantplug_shim_switch, .-quantplug_shim_switch\n");
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace simt {

class Fiber {
 public:
    Fiber() = default;
    ~Fiber() {
        if (own_tsan_) __tsan_destroy_fiber(tsan_);
    }
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    /// The first switch to it calls `entry`, which calls arrived() first and never returns. Bottom and size: multiples
    /// of 16.
    void make(unsigned char* bottom, size_t size, void (*entry)()) {
        bottom_ = bottom;
        size_ = size;
#if defined(__x86_64__)
        void** top = reinterpret_cast<void**>(bottom + size) - 2;
        top[0] = reinterpret_cast<void*>(entry);
        stack_pointer_ = top - 6;  // of what the switch pops
#else
        getcontext(&context_);
        context_.uc_stack.ss_sp = bottom;
        context_.uc_stack.ss_size = size;
        context_.uc_link = nullptr;
        makecontext(&context_, entry, 0);
#endif
        own_tsan_ = __tsan_create_fiber != nullptr;
        if (own_tsan_) tsan_ = __tsan_create_fiber(0);
    }
    /// This one is the thread's own stack, whose place the first fiber to arrive finds out.
    void leave_host_to(Fiber& to) {
        if (__tsan_get_current_fiber) tsan_ = __tsan_get_current_fiber();
        left_host = this;
        switch_to(to);
    }
    void switch_to(Fiber& to) {
        if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
        if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.tsan_, 0);
#if defined(__x86_64__)
        quantplug_shim_switch(&stack_pointer_, to.stack_pointer_);
#else
        swapcontext(&context_, &to.context_);
#endif
        arrived();
    }
    void arrived() {
        if (!__sanitizer_finish_switch_fiber) return;
        const void* bottom;
        size_t size;
        __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
        if (!left_host) return;
        left_host->bottom_ = bottom;
        left_host->size_ = size;
        left_host = nullptr;
    }

 private:
    [[gnu::tls_model("initial-exec")]] static inline thread_local constinit Fiber* left_host = nullptr;

#if defined(__x86_64__)
    void* stack_pointer_ = nullptr;
#else
    ucontext_t context_;
#endif
    const void* bottom_ = nullptr;
    size_t size_ = 0;
    void* fake_stack_ = nullptr;
    void* tsan_ = nullptr;
    bool own_tsan_ = false;
};

}  // namespace simt
}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
