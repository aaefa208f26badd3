// CUDA_ON_CPU_CHECKED: memory of the devices that the host cannot touch, one guarded range of pages an allocation.
#pragma once
#include <stddef.h>
#include <functional>
#include <string>

bool is_checked();

// Memory that only device work can touch, filled with a byte; null where there is none. Its end lies on that of its last
// page or, with CUDA_ON_CPU_CHECKED=start, its start on that of its first; pages that nobody can touch lie around it.
void* take_guarded(size_t n, int fill);
void drop_guarded(void* p);

// Where a pointer lies: "at offset 404 of an array of 400 bytes"; "" where there is none near.
std::string place_of(const void* p);
bool is_dropped(const void* p);

// Runs device work, which can touch all guarded memory that is not dropped. Where it touches anything else, or has
// written beside its arrays, that is printed with the work's name, and an error is returned.
int run_checked(const std::string& name, const std::function<int()>& run);
