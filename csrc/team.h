// Threads that go through the same steps together, without going back to sleep between them.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "compiler.h"
#include "threads.h"

namespace aerogel {

// Each thread runs the same function, which calls `Member::each` for one step after the other. The tasks of a step are taken
// by whoever is free, so that it ends even where fewer threads come than were asked for, or one comes late.
class Team {
 public:
  class Member {
   public:
    explicit Member(Team& team) : team_(team) {}

    // Runs task(0) ... task(tasks - 1), each once on any thread, then `then()` on one. Returns when all that is done. After an
    // exception, what is left of the steps is skipped.
    template <class F, class G>
    void each(int64_t tasks, F&& task, G&& then) {
      Step& step = team_.steps_[number_++];
      for (int64_t i; (i = step.next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        team_.attempt([&] { task(i); });
        if (step.done.fetch_add(1, std::memory_order_acq_rel) + 1 < tasks) continue;
        team_.attempt(then);
        step.is_over.store(true, std::memory_order_release);
      }
      for (int spins = 0; !step.is_over.load(std::memory_order_acquire); spins++) rest(spins);
    }

   private:
    static void rest(int spins) {
      constexpr int kSpins = 4096;  // some ten microseconds: then another process may need the core
      if (spins >= kSpins) return std::this_thread::yield();
      pause_thread();
    }

    Team& team_;
    int64_t number_ = 0;
  };

  // Runs `body(member)` on the threads. `steps` is how often it calls `each`.
  template <class F>
  static void run(int64_t steps, int threads, F&& body) {
    Team team(steps);
    parallel(threads, threads, [&](int64_t) {
      Member member(team);
      body(member);
    });
    if (team.error_) std::rethrow_exception(team.error_);
  }

 private:
  struct alignas(64) Step {  // a cache line each
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> is_over{false};
  };

  explicit Team(int64_t steps) : steps_(new Step[steps]) {}

  template <class F>
  void attempt(F&& f) {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      f();
    } catch (...) {
      const std::lock_guard<std::mutex> held(lock_);
      error_ = std::current_exception();
      failed_ = true;
    }
  }

  std::unique_ptr<Step[]> steps_;
  std::atomic<bool> failed_{false};
  std::mutex lock_;
  std::exception_ptr error_{};
};

}  // namespace aerogel
