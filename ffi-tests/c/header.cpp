// The header and its C++ companion from C++: first the plain C functions, then the objects.
#include "udsipc.h"
#include "udsipc.hpp"

#include "../support/check.hpp"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

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
        const bool is_plain = from.sequence() == 0;
        CHECK(thrown_by([&] { from.writer_id(); }) == (is_plain ? UDSIPC_ERR_NOT_ACKNOWLEDGED : UDSIPC_OK));
        received.put(message.str());
    });
    reader.start();
    udsipc::writer writer(socket_path());
    CHECK(writer.socket_path() == socket_path() && reader.socket_path() == socket_path());
    CHECK(reader.describe().find(socket_path()) != std::string::npos);
    CHECK(reader.metrics_prometheus("a=\"b\"").find("\nudsipc_reader_connections_total{a=\"b\"} ") != std::string::npos);
    CHECK(writer.metrics_prometheus().find("# HELP udsipc_writer_sent_total ") == 0);
    CHECK(writer.metrics_prometheus("nonsense").empty());
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
    CHECK(writer.describe().find("running") == 0 && writer.describe().find(" sent=5 ") != std::string::npos);
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

// What the writer asks for decides whether the reader knows which message it has got.
void messages_are_acknowledged_as_the_writer_asks()
{
    std::mutex mutex;
    std::vector<std::pair<uint64_t, std::string>> received;
    std::vector<std::array<uint8_t, 16>> ids;
    udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection from) {
        std::lock_guard<std::mutex> lock(mutex);
        received.emplace_back(from.sequence(), message.str());
        if (from.sequence() > 0) ids.push_back(from.writer_id());
    });
    reader.start();
    const std::pair<udsipc::acknowledge, uint64_t> modes[] = {{udsipc::acknowledge::off, 0},
                                                              {udsipc::acknowledge::if_possible, 1},
                                                              {udsipc::acknowledge::required, 1}};
    for (const auto &mode : modes) {
        udsipc::writer writer(socket_path(), udsipc::writer_options().acknowledge(mode.first).redeliver(true));
        writer.start();
        writer.write("one");
        writer.write("two");
        writer.stop(patience_ms);
        CHECK(writer.metrics().acknowledged == 2 * mode.second);
        CHECK(writer.metrics().redelivered == 0);
        WAIT_UNTIL((std::lock_guard<std::mutex>(mutex), received.size() == 2));
        const std::vector<std::pair<uint64_t, std::string>> expected = {{mode.second, "one"}, {2 * mode.second, "two"}};
        CHECK(received == expected);
        received.clear();
    }
    CHECK(ids.size() == 4 && ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2]);
    const udsipc::acknowledge unknown = static_cast<udsipc::acknowledge>(3);
    CHECK(udsipc::writer_options().acknowledge(unknown).status() == UDSIPC_ERR_INVALID_ARGUMENT);
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
    CHECK(thrown_by([] {
              udsipc::writer writer(socket_path(), udsipc::writer_options().dial_timeout_ms(0));
          }) == UDSIPC_ERR_INVALID_TIMEOUT);
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
    WAIT_UNTIL((writer.dispatch(), reader.dispatch(), received.size() == 1));
    CHECK(thrown_by([&] { writer.start(); }) == UDSIPC_ERR_WRONG_STATE);
}

// ---- leaving the scope ----

// The default of a second is short for a thousand messages under valgrind on a busy machine.
constexpr std::chrono::seconds patience(60);

uint64_t elapsed_ms(std::chrono::steady_clock::time_point since)
{
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - since).count());
}

void a_writers_scope_delivers_a_thousand_writes()
{
    inbox received;
    udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection) { received.put(message.str()); });
    reader.start();
    for (int round = 1; round <= 10; round++) {
        {
            udsipc::writer writer(socket_path(), udsipc::writer_options().linger(patience));
            writer.start();
            for (int i = 0; i < 1000; i++)
                writer.write(std::to_string(i));
        }
        WAIT_UNTIL(received.size() == static_cast<size_t>(round) * 1000);
    }
}

// What the writer was told is sent is received, although nothing says stop.
void a_readers_scope_receives_what_was_sent()
{
    inbox received;
    udsipc::writer writer(socket_path());
    {
        udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection) {
            if (received.size() < 20) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            received.put(message.str());
        }, udsipc::reader_options().linger(patience));
        reader.start();
        writer.start();
        for (int i = 0; i < 1000; i++)
            writer.write(std::to_string(i));
        WAIT_UNTIL(writer.metrics().sent == 1000);
    }
    CHECK(received.size() == 1000);
}

void a_scope_is_left_also_by_an_exception()
{
    inbox received;
    udsipc::reader reader(socket_path(), [&](udsipc::view message, udsipc::connection) { received.put(message.str()); });
    reader.start();
    try {
        udsipc::writer writer(socket_path(), udsipc::writer_options().linger(patience));
        writer.start();
        for (int i = 0; i < 1000; i++)
            writer.write(std::to_string(i));
        throw std::runtime_error("on its way");
    } catch (const std::runtime_error &) {
    }
    WAIT_UNTIL(received.size() == 1000);
}

// Who listens and does not read, and who does not listen: linger_ms, and what is given up is told.
void a_scope_that_cannot_deliver_keeps_its_time_and_is_loud()
{
    std::atomic<int> reported(0);
    auto report = [&](udsipc_status, int, const char *context) {
        reported += std::string(context) == "write failure during drain";
    };
    udsipc::reader nobody_dispatches(socket_path(), [](udsipc::view, udsipc::connection) {});
    auto left_after = [&](const std::string &path, uint64_t linger_ms, bool starts) {
        uint64_t fastest = UINT64_MAX;
        for (int attempt = 0; attempt < 5; attempt++) { // a busy machine delays any one of them
            reported = 0;
            std::chrono::steady_clock::time_point begun;
            {
                udsipc::writer writer(path, udsipc::writer_options().linger_ms(linger_ms).on_error(report));
                if (starts) writer.start();
                for (int i = 0; i < 40; i++)
                    writer.write(std::string(100000, 'x'));
                begun = std::chrono::steady_clock::now();
            }
            fastest = std::min(fastest, elapsed_ms(begun));
            CHECK(reported == 1);
        }
        return fastest;
    };
    const uint64_t lingers = left_after(socket_path(), 300, true);
    CHECK(lingers >= 290 && lingers < 500);
    CHECK(left_after(socket_path(), 0, true) < 100);
    CHECK(left_after(socket_path() + "-nobody", UDSIPC_WAIT_FOREVER, true) < 500);
    CHECK(left_after(socket_path(), 300, false) < 100);
}

// Objects that live as long as the program are destroyed by exit(3), with the threads of the library still there.
std::unique_ptr<udsipc::reader> static_reader;
std::unique_ptr<udsipc::writer> static_writer;
std::atomic<int> static_received(0);

void objects_that_are_destroyed_by_exit()
{
    static_reader.reset(new udsipc::reader(socket_path(), [](udsipc::view, udsipc::connection) { static_received++; }));
    static_writer.reset(new udsipc::writer(socket_path()));
    static_reader->start();
    static_writer->start();
    for (int i = 0; i < 1000; i++)
        static_writer->write("x");
    std::atexit([] {
        static_writer.reset();
        WAIT_UNTIL(static_received == 1000);
    });
}

void settings_of_every_kind()
{
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, socket_path().c_str());
    CHECK(bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 && listen(listener, 16) == 0);
    inbox received;
    std::atomic<size_t> stack(0);
    auto look = [&](udsipc::view message, udsipc::connection) {
        pthread_attr_t attributes;
        size_t size = 0;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstacksize(&attributes, &size);
        pthread_attr_destroy(&attributes);
        stack = size;
        received.put(message.str());
    };
    udsipc::reader reader(socket_path() + "-unused", look,
                          udsipc::reader_options()
                              .max_message_size(100)
                              .inactivity_timeout_ms(1000)
                              .max_accept_errors(3)
                              .read_buffer_size(0)
                              .max_handler_threads(2)
                              .callback_stack_size(3 << 20)
                              .max_connections(3)
                              .max_shared_memory(4 << 20)
                              .socket_mode(0600)
                              .socket_group(getegid())
                              .allow_uid(geteuid())
                              .allow_gid(getegid())
                              .listen_fd_name("unused")
                              .listen_fd(listener)
                              .linger_ms(10)
                              .use_systemd(false)
                              .on_error(nullptr));
    close(listener);
    CHECK(reader.socket_path() == socket_path());
    reader.start();
    udsipc::writer writer(socket_path(), udsipc::writer_options()
                                             .max_buffered_writes(10)
                                             .max_buffered_bytes(0)
                                             .max_message_size(100)
                                             .write_timeout_ms(100)
                                             .dial_timeout_ms(100)
                                             .max_backoff_ms(100)
                                             .write_buffer_size(0)
                                             .max_attempts(0)
                                             .drain_until_deadline(true)
                                             .linger_ms(UDSIPC_WAIT_FOREVER)
                                             .acknowledge(udsipc::acknowledge::required)
                                             .redeliver(false)
                                             .on_error(nullptr));
    writer.start();
    writer.write("hello");
    WAIT_UNTIL(received.size() == 1);
    CHECK(stack >= 3u << 20);
}

const scenario scenarios[] = {
    {"c_functions_from_cpp", c_functions_from_cpp},
    {"objects_exchange_messages", objects_exchange_messages},
    {"batches_and_options", batches_and_options},
    {"messages_are_acknowledged_as_the_writer_asks", messages_are_acknowledged_as_the_writer_asks},
    {"exceptions_do_not_leave_callbacks", exceptions_do_not_leave_callbacks},
    {"failures_are_exceptions", failures_are_exceptions},
    {"objects_move", objects_move},
    {"dispatched_objects", dispatched_objects},
    {"a_writers_scope_delivers_a_thousand_writes", a_writers_scope_delivers_a_thousand_writes},
    {"a_readers_scope_receives_what_was_sent", a_readers_scope_receives_what_was_sent},
    {"a_scope_is_left_also_by_an_exception", a_scope_is_left_also_by_an_exception},
    {"a_scope_that_cannot_deliver_keeps_its_time_and_is_loud", a_scope_that_cannot_deliver_keeps_its_time_and_is_loud},
    {"objects_that_are_destroyed_by_exit", objects_that_are_destroyed_by_exit},
    {"settings_of_every_kind", settings_of_every_kind},
};

} // namespace

int main(int argc, char **argv)
{
    return run_scenarios(scenarios, argc, argv);
}
