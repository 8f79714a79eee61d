// What the C++ test programs share: checks, waiting with a deadline, an inbox, the list of scenarios.
#ifndef CHECK_HPP
#define CHECK_HPP

#include "udsipc.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

const uint64_t patience_ms = 30000;

[[noreturn]] inline void fail(const char *file, int line, const std::string &what)
{
    std::fprintf(stderr, "%s:%d: failed: %s (last error of this thread: \"%s\")\n", file, line, what.c_str(),
                 udsipc::error::last_message().c_str());
    std::fflush(nullptr);
    _exit(1);
}

#define CHECK(condition) \
    do { \
        if (!(condition)) fail(__FILE__, __LINE__, #condition); \
    } while (0)

template <typename Condition> void wait_until(const char *file, int line, const char *what, Condition condition)
{
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) fail(file, line, std::string("waited in vain: ") + what);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

#define WAIT_UNTIL(condition) wait_until(__FILE__, __LINE__, #condition, [&] { return (condition); })

#ifdef __cpp_exceptions
// The status of the exception that `call` throws; UDSIPC_OK if it throws none.
template <typename Call> udsipc_status thrown_by(Call call)
{
    try {
        call();
        return UDSIPC_OK;
    } catch (const udsipc::error &error) {
        CHECK(std::strlen(error.what()) > 0);
        return error.status();
    }
}
#endif

inline std::string socket_path()
{
    char here[96];
    CHECK(getcwd(here, sizeof here) != nullptr);
    return std::string(here) + "/s";
}

class inbox {
public:
    void put(const std::string &message)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        messages_.push_back(message);
    }
    std::vector<std::string> all()
    {
        std::lock_guard<std::mutex> lock(mutex_);
        return messages_;
    }
    size_t size() { return all().size(); }

private:
    std::mutex mutex_;
    std::vector<std::string> messages_;
};

struct scenario {
    const char *name;
    void (*run)();
};

// `PROGRAM --list` prints the names, `PROGRAM NAME` runs one.
template <size_t N> int run_scenarios(const scenario (&scenarios)[N], int argc, char **argv)
{
    const std::string asked = argc == 2 ? argv[1] : "";
    for (const scenario &one : scenarios) {
        if (asked == "--list")
            std::puts(one.name);
        else if (asked == one.name) {
            one.run();
            return 0;
        }
    }
    return asked == "--list" ? 0 : 2;
}

#endif
