// The header and its C++ companion from C++: first the plain C functions, then the objects.
#include "udsipc.h"
#include "udsipc.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

const uint64_t patience_ms = 30000;

[[noreturn]] void fail(int line, const std::string &what)
{
    std::fprintf(stderr, "header.cpp:%d: failed: %s\n", line, what.c_str());
    std::fflush(nullptr);
    _exit(1);
}

#define CHECK(condition) \
    do { \
        if (!(condition)) fail(__LINE__, #condition); \
    } while (0)

template <typename Condition> void wait_until(int line, Condition condition)
{
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) fail(line, "waited in vain");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

#define WAIT_UNTIL(condition) wait_until(__LINE__, [&] { return (condition); })

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

std::string socket_path()
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

extern "C" int32_t put_into_inbox(const uint8_t *data, size_t len, const udsipc_connection *, void *userdata)
{
    static_cast<inbox *>(userdata)->put(std::string(data, data + len));
    return 0;
}

void c_functions_from_cpp()
{
    static_assert(sizeof(udsipc_status) == 4, "a status travels as an int32_t");
    inbox received;
    udsipc_reader *reader = nullptr;
    udsipc_writer *writer = nullptr;
    CHECK(udsipc_reader_new(socket_path().c_str(), put_into_inbox, &received, nullptr, &reader) == UDSIPC_OK);
    CHECK(udsipc_reader_start(reader) == UDSIPC_OK);
    CHECK(udsipc_writer_new(socket_path().c_str(), nullptr, &writer) == UDSIPC_OK);
    CHECK(udsipc_writer_start(writer) == UDSIPC_OK);
    CHECK(udsipc_write_message(writer, "from C++", 8) == UDSIPC_OK);
    CHECK(udsipc_writer_stop(writer, patience_ms) == UDSIPC_OK);
    CHECK(udsipc_reader_stop(reader, patience_ms) == UDSIPC_OK);
    CHECK(received.all() == std::vector<std::string>{"from C++"});
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

void objects_exchange_messages()
{
    inbox received;
    std::atomic<uint64_t> id(0);
    std::atomic<uint32_t> uid(12345);
    udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection from) {
        id = from.id();
        uid = from.peer().uid;
        received.put(message.str());
    });
    reader.start();
    udsipc::writer writer(socket_path());
    CHECK(writer.socket_path() == socket_path() && reader.socket_path() == socket_path());
    CHECK(reader.describe().find(socket_path()) != std::string::npos);
    writer.start();
    writer.write("literal");
    writer.write(std::string("string with \0 in it", 19));
    writer.write(std::vector<uint8_t>{1, 2, 3}, patience_ms);
    const udsipc_buffer two[] = {{reinterpret_cast<const uint8_t *>("four"), 4},
                                 {reinterpret_cast<const uint8_t *>("five"), 4}};
    size_t accepted = 0;
    CHECK(writer.try_write(two, 2, accepted) == UDSIPC_OK && accepted == 2);
    writer.flush(patience_ms);
    CHECK(writer.is_connected());
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    const std::vector<std::string> expected{"literal", std::string("string with \0 in it", 19), "\x01\x02\x03", "four",
                                            "five"};
    CHECK(received.all() == expected);
    CHECK(id != 0 && uid == geteuid());
    CHECK(writer.metrics().sent == 5 && reader.metrics().received == 5);
}

void batches_and_options()
{
    inbox received;
    udsipc::reader reader = udsipc::reader::batched(
        socket_path(),
        [&](const udsipc_buffer *messages, size_t count, udsipc::connection) {
            for (size_t i = 0; i < count; i++)
                received.put(udsipc::view(messages[i]).str());
            return count;
        },
        udsipc::reader_options().max_message_size(1000).inactivity_timeout_ms(UDSIPC_WAIT_FOREVER).use_systemd(false));
    udsipc::writer writer(socket_path(), udsipc::writer_options().max_message_size(1000).max_buffered_writes(500));
    for (int i = 0; i < 500; i++)
        writer.write(std::to_string(i));
    CHECK(writer.try_write("one too many") == UDSIPC_ERR_BUFFER_FULL);
    reader.start();
    writer.start();
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    CHECK(received.size() == 500);
    for (int i = 0; i < 500; i++)
        CHECK(received.all()[static_cast<size_t>(i)] == std::to_string(i));
}

// An exception in a callback makes the message a failed one, and goes no further.
void exceptions_do_not_leave_callbacks()
{
    inbox received;
    std::atomic<int> reported(0);
    udsipc::reader reader(
        socket_path(),
        [&](udsipc::view message, udsipc::connection) {
            if (message.str() == "bad") throw std::runtime_error("from the callback");
            received.put(message.str());
        },
        udsipc::reader_options().on_error([&](udsipc_status status, int, const char *context) {
            CHECK(status == UDSIPC_ERR_HANDLER_FAILED);
            CHECK(std::string(context) == "handler failed to process a message");
            reported++;
            throw std::runtime_error("from the error callback");
        }));
    reader.start();
    udsipc::writer writer(socket_path());
    writer.start();
    for (const char *message : {"good", "bad", "good", "bad", "good"})
        writer.write(message);
    WAIT_UNTIL(received.size() == 3 && reported == 2);
    CHECK(reader.metrics().errors == 2);
    CHECK(reader.metrics().active_connections == 1);
}

void failures_are_exceptions()
{
    CHECK(thrown_by([] { udsipc::writer writer(""); }) == UDSIPC_ERR_INVALID_SOCKET_PATH);
    CHECK(thrown_by([] { udsipc::reader reader(socket_path(), nullptr); }) == UDSIPC_ERR_HANDLER_NULL);
    CHECK(thrown_by([] { udsipc::writer_options().dial_timeout_ms(0); }) == UDSIPC_ERR_INVALID_TIMEOUT);
    udsipc::writer writer(socket_path(), udsipc::writer_options().max_buffered_writes(1).on_error(
                                             [](udsipc_status, int, const char *) {}));
    writer.write("first");
    CHECK(thrown_by([&] { writer.write("second"); }) == UDSIPC_ERR_BUFFER_FULL);
    CHECK(thrown_by([&] { writer.stop(patience_ms); }) == UDSIPC_ERR_UNDELIVERED);
    CHECK(thrown_by([&] { writer.write("third"); }) == UDSIPC_ERR_STOPPED);
    CHECK(thrown_by([&] { writer.start(); }) == UDSIPC_ERR_STOPPED);
    CHECK(writer.try_stop(0) == UDSIPC_ERR_UNDELIVERED);

    auto ignore = [](udsipc::view, udsipc::connection) {};
    udsipc::reader owner(socket_path(), ignore);
    CHECK(thrown_by([&] { udsipc::reader second(socket_path(), ignore); }) == UDSIPC_ERR_ADDRESS_IN_USE);
    try {
        udsipc::reader second(socket_path(), ignore);
    } catch (const udsipc::error &error) {
        CHECK(std::string(error.what()).find(socket_path()) != std::string::npos);
    }
}

// A handle that moves takes its callbacks along, and one that is assigned over ends first.
void objects_move()
{
    inbox first, second;
    udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection) { first.put(message.str()); });
    reader.start();
    udsipc::reader moved(std::move(reader));
    udsipc::writer writer(socket_path());
    writer.start();
    std::vector<udsipc::writer> writers;
    writers.push_back(std::move(writer));
    writers.emplace_back(socket_path());
    writers[1].start();
    writers[0].write("one");
    writers[1].write("two");
    WAIT_UNTIL(first.size() == 2);

    udsipc::reader other(socket_path() + "2",
                         [&](udsipc::view message, udsipc::connection) { second.put(message.str()); });
    moved = std::move(other);
    CHECK(moved.socket_path() == socket_path() + "2");
    moved.start();
    writers[0] = udsipc::writer(socket_path() + "2");
    writers[0].start();
    writers[0].write("three");
    WAIT_UNTIL(second.size() == 1);
    CHECK(first.size() == 2);
}

void dispatched_objects()
{
    inbox received;
    auto receive = [&](udsipc::view message, udsipc::connection) { received.put(message.str()); };
    udsipc::reader reader(socket_path(), receive);
    udsipc::writer writer(socket_path());
    CHECK(reader.fd() >= 0 && writer.fd() >= 0);
    writer.write("hello");
    wait_until(__LINE__, [&] {
        writer.dispatch();
        reader.dispatch();
        return received.size() == 1;
    });
    CHECK(thrown_by([&] { writer.start(); }) == UDSIPC_ERR_WRONG_STATE);
}

const struct {
    const char *name;
    void (*run)();
} scenarios[] = {
    {"c_functions_from_cpp", c_functions_from_cpp},
    {"objects_exchange_messages", objects_exchange_messages},
    {"batches_and_options", batches_and_options},
    {"exceptions_do_not_leave_callbacks", exceptions_do_not_leave_callbacks},
    {"failures_are_exceptions", failures_are_exceptions},
    {"objects_move", objects_move},
    {"dispatched_objects", dispatched_objects},
};

} // namespace

int main(int argc, char **argv)
{
    for (const auto &scenario : scenarios) {
        if (argc == 2 && std::string(argv[1]) == "--list")
            std::puts(scenario.name);
        else if (argc == 2 && std::string(argv[1]) == scenario.name) {
            scenario.run();
            return 0;
        }
    }
    return argc == 2 && std::string(argv[1]) == "--list" ? 0 : 2;
}
