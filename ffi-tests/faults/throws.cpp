// A callback that lets a C++ exception out. The header forbids it; what happens is that the process ends at once, with
// SIGABRT, instead of going on with a stack that was torn down half way.
//
// It is printed by the C++ runtime or by Rust's, so this program's children have their standard error closed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "udsipc.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::fflush(stdout); \
            _exit(1); \
        } \
    } while (0)

static int32_t throw_for_a_message(const uint8_t *, size_t, const udsipc_connection *, void *)
{
    throw std::runtime_error("thrown by a message callback");
}

static size_t throw_for_a_batch(const udsipc_buffer *, size_t, const udsipc_connection *, void *)
{
    throw std::runtime_error("thrown by a batch callback");
}

static void throw_for_an_error(int32_t, int32_t, const char *, void *)
{
    throw std::runtime_error("thrown by an error callback");
}

static udsipc_writer *write_one(bool with_callback)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    if (with_callback)
        REQUIRE(udsipc_writer_options_set_error_callback(options, throw_for_an_error, nullptr) == UDSIPC_OK);
    udsipc_writer *writer = nullptr;
    REQUIRE(udsipc_writer_new("throws.sock", options, &writer) == UDSIPC_OK);
    udsipc_writer_options_free(options);
    REQUIRE(udsipc_writer_start(writer) == UDSIPC_OK);
    REQUIRE(udsipc_write_message(writer, "x", 1) == UDSIPC_OK);
    return writer;
}

static void in_a_message_callback()
{
    udsipc_reader *reader = nullptr;
    REQUIRE(udsipc_reader_new("throws.sock", throw_for_a_message, nullptr, nullptr, &reader) == UDSIPC_OK);
    REQUIRE(udsipc_reader_start(reader) == UDSIPC_OK);
    write_one(false);
}

static void in_a_batch_callback()
{
    udsipc_reader *reader = nullptr;
    REQUIRE(udsipc_reader_new_batched("throws.sock", throw_for_a_batch, nullptr, nullptr, &reader) == UDSIPC_OK);
    REQUIRE(udsipc_reader_start(reader) == UDSIPC_OK);
    write_one(false);
}

static void in_an_error_callback()
{
    write_one(true);
}

// On the host's own stack, with a handler of the host's above: the exception does not get that far.
static void in_a_dispatched_callback()
{
    udsipc_reader *reader = nullptr;
    REQUIRE(udsipc_reader_new("throws.sock", throw_for_a_message, nullptr, nullptr, &reader) == UDSIPC_OK);
    write_one(false);
    try {
        for (int i = 0; i < 1000; i++)
            udsipc_reader_dispatch(reader, 10);
    } catch (const std::exception &) {
        _exit(3);
    }
}

static void expect_abort(void (*body)())
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        close(STDERR_FILENO);
        alarm(20);
        body();
        while (true)
            pause();
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGABRT);
}

struct scenario {
    const char *name;
    void (*body)();
};

static const scenario scenarios[] = {
    {"exception_in_a_message_callback", in_a_message_callback},
    {"exception_in_a_batch_callback", in_a_batch_callback},
    {"exception_in_an_error_callback", in_an_error_callback},
    {"exception_in_a_dispatched_callback", in_a_dispatched_callback},
};

int main(int argc, char **argv)
{
    for (const scenario &one : scenarios) {
        if (argc == 2 && std::strcmp(argv[1], "--list") == 0)
            std::puts(one.name);
        else if (argc == 2 && std::strcmp(argv[1], one.name) == 0) {
            expect_abort(one.body);
            return 0;
        }
    }
    return argc == 2 && std::strcmp(argv[1], "--list") == 0 ? 0 : 2;
}
