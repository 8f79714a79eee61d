// What udsipc.hpp takes in C++11: times, bytes, callables, options, paths, and the error codes that it gives.
#include "../support/check.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <ratio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// ---- times ----

void times_are_integers_or_durations_of_integers()
{
    using udsipc::duration;
    static_assert(duration(5).ms() == 5 && duration(5u).ms() == 5 && duration(short(5)).ms() == 5, "milliseconds");
    static_assert(duration(UINT64_MAX).ms() == UINT64_MAX && duration(INT64_MAX).ms() == INT64_MAX, "all of them");
    static_assert(duration(-1).ms() == 0 && duration(INT64_MIN).ms() == 0, "negative is 0");
    static_assert(duration(seconds(5)).ms() == 5000 && duration(std::chrono::hours(1)).ms() == 3600000, "larger units");
    static_assert(duration(seconds(-5)).ms() == 0, "a deadline that has passed");
    static_assert(duration(std::chrono::nanoseconds(0)).ms() == 0, "0 stays 0");
    static_assert(duration(std::chrono::nanoseconds(1)).ms() == 1, "rounded up");
    static_assert(duration(std::chrono::microseconds(1000)).ms() == 1, "exact");
    static_assert(duration(std::chrono::microseconds(1001)).ms() == 2, "rounded up");
    static_assert(duration(std::chrono::nanoseconds::max()).ms() == INT64_MAX / 1000000 + 1, "without overflow");
    static_assert(duration(milliseconds::max()).ms() == INT64_MAX, "without overflow");
    static_assert(duration(seconds::max()).ms() == UINT64_MAX, "saturated");
    static_assert(duration(std::chrono::hours::max()).ms() == UINT64_MAX || sizeof(std::chrono::hours::rep) < 8, "too");
    static_assert(duration(std::chrono::duration<int, std::ratio<1, 3>>(1)).ms() == 334, "thirds of a second");
    static_assert(duration(std::chrono::duration<int, std::ratio<1001, 30000>>(30)).ms() == 1001, "frames");
    static_assert(duration(std::chrono::duration<uint8_t>(200)).ms() == 200000, "a small count");
    static_assert(udsipc::wait_forever.ms() == UDSIPC_WAIT_FOREVER, "no limit");
    static_assert(!std::is_convertible<double, duration>::value && !std::is_convertible<float, duration>::value, "");
    static_assert(!std::is_convertible<std::chrono::duration<double>, duration>::value, "not in floating point");
    static_assert(!std::is_constructible<duration, long double>::value, "not even by name");
    static_assert(!std::is_convertible<bool, duration>::value, "a bool is no time");

    udsipc::writer writer(socket_path(), udsipc::writer_options().drain_until_deadline(true));
    writer.start();
    writer.write("nobody listens");
    const auto begun = std::chrono::steady_clock::now();
    CHECK(writer.try_flush(std::chrono::microseconds(19001)) == UDSIPC_ERR_TIMEOUT);
    CHECK(writer.try_stop(milliseconds(80)) == UDSIPC_ERR_TIMEOUT);
    CHECK(std::chrono::steady_clock::now() - begun >= milliseconds(100));
    CHECK(writer.try_stop(udsipc::wait_forever) == UDSIPC_ERR_TIMEOUT);
}

// ---- bytes ----

template <typename T> std::string bytes_of(const T &thing)
{
    return udsipc::view(thing).str();
}

enum class byte_like : unsigned char { a = 'a', b = 'b' };

void bytes_come_from_text_containers_and_arrays()
{
    const char *text = "text";
    char buffer[] = {'a', 'b', 'c'};
    const unsigned char octets[] = {'a', 0, 'c'};
    const std::vector<byte_like> bytes{byte_like::a, byte_like::b};
    CHECK(bytes_of("literal") == "literal" && bytes_of(text) == "text" && bytes_of("") == "");
    CHECK(bytes_of(buffer) == "abc");                          // no NUL to find, and nothing read behind the array
    CHECK(bytes_of(octets) == std::string("a\0c", 3));         // bytes, no text
    CHECK(bytes_of(static_cast<const char *>(nullptr)) == ""); // as (NULL, 0)
    CHECK(bytes_of(std::string("a\0b", 3)) == std::string("a\0b", 3));
    CHECK(bytes_of(std::vector<uint8_t>{'a', 'b'}) == "ab" && bytes_of(std::vector<char>()) == "");
    CHECK(bytes_of(bytes) == "ab" && bytes_of(std::array<signed char, 2>{{'a', 'b'}}) == "ab");
    CHECK(udsipc::view("abc", 2).str() == "ab");
    const udsipc_buffer c_bytes = {octets, 2};
    CHECK(bytes_of(c_bytes).size() == 2 && udsipc::view(c_bytes).buffer().data == octets);
    static_assert(!std::is_convertible<std::vector<int>, udsipc::view>::value, "an int is no byte");
    static_assert(!std::is_convertible<std::nullptr_t, udsipc::view>::value, "nothing is no message");
    static_assert(!std::is_convertible<const unsigned char *, udsipc::view>::value, "a pointer needs a size");
    static_assert(!std::is_convertible<int, udsipc::view>::value, "a number is no message");
    static_assert(std::is_trivially_copyable<udsipc::view>::value, "passed by value");
}

struct frame {
    char kind;
    char flags;
};

// A number behind a pointer or an array is its size, a number behind anything else is a time.
void a_number_is_a_size_or_a_time()
{
    inbox received;
    udsipc::reader reader(socket_path(), [&](udsipc::view message) { received.put(message.str()); });
    udsipc::writer writer(socket_path());
    const char *text = "hello\0world";
    char buffer[] = {'b', 'u', 'f', 'f', 'e', 'r'};
    const frame frames[] = {{'k', 'f'}, {'l', 'g'}};
    const std::string string = "a string";
    writer.write(text);
    writer.write(text, 11);
    writer.write(text, size_t(2));
    writer.write("literal", 3);
    writer.write("with its NUL", sizeof "with its NUL");
    writer.write(buffer, 4);
    writer.write(buffer);
    writer.write(&frames[0], sizeof frames[0]);
    writer.write(frames, sizeof frames);
    writer.write(static_cast<const void *>(text), 1u);
    writer.write(string, 1000);
    writer.write(string, seconds(1));
    writer.write("hello", seconds(1));
    writer.write("hello", udsipc::duration(1000));
    writer.write(buffer, milliseconds(1));
    writer.write({text, 4}, seconds(1));
    writer.write({text, 3});
    writer.write(udsipc::view(text, 2), 1000);
    CHECK(writer.try_write(text, 1) == UDSIPC_OK && writer.try_write(string, 1000) == UDSIPC_OK);
    CHECK(writer.try_write(text, milliseconds(1)) == UDSIPC_OK && writer.try_write(text, 0) == UDSIPC_OK);
    const std::vector<std::string> expected{"hello",
                                            std::string("hello\0world", 11),
                                            "he",
                                            "lit",
                                            std::string("with its NUL", 13),
                                            "buff",
                                            "buffer",
                                            "kf",
                                            "kflg",
                                            "h",
                                            "a string",
                                            "a string",
                                            "hello",
                                            "hello",
                                            "buffer",
                                            "hell",
                                            "hel",
                                            "he",
                                            "h",
                                            "a string",
                                            "hello"};
    // What was meant as a time reads nothing behind the array, and says how a time is written.
    CHECK(writer.try_write("hello", 1000) == UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK(writer.try_write(buffer, sizeof buffer + 1) == UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK(writer.try_write(text, -1) == UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK(thrown_by([&] { writer.write(text, -1); }) == UDSIPC_ERR_INVALID_ARGUMENT);
    try {
        writer.write("hello", 1000);
        CHECK(false);
    } catch (const udsipc::error &error) {
        CHECK(error.status() == UDSIPC_ERR_INVALID_ARGUMENT);
        CHECK(std::strstr(error.what(), "std::chrono::milliseconds(1000)") != nullptr);
    }
    reader.start();
    writer.start();
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    CHECK(received.all() == expected);
}

// Makes each of its strings when it is asked, and keeps none.
class numbers {
public:
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = std::string;
        using difference_type = std::ptrdiff_t;
        using pointer = const std::string *;
        using reference = std::string;
        explicit iterator(int at) : at_(at) {}
        std::string operator*() const { return "number " + std::string(40, '-') + std::to_string(at_); }
        iterator &operator++()
        {
            at_++;
            return *this;
        }
        bool operator!=(const iterator &other) const { return at_ != other.at_; }

    private:
        int at_;
    };
    iterator begin() const { return iterator(0); }
    iterator end() const { return iterator(3); }
};

// The iterator has one string, whose text is another after each step.
class words {
public:
    explicit words(const std::string &text) : stream_(text) {}
    std::istream_iterator<std::string> begin() { return std::istream_iterator<std::string>(stream_); }
    std::istream_iterator<std::string> end() { return std::istream_iterator<std::string>(); }

private:
    std::istringstream stream_;
};

void many_messages_in_one_call()
{
    inbox received;
    udsipc::reader reader(socket_path(), [&](udsipc::view message) { received.put(message.str()); });
    udsipc::writer writer(socket_path(), udsipc::writer_options().max_buffered_writes(320).max_message_size(1000));
    std::vector<std::string> expected;
    std::vector<std::string> strings;
    for (int i = 0; i < 300; i++)
        strings.push_back(std::string(static_cast<size_t>(i), 'x') + std::to_string(i));
    CHECK(writer.write_many(strings) == 300);
    const char *texts[] = {"one", "two"};
    CHECK(writer.write_many(texts) == 2);
    CHECK(writer.write_many({"three", std::string("four"), texts[0]}) == 3);
    CHECK(writer.write_many(std::vector<udsipc::view>()) == 0);
    const udsipc_buffer buffers[] = {udsipc::view("five").buffer(), udsipc::view("six").buffer()};
    CHECK(writer.write_many(buffers) == 2);
    CHECK(writer.write_many(numbers()) == 3);
    CHECK(writer.write_many(words("seven eight nine")) == 3);
    expected = strings;
    for (const char *text : {"one", "two", "three", "four", "one", "five", "six"})
        expected.push_back(text);
    for (const std::string &number : numbers())
        expected.push_back(number);
    for (const char *text : {"seven", "eight", "nine"})
        expected.push_back(text);
    CHECK(expected.size() == 313);

    // How far it came when it is refused.
    CHECK(writer.write_many(std::vector<std::string>(100, "more")) == 7);
    expected.insert(expected.end(), 7, "more");
    size_t accepted = 77;
    CHECK(writer.try_write_many(strings, accepted) == UDSIPC_ERR_BUFFER_FULL && accepted == 0);
    reader.start();
    writer.start();
    writer.flush(patience_ms);
    std::vector<std::string> too_large(70, "y");
    too_large.push_back(std::string(1001, 'z'));
    too_large.push_back("y");
    CHECK(writer.try_write_many(too_large, accepted) == UDSIPC_ERR_MESSAGE_TOO_LARGE && accepted == 70);
    CHECK(thrown_by([&] {
              if (writer.write_many(too_large) > 0) return;
          }) == UDSIPC_ERR_MESSAGE_TOO_LARGE);
    expected.insert(expected.end(), 140, "y");
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    CHECK(received.all() == expected);
    CHECK(writer.try_write_many({"late"}, accepted) == UDSIPC_ERR_STOPPED && accepted == 0);
}

// ---- callables ----

struct outcome {
    uint64_t received;
    uint64_t errors;
};

// What a reader with this callback counts after the messages "good", "bad", "good".
template <typename Reader> outcome outcome_of(Reader &reader)
{
    udsipc::writer writer(socket_path());
    CHECK(writer.write_many({"good", "bad", "good"}) == 3);
    writer.start();
    reader.start();
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    const udsipc_reader_metrics metrics = reader.metrics();
    return outcome{metrics.received, metrics.errors};
}

outcome handled_by(udsipc::message_callback callback)
{
    udsipc::reader reader(socket_path(), std::move(callback));
    return outcome_of(reader);
}

bool operator==(const outcome &one, const outcome &other)
{
    return one.received == other.received && one.errors == other.errors;
}

const outcome all{3, 0}, all_but_bad{2, 1};

bool is_good(udsipc::view message)
{
    return message.str() == "good";
}

struct with_state {
    inbox &received;
    std::unique_ptr<int> not_copyable;
    udsipc_status operator()(const std::string &message, const udsipc::connection &from)
    {
        received.put(message + "!" + (from.id() != 0 ? "" : "?"));
        return message == "good" ? UDSIPC_OK : UDSIPC_ERR_HANDLER_FAILED;
    }
};

void message_callbacks_of_every_form()
{
    inbox received;
    CHECK(handled_by([&](udsipc::view message) { received.put(message.str()); }) == all);
    CHECK(handled_by([&](const udsipc::view &message, udsipc::connection) { received.put(message.str()); }) == all);
    CHECK(handled_by([&](const std::string &message) { received.put(message); }) == all);
    CHECK(handled_by([&](std::string message, const udsipc::connection &) { received.put(message); }) == all);
    CHECK(handled_by([&](udsipc::view message) { return message.str() == "good"; }) == all_but_bad);
    CHECK(handled_by([](udsipc::view message) { return is_good(message) ? UDSIPC_OK : UDSIPC_ERR_IO; }) == all_but_bad);
    CHECK(handled_by([&](udsipc::view message) {
              if (!is_good(message)) throw std::runtime_error("bad");
          }) == all_but_bad);
    CHECK(handled_by(is_good) == all_but_bad && handled_by(&is_good) == all_but_bad);
    const std::function<bool(udsipc::view)> function = is_good;
    CHECK(handled_by(function) == all_but_bad);
    CHECK(handled_by(std::bind(is_good, std::placeholders::_1)) == all_but_bad);
    CHECK(received.size() == 12);

    inbox with_marks;
    CHECK(handled_by(with_state{with_marks, std::unique_ptr<int>(new int(0))}) == all_but_bad);
    with_state named{with_marks, nullptr};
    CHECK(handled_by(std::ref(named)) == all_but_bad);
    const std::vector<std::string> expected{"good!", "bad!", "good!", "good!", "bad!", "good!"};
    CHECK(with_marks.all() == expected);
}

void nothing_to_call_is_refused()
{
    bool (*no_function)(udsipc::view) = nullptr;
    CHECK(thrown_by([&] { udsipc::reader reader(socket_path(), nullptr); }) == UDSIPC_ERR_HANDLER_NULL);
    CHECK(thrown_by([&] { udsipc::reader reader(socket_path(), no_function); }) == UDSIPC_ERR_HANDLER_NULL);
    CHECK(thrown_by([&] {
              udsipc::reader reader(socket_path(), std::function<void(udsipc::view)>());
          }) == UDSIPC_ERR_HANDLER_NULL);
    udsipc::reader reader;
    CHECK(udsipc::reader::try_create_batched(socket_path(), nullptr, reader) == UDSIPC_ERR_HANDLER_NULL);
    udsipc::message_callback callback = is_good;
    CHECK(callback && !udsipc::message_callback(nullptr) && !udsipc::error_callback(nullptr));
    CHECK(udsipc::reader::try_create(socket_path(), std::move(callback), reader) == UDSIPC_OK);
}

outcome handled_in_batches_by(udsipc::batch_callback callback)
{
    udsipc::reader reader = udsipc::reader::batched(socket_path(), std::move(callback));
    return outcome_of(reader);
}

size_t up_to_bad(const udsipc_buffer *messages, size_t count)
{
    size_t good = 0;
    while (good < count && is_good(messages[good]))
        good++;
    return good;
}

void batch_callbacks_of_every_form()
{
    inbox received;
    CHECK(handled_in_batches_by([&](udsipc::batch messages) {
              for (udsipc::view message : messages)
                  received.put(message.str());
          }) == all);
    CHECK(handled_in_batches_by([&](const udsipc::batch &messages, udsipc::connection from) {
              CHECK(from.id() != 0 && messages.size() > 0 && messages[0].size() > 0);
          }) == all);
    CHECK(handled_in_batches_by([&](udsipc::batch messages) { return up_to_bad(messages.data(), messages.size()); }) ==
          all_but_bad);
    CHECK(handled_in_batches_by(up_to_bad) == all_but_bad);
    CHECK(handled_in_batches_by([](const udsipc_buffer *messages, size_t count, udsipc::connection) {
              return static_cast<int>(up_to_bad(messages, count));
          }) == all_but_bad);
    CHECK(handled_in_batches_by([](udsipc::batch messages) { return is_good(messages[0]) ? 1 : -1; }) == all_but_bad);
    CHECK(handled_in_batches_by([](const udsipc_buffer *, size_t) { throw std::runtime_error("all bad"); }) ==
          (outcome{0, 3}));
    CHECK(received.size() == 3);
}

// The report of a writer that is stopped with a message that nobody wants.
void report_of_an_undelivered_message(udsipc::writer_options options)
{
    udsipc::writer writer(socket_path(), options);
    writer.write("x");
    CHECK(writer.try_stop(0) == UDSIPC_ERR_UNDELIVERED);
}

void error_callbacks_of_every_form()
{
    std::atomic<int> reports(0);
    std::unique_ptr<int> not_copyable(new int(1));
    report_of_an_undelivered_message(
        udsipc::writer_options().on_error([&](udsipc_status status, int os_errno, const char *context) {
            reports += status == UDSIPC_ERR_UNDELIVERED && os_errno == 0 && std::strstr(context, "drain") != nullptr;
        }));
    report_of_an_undelivered_message(
        udsipc::writer_options().on_error([&](std::error_code code, int, const std::string &context) {
            reports += code == UDSIPC_ERR_UNDELIVERED && context == "write failure during drain";
            return 17; // of no interest
        }));
    report_of_an_undelivered_message(udsipc::writer_options().on_error([&](int32_t, long, const void *) {
        reports++;
        throw 1;
    }));
    report_of_an_undelivered_message(udsipc::writer_options().on_error(nullptr));
    report_of_an_undelivered_message(
        udsipc::writer_options().on_error(std::function<void(udsipc_status, int, const char *)>()));
    CHECK(reports == 3);
}

// ---- error codes ----

void statuses_are_error_codes()
{
    udsipc::writer writer(socket_path(), udsipc::writer_options().max_buffered_writes(1).max_message_size(10));
    std::error_code code = writer.try_write("first");
    CHECK(!code && code == UDSIPC_OK && code.default_error_condition() == std::error_condition());
    code = writer.try_write("second");
    CHECK(code && code == UDSIPC_ERR_BUFFER_FULL && code != UDSIPC_ERR_TIMEOUT);
    CHECK(code == std::errc::resource_unavailable_try_again && code != std::errc::timed_out);
    CHECK(code.value() == 20 && code.message() == udsipc_strerror(20));
    CHECK(code.category() == udsipc::category() && std::string(code.category().name()) == "udsipc");
    CHECK(std::error_code(writer.try_write("second", milliseconds(1))) == std::errc::timed_out);
    CHECK(std::error_code(writer.try_write("a large message")) == std::errc::message_size);
    CHECK(make_error_code(UDSIPC_ERR_PANIC) == std::errc::state_not_recoverable);
    // What std::errc has no word for is equal to itself only, also when this header does not know it.
    const std::error_code newer(12345, udsipc::category());
    CHECK(newer.default_error_condition().category() == udsipc::category() && !newer.message().empty());
    CHECK(make_error_code(UDSIPC_ERR_UNDELIVERED) != std::errc::io_error);
    for (int status = 1; status < 100; status++) {
        const std::error_code one(status, udsipc::category());
        CHECK(one.default_error_condition().value() != 0 && one != UDSIPC_OK);
    }

    try {
        writer.stop(0);
        CHECK(false);
    } catch (const std::system_error &error) {
        CHECK(error.code() == UDSIPC_ERR_UNDELIVERED && error.what() == udsipc::error::last_message());
    }
    CHECK(std::error_code(writer.try_write("late")) == std::errc::operation_canceled);
    CHECK(std::string(udsipc::error(UDSIPC_ERR_IO, "").what()) == udsipc_strerror(UDSIPC_ERR_IO));
    const udsipc::error original(UDSIPC_ERR_IO, "the whole text");
    const udsipc::error copied = original;
    CHECK(std::string(copied.what()) == "the whole text" && copied.status() == UDSIPC_ERR_IO);
    static_assert(std::is_nothrow_copy_constructible<udsipc::error>::value, "it may be copied when it is thrown");
}

// ---- options and objects ----

void options_are_chained_and_remember_what_was_refused()
{
    auto options = udsipc::writer_options().max_attempts(3).write_timeout(seconds(2)).linger(0).linger_ms(0);
    static_assert(std::is_same<decltype(options), udsipc::writer_options>::value, "no dangling reference");
    const auto &bound = udsipc::writer_options().max_message_size(3);
    static_assert(!std::is_reference<decltype(udsipc::writer_options().linger(0))>::value, "nor here");
    CHECK(bound.get() != nullptr && bound.status() == UDSIPC_OK);
    options.max_message_size(3).dial_timeout(milliseconds(5)).max_backoff_ms(7);
    CHECK(options.status() == UDSIPC_OK && options.message().empty());
    udsipc::writer first(socket_path(), options), second(socket_path(), options);
    CHECK(second.try_write("four") == UDSIPC_ERR_MESSAGE_TOO_LARGE);

    options.dial_timeout(0).max_buffered_writes(0).linger(5);
    CHECK(options.status() == UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK(options.message().find("dial_timeout") != std::string::npos);
    CHECK(first.try_write("four") == UDSIPC_ERR_MESSAGE_TOO_LARGE); // another failure of this thread, with its own text
    CHECK(udsipc::writer::try_create(socket_path(), options, first) == UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK(first.get() != nullptr);
    try {
        udsipc::writer writer(socket_path(), options);
        CHECK(false);
    } catch (const udsipc::error &error) {
        CHECK(error.status() == UDSIPC_ERR_INVALID_TIMEOUT && options.message() == error.what());
    }
    options = udsipc::writer_options();
    CHECK(options.status() == UDSIPC_OK && udsipc::writer::try_create(socket_path(), options, first) == UDSIPC_OK);

    auto no_reader = [](udsipc::view) {};
    auto of_reader = udsipc::reader_options().inactivity_timeout(std::chrono::minutes(1)).socket_mode(07777);
    CHECK(of_reader.status() == UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK(thrown_by([&] { udsipc::reader reader(socket_path(), no_reader, of_reader); }) ==
          UDSIPC_ERR_INVALID_ARGUMENT);
}

void options_that_were_moved_from_are_refused()
{
    int reports = 0;
    udsipc::writer_options options;
    options.max_message_size(3).on_error([&](udsipc_status, int, const char *) { reports++; });
    udsipc::writer_options moved = std::move(options);
    CHECK(options.status() == UDSIPC_ERR_NULL_POINTER && options.get() == nullptr);
    options.linger(0).on_error([](udsipc_status, int, const char *) {});
    CHECK(options.status() == UDSIPC_ERR_NULL_POINTER);
    try {
        udsipc::writer writer(socket_path(), options);
        CHECK(false);
    } catch (const udsipc::error &error) {
        CHECK(error.status() == UDSIPC_ERR_NULL_POINTER);
        CHECK(std::strstr(error.what(), "moved from") != nullptr);
    }
    udsipc::writer_options *self = &moved; // a name of its own: compilers see through the plain form
    moved = std::move(*self);
    CHECK(moved.status() == UDSIPC_OK);
    {
        udsipc::writer writer(socket_path(), moved);
        CHECK(writer.try_write("four") == UDSIPC_ERR_MESSAGE_TOO_LARGE);
        writer.write("x");
    }
    CHECK(reports == 1);

    udsipc::reader_options of_reader;
    udsipc::reader_options taken = std::move(of_reader);
    auto ignore = [](udsipc::view) {};
    CHECK(thrown_by([&] { udsipc::reader reader(socket_path(), ignore, of_reader); }) == UDSIPC_ERR_NULL_POINTER);
    udsipc::reader reader;
    CHECK(udsipc::reader::try_create_batched(socket_path(), nullptr, of_reader, reader) == UDSIPC_ERR_NULL_POINTER);
    CHECK(udsipc::reader::try_create(socket_path(), ignore, taken, reader) == UDSIPC_OK);
}

void objects_that_are_none_and_objects_that_are_replaced()
{
    udsipc::writer none;
    size_t accepted = 1;
    udsipc_writer_metrics metrics;
    CHECK(none.get() == nullptr && none.fd() == -1 && !none.is_connected() && none.socket_path().empty());
    CHECK(none.describe().empty());
    CHECK(none.try_start() == UDSIPC_ERR_NULL_POINTER && none.try_write("x") == UDSIPC_ERR_NULL_POINTER);
    CHECK(none.try_write("x", seconds(1)) == UDSIPC_ERR_NULL_POINTER && none.try_flush(0) == UDSIPC_ERR_NULL_POINTER);
    CHECK(none.try_write_many({"x"}, accepted) == UDSIPC_ERR_NULL_POINTER && accepted == 0);
    CHECK(none.try_stop(0) == UDSIPC_ERR_NULL_POINTER && none.try_dispatch() == UDSIPC_ERR_NULL_POINTER);
    CHECK(none.try_metrics(metrics) == UDSIPC_ERR_NULL_POINTER);
    CHECK(thrown_by([&] { none.write("x"); }) == UDSIPC_ERR_NULL_POINTER);
    udsipc::reader no_reader;
    udsipc_reader_metrics reader_metrics;
    CHECK(no_reader.get() == nullptr && no_reader.fd() == -1 && no_reader.describe().empty());
    CHECK(no_reader.try_start() == UDSIPC_ERR_NULL_POINTER && no_reader.try_stop(0) == UDSIPC_ERR_NULL_POINTER);
    CHECK(no_reader.try_metrics(reader_metrics) == UDSIPC_ERR_NULL_POINTER);
    none = udsipc::writer();

    // The object that was there ends, with its callback: its queued message is told to be given up.
    int reports = 0;
    udsipc::writer writer(socket_path(),
                          udsipc::writer_options().on_error([&](udsipc_status, int, const char *) { reports++; }));
    writer.write("x");
    CHECK(udsipc::writer::try_create("", writer) == UDSIPC_ERR_INVALID_SOCKET_PATH && reports == 0);
    CHECK(udsipc::writer::try_create(socket_path() + "2", writer) == UDSIPC_OK && reports == 1);
    CHECK(writer.socket_path() == socket_path() + "2");
    udsipc::writer *self = &writer;
    writer = std::move(*self);
    CHECK(writer.socket_path() == socket_path() + "2" && writer.try_write("x") == UDSIPC_OK);

    inbox received;
    udsipc::reader reader(writer.socket_path(), [&](udsipc::view message) { received.put(message.str()); });
    udsipc::reader *itself = &reader;
    reader = std::move(*itself);
    reader.start();
    writer.start();
    writer.stop(patience_ms);
    CHECK(received.size() == 1);
    static_assert(std::is_nothrow_move_constructible<udsipc::reader>::value, "in a std::vector");
    static_assert(std::is_nothrow_move_assignable<udsipc::writer>::value, "in a std::vector");
    static_assert(std::is_nothrow_move_constructible<udsipc::reader_options>::value, "in a std::vector");
    static_assert(!std::is_copy_constructible<udsipc::writer>::value && !std::is_copy_assignable<udsipc::reader>::value,
                  "a handle is freed once");
}

// Converts to std::string, as std::filesystem::path does.
struct converts {
    operator std::string() const { return "/tmp/c"; }
};

void paths_of_every_kind()
{
    char array[] = "/tmp/a";
    char *pointer = array;
    const std::vector<char> characters(array, array + 6);
    CHECK(udsipc::writer("/tmp/x").socket_path() == "/tmp/x" && udsipc::writer(array).socket_path() == array);
    CHECK(udsipc::writer(pointer).socket_path() == array && udsipc::writer(characters).socket_path() == array);
    CHECK(udsipc::writer(std::string("@abstract")).socket_path() == "@abstract");
    CHECK(udsipc::writer(converts()).socket_path() == "/tmp/c");
    pointer = nullptr;
    CHECK(thrown_by([&] { udsipc::writer writer(pointer); }) == UDSIPC_ERR_NULL_POINTER);
    CHECK(thrown_by([&] { udsipc::writer writer(nullptr); }) == UDSIPC_ERR_NULL_POINTER);
    // C would take the path up to the NUL, and so another one.
    const std::string with_nul("/tmp/a\0b", 8);
    udsipc::reader reader;
    CHECK(udsipc::reader::try_create(with_nul, is_good, reader) == UDSIPC_ERR_INVALID_SOCKET_PATH);
    try {
        udsipc::writer writer(with_nul);
        CHECK(false);
    } catch (const udsipc::error &error) {
        CHECK(error.status() == UDSIPC_ERR_INVALID_SOCKET_PATH && std::strstr(error.what(), "NUL") != nullptr);
    }
}

const scenario scenarios[] = {
    {"times_are_integers_or_durations_of_integers", times_are_integers_or_durations_of_integers},
    {"bytes_come_from_text_containers_and_arrays", bytes_come_from_text_containers_and_arrays},
    {"a_number_is_a_size_or_a_time", a_number_is_a_size_or_a_time},
    {"many_messages_in_one_call", many_messages_in_one_call},
    {"message_callbacks_of_every_form", message_callbacks_of_every_form},
    {"nothing_to_call_is_refused", nothing_to_call_is_refused},
    {"batch_callbacks_of_every_form", batch_callbacks_of_every_form},
    {"error_callbacks_of_every_form", error_callbacks_of_every_form},
    {"statuses_are_error_codes", statuses_are_error_codes},
    {"options_are_chained_and_remember_what_was_refused", options_are_chained_and_remember_what_was_refused},
    {"options_that_were_moved_from_are_refused", options_that_were_moved_from_are_refused},
    {"objects_that_are_none_and_objects_that_are_replaced", objects_that_are_none_and_objects_that_are_replaced},
    {"paths_of_every_kind", paths_of_every_kind},
};

} // namespace

int main(int argc, char **argv)
{
    return run_scenarios(scenarios, argc, argv);
}
