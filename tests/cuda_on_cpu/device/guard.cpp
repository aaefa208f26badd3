// Pages are closed until device work touches them: the fault opens them, and they are closed when the work is done. A
// fault of the host ends the process, as does one of no memory at all.
#undef _FORTIFY_SOURCE  // whose longjmp refuses to leave a fiber's stack
#include "guard.h"
#include "grid.h"
#include "state.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

namespace {

constexpr size_t page = 4096, gap = 1 << 20, arena_size = size_t(1) << 42;
constexpr int beside = 0xC5;  // what fills the rest of the pages

struct Range {
    char* pages;
    size_t page_bytes, size;
    bool is_open, is_dropped;
    int users;  // host functions that read or write it
};

// All that was ever taken: addresses are not given out again. Guarded by the state's lock, but for the message about a
// host's fault, which ends the process anyway.
std::map<uintptr_t, Range>& ranges = *new std::map<uintptr_t, Range>();
std::vector<uintptr_t>& opened = *new std::vector<uintptr_t>();  // by the device work that runs

struct sigaction before;
thread_local sigjmp_buf* way_out = nullptr;  // of the device work that this thread runs
thread_local const char* work_name = "";

std::string setting() {
    const char* text = getenv("CUDA_ON_CPU_CHECKED");
    return text && strcmp(text, "0") != 0 ? text : "";
}

char* take_pages(size_t n) {
    static char* const arena =
        (char*)mmap(nullptr, arena_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    static size_t used = gap;
    if (arena == MAP_FAILED || n + gap > arena_size - used) return nullptr;
    char* at = arena + used;
    used += n + gap;
    return at;
}

void protect(Range& range, bool is_open) {
    mprotect(range.pages, range.page_bytes, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
    range.is_open = is_open;
}

std::map<uintptr_t, Range>::iterator find(uintptr_t at) {
    auto next = ranges.upper_bound(at);
    if (next == ranges.begin()) return ranges.end();
    --next;
    return at - next->first < (next->second.size ? next->second.size : 1) ? next : ranges.end();
}

bool open_at(uintptr_t at) {
    const auto found = find(at);
    if (found == ranges.end() || found->second.is_dropped || found->second.is_open) return false;
    protect(found->second, true);
    opened.push_back(found->first);
    return true;
}

// How many bytes of an open range's pages beside its array are not as they were.
size_t changed(uintptr_t start, const Range& range) {
    const char* array = (const char*)start;
    size_t n = 0;
    for (const char* p = range.pages; p < array; ++p) n += *(const unsigned char*)p != beside;
    for (const char* p = array + range.size; p < range.pages + range.page_bytes; ++p)
        n += *(const unsigned char*)p != beside;
    return n;
}

bool writes(void* context) {
#ifdef __x86_64__
    return ((ucontext_t*)context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    (void)context;
    return false;
#endif
}

void on_fault(int, siginfo_t* info, void* context) {
    if (way_out && open_at((uintptr_t)info->si_addr)) return;
    const std::string place = place_of(info->si_addr);
    const char* verb = writes(context) ? "writes" : "reads";
    if (way_out) {
        fprintf(stderr, "cuda-on-cpu: %s %s %s%s\n", work_name, verb,
                place.empty() ? "where there is no array" : place.c_str(), grid_position().c_str());
        siglongjmp(*way_out, 1);
    }
    if (!place.empty()) fprintf(stderr, "cuda-on-cpu: the host %s a device's memory, %s\n", verb, place.c_str());
    sigaction(SIGSEGV, &before, nullptr);  // the instruction faults once more
}

// Python's faulthandler and others may have taken the signal since.
void take_signal() {
    struct sigaction now;
    sigaction(SIGSEGV, nullptr, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault) return;
    before = now;
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &ours, nullptr);
}

}  // namespace

bool is_checked() {
    static const bool checked = !setting().empty();
    return checked;
}

void* take_guarded(size_t n, int fill) {
    static const bool at_start = setting() == "start";
    const size_t aligned = (n + 15) / 16 * 16;  // of the largest element
    const size_t bytes = aligned ? (aligned + page - 1) / page * page : page;
    char* pages = take_pages(bytes);
    if (!pages) return nullptr;
    char* at = at_start ? pages : pages + bytes - aligned;
    Range range = {pages, bytes, n, false, false, 0};
    protect(range, true);
    memset(pages, beside, bytes);
    memset(at, fill, n);
    protect(range, false);
    take_signal();
    ranges[(uintptr_t)at] = range;
    return at;
}

void drop_guarded(void* p) {
    Range& range = ranges.at((uintptr_t)p);
    madvise(range.pages, range.page_bytes, MADV_DONTNEED);
    range.is_dropped = true;
}

std::string place_of(const void* p) {
    const auto at = (uintptr_t)p;
    auto found = ranges.upper_bound(at);
    // Before one, or behind the one before?
    const auto before_start = [&] { return found == ranges.end() ? gap : found->first - at; };
    if (found != ranges.begin()) {
        const auto& [start, range] = *std::prev(found);
        if (at < start + range.size || at - start - range.size < before_start()) --found;
    }
    if (found == ranges.end() || at > found->first + found->second.size + gap || at + gap < found->first) return "";
    const auto& [start, range] = *found;
    return "at offset " + std::to_string(intptr_t(at - start)) + " of an array of " + std::to_string(range.size) +
           " bytes" + (range.is_dropped ? " that was freed" : "");
}

bool is_dropped(const void* p) {
    std::lock_guard<std::mutex> lock(state().lock);
    const auto found = find((uintptr_t)p);
    return found != ranges.end() && found->second.is_dropped;
}

int run_checked(const std::string& name, const std::function<int()>& run) {
    take_signal();
    sigjmp_buf here;
    int error = emu_illegal_address;
    work_name = name.c_str();
    if (!sigsetjmp(here, 0)) {
        way_out = &here;
        error = run();
    }
    way_out = nullptr;
    for (const uintptr_t start : opened) {
        Range& range = ranges.at(start);
        if (const size_t n = changed(start, range)) {
            fprintf(stderr, "cuda-on-cpu: %s wrote %zu bytes beside an array of %zu\n", name.c_str(), n, range.size);
            if (!error) error = emu_illegal_address;
        }
        if (!range.users) protect(range, false);
    }
    opened.clear();
    return error;
}

extern "C" {

int emu_open(const void* p) {
    if (!is_checked()) return 0;
    std::lock_guard<std::mutex> lock(state().lock);
    const auto found = find((uintptr_t)p);
    if (found == ranges.end() || found->second.is_dropped) return emu_invalid_value;
    if (!found->second.users++) protect(found->second, true);
    return 0;
}

int emu_close(const void* p) {
    if (!is_checked()) return 0;
    std::lock_guard<std::mutex> lock(state().lock);
    const auto found = find((uintptr_t)p);
    if (found == ranges.end() || !found->second.users) return emu_invalid_value;
    if (!--found->second.users) protect(found->second, false);
    return 0;
}

}  // extern "C"
