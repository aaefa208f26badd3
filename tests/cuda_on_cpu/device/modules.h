// Kernel modules: shared libraries, which libnvrtc.so.13 of ours makes, and the launches of their kernels.
#pragma once
#include "kernel_abi.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

constexpr int most_shared = 227 << 10;  // bytes a block, where a kernel asks for more than 48 KiB

struct Module;

struct Function {
    Module* module;
    const emu_kernel* kernel;
    std::string name;
    int most_dynamic_shared = 48 << 10;
};

struct Module {
    void* library;
    emu_binding binding;
    std::mutex lock;  // of functions
    std::vector<std::unique_ptr<Function>> functions;
};

// These return a CUresult.
int load_image(Module** made, const void* image);
int load_file(Module** made, const char* path);
int find_function(Function** found, Module* module, const char* name);
int find_variable(void** found, size_t* size, Module* module, const char* name);
int launch(Function* function, uint3 grid, uint3 block, unsigned dynamic_shared, void* stream,
           void** arguments);
