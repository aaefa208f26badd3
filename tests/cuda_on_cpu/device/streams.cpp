// Streams and events.
#include "state.h"

namespace {

Event* find_event(void* handle) {
    auto found = state().events.find(handle);
    return found == state().events.end() ? nullptr : found->second.get();
}

constexpr unsigned without_timing = 2;

}  // namespace

extern "C" {

int emu_stream_create(void** stream, unsigned flags, int priority) {
    Call call;
    if (call.error) return call.error;
    if (flags > 1) return emu_invalid_value;
    auto made = std::make_shared<Stream>(current_device(), flags, priority);
    state().streams[made.get()] = made;
    *stream = made.get();
    return 0;
}

int emu_stream_destroy(void* stream) {
    Call call;
    const auto found = state().streams.find(stream);
    if (found == state().streams.end()) return emu_invalid_handle;
    if (!found->second->idle()) state().destroyed.push_back(found->second);
    state().streams.erase(found);
    return 0;
}

int emu_stream_synchronize(void* stream) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    ++state().counts.waits;
    if (s->is_default()) enqueue(call, s, {});  // which waits for the blocking streams
    drain(call, s);
    return state().error;
}

// Asking makes one step of progress, so that a loop that asks until all is done comes to an end.
int emu_stream_query(void* stream) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    const bool idle = step(call, s);
    return state().error ? state().error : idle ? emu_success : emu_not_ready;
}

int emu_stream_wait(void* stream, void* event) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    const Event* e = find_event(event);
    if (!s || !e) return emu_invalid_handle;
    if (e->mark && !e->mark->done) enqueue(call, s, {}, e->mark);
    return state().error;
}

int emu_stream_flags(void* stream, unsigned* flags) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    *flags = s->flags;
    return 0;
}

int emu_stream_priority(void* stream, int* priority) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    if (!s) return emu_invalid_handle;
    *priority = s->priority;
    return 0;
}

int emu_event_create(void** event, unsigned flags) {
    Call call;
    if (call.error) return call.error;
    auto made = std::make_unique<Event>(Event{flags, current_device(), nullptr});
    *event = made.get();
    state().events[*event] = std::move(made);
    return 0;
}

int emu_event_destroy(void* event) {
    Call call;
    return state().events.erase(event) ? emu_success : emu_invalid_handle;
}

int emu_event_record(void* event, void* stream) {
    Call call;
    if (call.error) return call.error;
    const StreamPtr s = find_stream(stream);
    Event* e = find_event(event);
    if (!s || !e || e->device != s->device) return emu_invalid_handle;
    MarkPtr mark = enqueue(call, s, {});
    if ((e = find_event(event))) e->mark = std::move(mark);  // unless destroyed while a host function ran
    return state().error;
}

int emu_event_query(void* event) {
    Call call;
    if (call.error) return call.error;
    const Event* e = find_event(event);
    if (!e) return emu_invalid_handle;
    const MarkPtr mark = e->mark;
    if (!mark || mark->done) return 0;
    const StreamPtr s = mark->stream;
    step(call, s);
    return state().error ? state().error : emu_not_ready;
}

int emu_event_synchronize(void* event) {
    Call call;
    if (call.error) return call.error;
    const Event* e = find_event(event);
    if (!e) return emu_invalid_handle;
    const MarkPtr mark = e->mark;
    ++state().counts.waits;
    if (mark && !mark->done) drain(call, mark->stream, mark);
    return state().error;
}

int emu_event_elapsed(float* ms, void* start, void* end) {
    Call call;
    if (call.error) return call.error;
    const Event *first = find_event(start), *last = find_event(end);
    if (!first || !last || (first->flags | last->flags) & without_timing || !first->mark || !last->mark)
        return emu_invalid_handle;
    if (!first->mark->done || !last->mark->done) return emu_not_ready;
    *ms = float(last->mark->at - first->mark->at);
    return 0;
}

}  // extern "C"
