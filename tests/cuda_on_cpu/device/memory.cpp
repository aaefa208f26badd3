// Memory: blocks of the host's heap, marked as a device's or as pinned. Fresh memory is never zero by chance, and freed
// memory is overwritten. CUDA_ON_CPU_MEMORY limits each device, in bytes. guard.cpp has the devices' memory instead
// where it is checked.
#include "guard.h"
#include "state.h"

#include <cstdlib>
#include <cstring>

namespace {

constexpr int fresh_device = 0xFF;  // as floats: NaN
constexpr int fresh_host = 0xA5, freed = 0xFE;

size_t rounded(size_t n) { return n ? (n + 511) / 512 * 512 : 512; }

int allocate(void** p, size_t n, int kind) {
    Call call;
    if (call.error) return call.error;
    Device& device = state().devices[size_t(current_device())];
    const size_t limit = state().memory_per_device;
    if (kind == emu_device && (n > limit || device.used + rounded(n) > limit)) return emu_no_memory;
    const bool is_guarded = kind == emu_device && is_checked();
    void* at = is_guarded ? take_guarded(n, fresh_device) : aligned_alloc(512, rounded(n));
    if (!at) return emu_no_memory;
    if (!is_guarded) memset(at, kind == emu_device ? fresh_device : fresh_host, rounded(n));
    state().blocks[(uintptr_t)at] = {n ? n : 1, kind, current_device(), true};
    if (kind == emu_device) device.used += rounded(n);
    *p = at;
    return 0;
}

int release(void* p, int kind) {
    if (!p) return 0;
    Call call;
    if (call.error) return call.error;
    auto found = state().blocks.find((uintptr_t)p);
    if (found == state().blocks.end() || found->second.kind != kind || !found->second.owned) return emu_invalid_value;
    const Block block = found->second;
    for (int device = 0; device < emu_device_count(); ++device) drain_device(call, device);
    if (!state().blocks.erase((uintptr_t)p)) return emu_invalid_value;  // another thread freed it meanwhile
    if (kind == emu_device) state().devices[size_t(block.device)].used -= rounded(block.size);
    if (kind == emu_device && is_checked()) {
        drop_guarded(p);
        return state().error;
    }
    memset(p, freed, rounded(block.size));
    asm volatile("" : : "r"(p) : "memory");  // or the compiler leaves out a memset before free
    free(p);
    return state().error;
}

int add(void* p, size_t n, int kind) {
    Call call;
    if (call.error) return call.error;
    size_t room;
    if (find_block(p, &room)) return emu_host_memory_already_registered;
    state().blocks[(uintptr_t)p] = {n, kind, current_device(), false};
    return 0;
}

}  // namespace

const Block* find_block(const void* p, size_t* room) {
    auto next = state().blocks.upper_bound((uintptr_t)p);
    if (next == state().blocks.begin()) return nullptr;
    auto& [start, block] = *--next;
    const size_t offset = (uintptr_t)p - start;
    if (offset >= block.size) return nullptr;
    *room = block.size - offset;
    return &block;
}

extern "C" {

int emu_memory(size_t* free, size_t* total) {
    Call call;
    if (call.error) return call.error;
    *total = state().memory_per_device;
    *free = *total - state().devices[size_t(current_device())].used;
    return 0;
}

int emu_malloc(void** p, size_t n) { return allocate(p, n, emu_device); }
int emu_free(void* p) { return release(p, emu_device); }
int emu_host_alloc(void** p, size_t n) { return allocate(p, n, emu_host); }
int emu_host_free(void* p) { return release(p, emu_host); }
int emu_host_register(void* p, size_t n) { return add(p, n, emu_host); }

int emu_adopt(void* p, size_t n) {
    const int status = add(p, n, emu_device);
    return status == emu_host_memory_already_registered ? 0 : status;
}

int emu_host_unregister(void* p) {
    Call call;
    if (call.error) return call.error;
    auto found = state().blocks.find((uintptr_t)p);
    if (found == state().blocks.end() || found->second.owned) return emu_host_memory_not_registered;
    for (int device = 0; device < emu_device_count(); ++device) drain_device(call, device);
    state().blocks.erase((uintptr_t)p);
    return state().error;
}

int emu_pointer(const void* p, int* kind, int* device) {
    Call call;
    size_t room;
    const Block* block = find_block(p, &room);
    if (!block) block = find_block((const char*)p - 1, &room);
    *kind = block ? block->kind : emu_unregistered;
    *device = block ? block->device : -2;  // cudaInvalidDeviceId
    return call.error;
}

}  // extern "C"
