#include "threads.h"

#ifndef _WIN32
#include <unistd.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace aerogel {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<GompParallel> gomp_parallel{nullptr};

struct Region {
  int64_t tasks;
  void (*body)(void*, int64_t);
  void* context;
  std::atomic<int64_t> next{0};
  std::exception_ptr error{};
  std::mutex lock{};

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        body(context, i);
      } catch (...) {
        const std::lock_guard<std::mutex> held(lock);
        error = std::current_exception();
      }
    }
  }
};

// Sleeping threads, started when first wanted. A forked child has none of its parent's and starts its own.
class Pool {
 public:
  void run(Region& region, int threads) {
    const std::lock_guard<std::mutex> one_region_at_a_time(running_);
    {
      const std::lock_guard<std::mutex> held(lock_);
      while (static_cast<int>(threads_) < threads - 1) {
        std::thread([this, seen = generation_]() mutable { serve(seen); }).detach();
        threads_++;
      }
      region_ = &region;
      wanted_ = threads - 1;
      busy_ = threads - 1;
      generation_++;
    }
    wake_.notify_all();
    region.work();
    std::unique_lock<std::mutex> held(lock_);
    done_.wait(held, [this] { return busy_ == 0; });
  }

 private:
  void serve(uint64_t seen) {
    for (;;) {
      Region* region;
      {
        std::unique_lock<std::mutex> held(lock_);
        wake_.wait(held, [&] { return generation_ != seen && wanted_ > 0; });
        seen = generation_;
        wanted_--;
        region = region_;
      }
      region->work();
      const std::lock_guard<std::mutex> held(lock_);
      if (--busy_ == 0) done_.notify_all();
    }
  }

  std::mutex running_, lock_;
  std::condition_variable wake_, done_;
  Region* region_ = nullptr;
  uint64_t generation_ = 0;
  int threads_ = 0, wanted_ = 0, busy_ = 0;
};

// Another one in a forked child. Windows can't fork.
int process() {
#ifdef _WIN32
  return 1;
#else
  return getpid();
#endif
}

Pool& pool() {
  static std::mutex lock;
  static Pool* made = nullptr;  // never freed: its threads may outlive the statics
  static int owner = 0;
  const std::lock_guard<std::mutex> held(lock);
  if (owner != process()) {
    made = new Pool;
    owner = process();
  }
  return *made;
}

struct Free {
  void operator()(float* p) const { operator delete[](p, std::align_val_t(64)); }
};

}  // namespace

void set_openmp(void* address) { gomp_parallel = reinterpret_cast<GompParallel>(address); }

void run_parallel(int64_t tasks, int threads, void (*body)(void*, int64_t), void* context) {
  Region region{tasks, body, context};
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    region.work();
  } else if (const GompParallel start = gomp_parallel) {
    start([](void* data) { static_cast<Region*>(data)->work(); }, &region, static_cast<unsigned>(threads), 0);
  } else {
    pool().run(region, threads);
  }
  if (region.error) std::rethrow_exception(region.error);
}

float* scratch(int slot, size_t count) {
  struct Buffer {
    std::unique_ptr<float[], Free> floats;
    size_t count = 0;
  };
  static thread_local std::vector<Buffer> buffers;
  if (static_cast<size_t>(slot) >= buffers.size()) buffers.resize(slot + 1);
  Buffer& buffer = buffers[slot];
  if (buffer.count < count) {
    buffer.floats.reset();
    buffer.floats.reset(static_cast<float*>(operator new[](count * sizeof(float), std::align_val_t(64))));
    buffer.count = count;
  }
  return buffer.floats.get();
}

}  // namespace aerogel
