// Preloaded into a process, it makes the time of day what a test says: the file that SETTABLE_CLOCK names holds, at its
// process id, by how many seconds (i64) that process' clock is ahead. Monotonic clocks stay as they are.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace {

volatile int64_t* shown() {
    static volatile int64_t* const seconds = [] {
        const int file = open(std::getenv("SETTABLE_CLOCK"), O_RDONLY | O_CLOEXEC);
        const size_t page = size_t(getpid()) * sizeof(int64_t) / 4096 * 4096;
        void* mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, off_t(page));
        close(file);
        if (mapped == MAP_FAILED) abort();
        return static_cast<volatile int64_t*>(mapped) + size_t(getpid()) % (4096 / sizeof(int64_t));
    }();
    return seconds;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) {
    const auto result = int(syscall(SYS_clock_gettime, clock, now));
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *shown();
    return result;
}

int gettimeofday(timeval* now, void*) noexcept {
    timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t* copy) noexcept {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (copy != nullptr) *copy = now.tv_sec;
    return now.tv_sec;
}
}
