// When queued work is done. CUDA_ON_CPU_MODE:
//   now   as soon as it is queued (the default)
//   lazy  when something waits for it, and then no more than is waited for
//   skew  the default stream is lazy, all others are not: a copy overtakes the work that it should wait for
//   random  whenever something is queued, some of what any stream has queued, by CUDA_ON_CPU_SEED or emu_interleave
#include "guard.h"
#include "state.h"

#include <cstdlib>
#include <pthread.h>
#include <time.h>

namespace {

thread_local int device_of_thread = 0;
thread_local bool in_host_function = false;

size_t number(const char* name, size_t otherwise) {
    const char* text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

State* make_state() {
    auto made = new State;  // never deleted: other threads may use it while the process exits
    const char* mode = getenv("CUDA_ON_CPU_MODE");
    made->mode = mode ? mode : "now";
    made->random = number("CUDA_ON_CPU_SEED", 1) | uint64_t(1) << 63;
    made->memory_per_device = number("CUDA_ON_CPU_MEMORY", size_t(4) << 30);
    made->devices.resize(number("CUDA_ON_CPU_DEVICES", 1));
    for (int d = 0; d < int(made->devices.size()); ++d)
        made->devices[size_t(d)].default_stream = std::make_shared<Stream>(d);
    if (made->devices.empty()) made->error = emu_no_device;
    // As with CUDA, a child forked from a process that has used the device cannot use it.
    pthread_atfork([] { state().lock.lock(); }, [] { state().lock.unlock(); },
                   [] {
                       if (state().initialized) state().error = emu_initialization_error;
                       state().lock.unlock();
                   });
    return made;
}

double milliseconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

// While it lives, other threads leave the stream's queue alone.
struct Running {
    Stream& stream;
    explicit Running(Stream& s) : stream(s) { stream.running = true; }
    ~Running() {
        stream.running = false;
        state().stopped_running.notify_all();
    }
};

void run_host(Call& call, std::function<void(bool)>& function) {
    const bool skip = state().error != 0;
    call.lock.unlock();
    in_host_function = true;
    function(skip);
    in_host_function = false;
    call.lock.lock();
}

void run_first(Call& call, Stream& stream) {
    Running running(stream);
    Op op = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (op.waits_for && !op.waits_for->done) drain(call, op.waits_for->stream, op.waits_for);
    if (op.work.host) run_host(call, op.work.host);
    if (op.work.run && !state().error)
        state().error = is_checked() ? run_checked(op.work.name, op.work.run) : op.work.run();
    op.mark->at = milliseconds();
    op.mark->done = true;
    op.mark->stream.reset();
}

void push(const StreamPtr& stream, Work work, MarkPtr waits_for) {
    auto mark = std::make_shared<Mark>();
    mark->stream = stream;
    stream->queue.push_back({std::move(work), std::move(waits_for), mark});
    stream->tail = std::move(mark);
}

bool is_late(const Stream& stream) {
    const std::string& mode = state().mode;
    return mode == "lazy" || mode == "random" || (mode == "skew" && stream.is_default());
}

unsigned draw(unsigned n) {  // 0 to n - 1, by xorshift
    uint64_t& x = state().random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return unsigned((x >> 11) % n);
}

// Runs the first operation of one stream after another, of those that no thread is at. By the seed, the default streams
// or all others may be left until they are waited for.
void run_some(Call& call) {
    while (draw(3)) {
        std::vector<StreamPtr> ready;
        const auto look = [&](const StreamPtr& stream) {
            if (state().sleepy == (stream->is_default() ? 1 : 2)) return;
            if (!stream->running && !stream->queue.empty()) ready.push_back(stream);
        };
        for (auto& device : state().devices) look(device.default_stream);
        for (auto& entry : state().streams) look(entry.second);
        for (auto& stream : state().destroyed) look(stream);
        if (ready.empty()) return;
        run_first(call, *ready[draw(unsigned(ready.size()))]);
    }
}

template <class F> void each_stream_of(int device, F f) {
    std::vector<StreamPtr> found = {state().devices[size_t(device)].default_stream};
    for (auto& entry : state().streams)
        if (entry.second->device == device) found.push_back(entry.second);
    for (auto& stream : state().destroyed)
        if (stream->device == device) found.push_back(stream);
    for (auto& stream : found) f(stream);
}

}  // namespace

State& state() {
    static State* made = make_state();
    return *made;
}

bool Stream::is_default() const { return state().devices[size_t(device)].default_stream.get() == this; }

int current_device() { return device_of_thread; }

Call::Call() : lock(state().lock) {
    state().initialized = true;
    error = in_host_function ? emu_not_permitted : state().error;
}

StreamPtr find_stream(void* handle) {
    thread_local std::map<int, StreamPtr> of_thread;
    const int device = current_device();
    switch ((uintptr_t)handle) {
    case 0: case 1: return state().devices[size_t(device)].default_stream;
    case 2: {
        StreamPtr& stream = of_thread[device];
        if (!stream) {
            stream = std::make_shared<Stream>(device);
            state().streams[stream.get()] = stream;
        }
        return stream;
    }
    }
    auto found = state().streams.find(handle);
    return found == state().streams.end() ? nullptr : found->second;
}

MarkPtr enqueue(Call& call, const StreamPtr& stream, Work work, MarkPtr waits_for) {
    // The default stream waits for the blocking ones and they for it.
    const StreamPtr& first = state().devices[size_t(stream->device)].default_stream;
    if (stream->is_default())
        each_stream_of(stream->device, [&](const StreamPtr& other) {
            if (other != stream && other->blocking() && !other->idle()) push(stream, {}, other->tail);
        });
    else if (stream->blocking() && !first->idle())
        push(stream, {}, first->tail);
    push(stream, std::move(work), std::move(waits_for));
    const MarkPtr mark = stream->tail;
    if (!is_late(*stream)) drain(call, stream);
    else if (state().mode == "random") run_some(call);
    return mark;
}

// Operations only ever wait for marks that were queued before them, so threads that drain streams cannot deadlock.
void drain(Call& call, StreamPtr stream, const MarkPtr& until) {
    while (!(until && until->done)) {
        if (stream->running) state().stopped_running.wait(call.lock);
        else if (stream->queue.empty()) return;
        else run_first(call, *stream);
    }
}

void drain_device(Call& call, int device) {
    each_stream_of(device, [&](const StreamPtr& stream) { drain(call, stream); });
    auto& destroyed = state().destroyed;
    for (size_t i = destroyed.size(); i-- > 0;)
        if (destroyed[i]->idle()) destroyed.erase(destroyed.begin() + long(i));
}

bool step(Call& call, const StreamPtr& stream) {
    if (stream->running) return false;
    if (stream->queue.empty()) return true;
    run_first(call, *stream);
    return false;
}

extern "C" {

int emu_device_count() { return int(state().devices.size()); }
int emu_get_device() { return device_of_thread; }
int emu_init() { return Call().error; }

void emu_interleave(uint64_t seed) {
    std::lock_guard<std::mutex> lock(state().lock);
    const char* mode = getenv("CUDA_ON_CPU_MODE");
    state().mode = seed ? "random" : mode ? mode : "now";
    state().random = seed | uint64_t(1) << 63;
    state().sleepy = int(seed % 3);
}

void emu_count(emu_counts* counts) {
    std::lock_guard<std::mutex> lock(state().lock);
    *counts = state().counts;
}

int emu_set_device(int device) {
    Call call;
    if (device < 0 || device >= emu_device_count()) return emu_invalid_device;
    device_of_thread = device;
    return call.error;
}

int emu_synchronize() {
    Call call;
    if (call.error) return call.error;
    ++state().counts.waits;
    drain_device(call, current_device());
    return state().error;
}

int emu_enqueue(void* stream, int work, const char* name, int (*run)(void*), void* context, void (*drop)(void*)) {
    std::shared_ptr<void> kept(context, drop);
    Call call;
    if (call.error) return call.error;
    const StreamPtr found = find_stream(stream);
    if (!found || found->device != current_device()) return emu_invalid_handle;
    ++(work == emu_kernel_work ? state().counts.kernels : state().counts.library_calls);
    enqueue(call, found, {name, [run, kept] { return run(kept.get()); }, nullptr});
    return state().error;
}

int emu_enqueue_host(void* stream, void (*call_back)(void*, int), void* context) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr found = find_stream(stream);
    if (!found) return emu_invalid_handle;
    enqueue(call, found, {"a host function", nullptr, [call_back, context](bool skip) { call_back(context, skip); }});
    return 0;
}

}  // extern "C"
