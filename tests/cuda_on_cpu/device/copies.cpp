// Copies and fills. When a copy waits is CUDA's rule (Runtime API, "API synchronization behavior").
#include "state.h"

#include <cstring>

namespace {

struct Rows {
    char* dst;
    size_t dpitch;
    const char* src;
    size_t spitch, width, height;

    int copy() const {
        for (size_t row = 0; row < height; ++row) memmove(dst + row * dpitch, src + row * spitch, width);
        return 0;
    }
};

// The direction must be the pointers'. Pinned memory also passes for the device's.
bool fits(const Block* block, bool must_be_device) {
    return must_be_device ? block != nullptr : !(block && block->kind == emu_device);
}

}  // namespace

extern "C" {

int emu_copy(void* dst, size_t dpitch, const void* src, size_t spitch, size_t width, size_t height, int kind,
             void* stream, int wait) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    if (kind < emu_host_to_host || kind > emu_any) return emu_invalid_memcpy_direction;
    if (!width || !height) return 0;
    size_t to_room = 0, from_room = 0;
    const Block *to = find_block(dst, &to_room), *from = find_block(src, &from_room);
    if (kind != emu_any && !(fits(to, kind == emu_host_to_device || kind == emu_device_to_device) &&
                             fits(from, kind == emu_device_to_host || kind == emu_device_to_device)))
        return emu_invalid_value;
    if (to && (height - 1) * dpitch + width > to_room) return emu_invalid_value;
    if (from && (height - 1) * spitch + width > from_room) return emu_invalid_value;

    const bool to_device = to && to->kind == emu_device, from_device = from && from->kind == emu_device;
    const bool within_host = !to_device && !from_device, within_device = to_device && from_device;
    emu_counts& counts = state().counts;
    if (!within_host) {
        ++(within_device ? counts.copies_on_device : to_device ? counts.copies_to_device : counts.copies_to_host);
        (within_device ? counts.bytes_on_device : to_device ? counts.bytes_to_device : counts.bytes_to_host) += width * height;
    }
    const Rows rows = {(char*)dst, dpitch, (const char*)src, spitch, width, height};
    if (to_device && !from) {  // from pageable memory: staged before the call returns, and not waited for
        if (wait) {
            ++counts.waits;
            drain(call, s);
        }
        auto staged = std::make_shared<std::vector<char>>(width * height);
        char* middle = staged->data();
        Rows{middle, width, rows.src, spitch, width, height}.copy();
        const Rows rest = {rows.dst, dpitch, middle, width, width, height};
        enqueue(call, s, {"a copy", [staged, rest] { return rest.copy(); }, {}});
        return state().error;
    }
    enqueue(call, s, {"a copy", [rows] { return rows.copy(); }, {}});
    if (within_host || !to || (wait && !within_device)) {
        ++counts.waits;
        drain(call, s);
    }
    return state().error;
}

int emu_fill(void* dst, int value, size_t n, void* stream) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    if (!n) return 0;
    size_t room = 0;
    if (!find_block(dst, &room) || n > room) return emu_invalid_value;
    ++state().counts.fills;
    enqueue(call, s, {"a fill", [=] { memset(dst, value, n); return 0; }, {}});
    return state().error;
}

}  // extern "C"
