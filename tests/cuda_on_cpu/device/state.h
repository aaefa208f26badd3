// The device's state, shared by memory.cpp, copies.cpp, streams.cpp and queue.cpp. One lock guards all of it. Device
// work runs under the lock, so one kernel at a time; host functions run without it.
#pragma once
#include "device.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

struct Stream;
using StreamPtr = std::shared_ptr<Stream>;

// A point in a stream's queue, done once all that was queued before it is. Events refer to marks.
struct Mark {
    bool done = false;
    double at = 0;     // milliseconds, once done
    StreamPtr stream;  // until done
};
using MarkPtr = std::shared_ptr<Mark>;

struct Work {
    std::string name;
    std::function<int()> run;  // device work: returns an error or 0
    std::function<void(bool skip)> host;
};

struct Op {
    Work work;
    MarkPtr waits_for, mark;
};

struct Stream {
    const int device;
    const unsigned flags = 0;
    const int priority = 0;
    bool running = false;  // some thread runs what was its first operation
    std::deque<Op> queue;
    MarkPtr tail;  // of what was queued last

    explicit Stream(int d) : device(d) {}
    Stream(int d, unsigned f, int p) : device(d), flags(f), priority(p) {}
    bool is_default() const;
    bool idle() const { return !tail || tail->done; }
    bool blocking() const { return !(flags & 1); }  // waits for the default stream, and the default stream for it
};

struct Event {
    unsigned flags;
    int device;
    MarkPtr mark;
};

struct Block {
    size_t size;
    int kind, device;
    bool owned;  // by us, not registered or adopted
};

struct Device {
    StreamPtr default_stream;
    size_t used = 0;
};

struct State {
    std::mutex lock;
    std::condition_variable stopped_running;
    std::vector<Device> devices;
    size_t memory_per_device;
    std::string mode;
    std::map<uintptr_t, Block> blocks;
    std::map<void*, StreamPtr> streams;  // without the default ones
    std::vector<StreamPtr> destroyed;    // whose work is still to be done
    std::map<void*, std::unique_ptr<Event>> events;
    int error = 0;  // sticky: all further calls return it
    bool initialized = false;
    emu_counts counts = {};
    uint64_t random;  // of the mode "random"
    int sleepy = 0;   // likewise: 1, the default streams are left as long as can be; 2, all others
};

State& state();
int current_device();

// A call of the device's interface: holds the lock, and knows the error that the call must return.
struct Call {
    std::unique_lock<std::mutex> lock;
    int error;
    Call();
};

// queue.cpp
StreamPtr find_stream(void* handle);  // or null
MarkPtr enqueue(Call& call, const StreamPtr& stream, Work work, MarkPtr waits_for = nullptr);
void drain(Call& call, StreamPtr stream, const MarkPtr& until = nullptr);  // all of it, or up to the mark
void drain_device(Call& call, int device);
bool step(Call& call, const StreamPtr& stream);  // runs one operation; whether the stream is idle

// memory.cpp
// The block that p points into, with the number of bytes from p to its end; or null.
const Block* find_block(const void* p, size_t* room);
