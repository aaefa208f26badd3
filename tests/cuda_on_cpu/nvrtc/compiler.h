// Compiles C++ into a shared library.
#pragma once
#include <string>
#include <utility>
#include <vector>

using Headers = std::vector<std::pair<std::string, std::string>>;  // names for #include, and texts

struct Compiled {
    bool ok;
    std::string log, library;  // the library's bytes
};

// What the compiler and its flags are, for a cache of what it made.
std::string compiler_id();

// `options` are NVRTC's.
Compiled compile(const std::string& source, const std::string& name, const Headers& headers,
                 const std::vector<std::string>& options);
