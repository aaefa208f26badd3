// Fibers: stacks that take turns on one operating system thread.
#pragma once
#include <vector>

class Fibers {
public:
    // Each fiber calls main, which must not return.
    explicit Fibers(void (*main)()) : main_(main) {}
    int take();          // an idle fiber, which starts afresh
    void run(int fiber); // until it pauses
    void pause();        // called on a fiber: back to who called run
    void finish();       // called on a fiber: pauses for good, and the fiber is idle
    void all_idle();     // forgets what fibers were at
    int running() const { return running_; }

private:
    struct Fiber { void* sp; char* stack; };
    void (*main_)();
    std::vector<Fiber> fibers_;
    std::vector<int> idle_;
    void* caller_ = nullptr;
    int running_ = -1;
};
