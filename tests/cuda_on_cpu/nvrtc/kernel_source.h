// Turns the source of CUDA kernels into C++ for the host; installed/include/cuda_on_cpu.h defines the rest.
#pragma once
#include <map>
#include <string>

// The name by which a kernel's entry for the launcher is found, for what the program calls `expression`.
std::string lowered_name(const std::string& expression);

// The source with an entry behind each kernel, one for each name expression (`twice<float>`), and dynamic shared memory
// as a pointer. Line numbers stay.
std::string host_source(const std::string& source, const std::map<std::string, std::string>& expressions);
