// Switching stacks, in assembly: ucontext makes two system calls a switch. The aarch64 half is untested.
#include "fibers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

// Pushes the registers that a callee must keep, stores the stack pointer in *save, and continues at the stack `to`.
extern "C" void emu_switch(void** save, void* to);

namespace {

constexpr size_t stack_size = 128 << 10, guard_size = 4096;

}  // namespace

#if defined(__x86_64__)

asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");

// Six registers, the return address, and a word that leaves the stack as aligned as after a call.
static void* fresh_stack(char* top, void (*main)()) {
    auto sp = (void**)(top - 64);
    memset(sp, 0, 64);
    sp[6] = (void*)main;
    return sp;
}

#elif defined(__aarch64__)

asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,%function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");

// The registers, of which x30 holds the return address.
static void* fresh_stack(char* top, void (*main)()) {
    char* sp = top - 160;
    memset(sp, 0, 160);
    *(void**)(sp + 88) = (void*)main;
    return sp;
}

#else
#error "emu_switch is written for x86-64 and aarch64"
#endif

int Fibers::take() {
    if (idle_.empty()) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* stack = mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, guard_size, PROT_NONE)) {
            fputs("cuda-on-cpu: no memory for a fiber's stack\n", stderr);
            abort();
        }
        idle_.push_back(int(fibers_.size()));
        fibers_.push_back({nullptr, (char*)stack});
    }
    const int fiber = idle_.back();
    idle_.pop_back();
    fibers_[size_t(fiber)].sp = fresh_stack(fibers_[size_t(fiber)].stack + stack_size, main_);
    return fiber;
}

void Fibers::run(int fiber) {
    running_ = fiber;
    emu_switch(&caller_, fibers_[size_t(fiber)].sp);
}

void Fibers::pause() { emu_switch(&fibers_[size_t(running_)].sp, caller_); }

void Fibers::finish() {
    idle_.push_back(running_);
    pause();
}

void Fibers::all_idle() {
    idle_.clear();
    for (int fiber = 0; fiber < int(fibers_.size()); ++fiber) idle_.push_back(fiber);
}
