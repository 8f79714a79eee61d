/*
 * udsipc.hpp - udsipc.h for C++: handles that free themselves, any callable as callback, exceptions or error codes
 *
 * Header only, for C++11 and newer; link with -ludsipc. What the functions do, who may call them and how long they
 * block is said in udsipc.h.
 *
 *     udsipc::reader reader("/tmp/udsipc-example.sock", [](const std::string &message) {
 *         std::cout << message << std::endl;
 *     });
 *     reader.start();
 *
 *     udsipc::writer writer("/tmp/udsipc-example.sock");
 *     writer.start();
 *     writer.write("hello");
 *     writer.stop(5000);
 *
 * With C++20, and std::literals for 5s:
 *
 *     udsipc::reader reader("/tmp/udsipc-example.sock",
 *                           [](std::span<const std::byte> message, udsipc::connection from) {
 *                               std::cout << message.size() << " bytes from process " << from.peer().pid << std::endl;
 *                               return message.size() < 1000; // false: failed
 *                           },
 *                           udsipc::reader_options().socket_mode(0600).inactivity_timeout(1min));
 *     reader.start();
 *
 *     udsipc::writer writer("/tmp/udsipc-example.sock");
 *     writer.start();
 *     if (std::error_code code = writer.try_write(std::vector<std::byte>(500), 100ms))
 *         std::cerr << code.message() << std::endl;
 *     writer.stop(5s);
 *
 *
 * FAILURES
 *
 * A function throws udsipc::error, which is a std::system_error, when the C function fails. One whose name begins with
 * try_ returns the udsipc_status instead, for what is no surprise: a full queue, a timeout. A udsipc_status converts to
 * a std::error_code of udsipc::category(), which compares with std::errc too:
 *
 *     udsipc::writer writer("/tmp/udsipc-example.sock");
 *     std::error_code code = writer.try_write("hello");
 *     if (code == UDSIPC_ERR_BUFFER_FULL || code == std::errc::message_size)
 *         std::cerr << code.message() << ": " << udsipc::error::last_message() << std::endl;
 *
 * With -fno-exceptions the functions that throw do not exist. The others do all there is to do:
 *
 *     udsipc::writer writer;
 *     udsipc_status status = udsipc::writer::try_create("/tmp/udsipc-example.sock", writer);
 *     if (status == UDSIPC_OK)
 *         status = writer.try_start();
 *     if (status == UDSIPC_OK)
 *         status = writer.try_write("hello");
 *
 * Files that are compiled with exceptions and without, with and without RTTI, and for different standards can be linked
 * into one program and exchange all objects.
 *
 *
 * BYTES AND TIMES
 *
 * A message is a udsipc::view. It is made of text that ends in NUL; of a string or another container that has its
 * elements of one byte in one piece (std::string_view, std::vector<std::byte>, std::array, std::span); or of a pointer
 * and a size.
 *
 * A time is a number of milliseconds or a std::chrono::duration, which is rounded up to milliseconds. A negative time
 * is 0, as for a deadline that has passed. Floating point does not compile, since 0.5 would be no time at all.
 *
 * A number behind a pointer or an array is the number of bytes, behind anything else it is a time:
 *
 *     udsipc::writer writer("/tmp/udsipc-example.sock");
 *     std::string text = "hello";
 *     writer.write(text.data(), 2);                           // "he"
 *     writer.write(text, 1000);                               // waits for room for a second
 *     writer.write("hello", std::chrono::milliseconds(1000)); // so does this; 1000 alone would be refused
 *
 *
 * OBJECTS
 *
 * Objects can be moved, not copied. A writer or a reader that was made without arguments, or was moved from, is none:
 * it can be assigned to, and its calls fail with UDSIPC_ERR_NULL_POINTER. The same options can make several objects;
 * options that were moved from are refused.
 *
 * The destructor of an object that runs stops it first, within the option linger (one second by default): a writer
 * sends what is queued, a reader receives what it was sent, and what a writer has to give up is told to on_error. Call
 * stop before to allow for more time, or to hear how it ended.
 *
 *
 * CALLBACKS
 *
 * Callbacks are called on the threads of the library, those for errors also on the thread that stops or destroys the
 * object. A reader calls its callback on several threads at the same time, unless max_handler_threads is 1. A callable
 * need not be copyable. It must not destroy its own object, or assign to it.
 *
 * No exception leaves a callback: one that a message callback throws makes the message a failed one, one that an error
 * callback throws is dropped. Only where the callable was passed by a file that is compiled with -fno-exceptions, an
 * exception out of it ends the program.
 */
#ifndef UDSIPC_HPP
#define UDSIPC_HPP

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <ratio>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#if __cplusplus >= 201703L
#include <string_view>
#endif
#if __cplusplus > 201703L
#include <version>
#if defined(__cpp_lib_span)
#include <span>
#endif
#endif

#include "udsipc.h"

/* Whether this file is compiled with exceptions; undefined again at the end. */
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define UDSIPC_HPP_THROWS
#endif

/*
 * Files of different modes are one program because a class has the same data members in each, and a function that is
 * in several of them does the same in each. What has to differ has different names (detail::mode).
 */

namespace std {
template <> struct is_error_code_enum<udsipc_status> : true_type {};
} /* namespace std */

namespace udsipc {

class writer;
class reader;

namespace detail {

class category_of_statuses final : public std::error_category {
public:
    const char *name() const noexcept override { return "udsipc"; }
    std::string message(int status) const override { return udsipc_strerror(status); }
    /* What has no counterpart in std::errc is equal to itself only. */
    std::error_condition default_error_condition(int status) const noexcept override
    {
        switch (status) {
        case UDSIPC_OK: return std::error_condition();
        case UDSIPC_ERR_NULL_POINTER:
        case UDSIPC_ERR_INVALID_ARGUMENT:
        case UDSIPC_ERR_INVALID_SOCKET_PATH:
        case UDSIPC_ERR_INVALID_TIMEOUT:
        case UDSIPC_ERR_INVALID_BUFFER_SIZE:
        case UDSIPC_ERR_HANDLER_NULL:
        case UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE: return std::errc::invalid_argument;
        case UDSIPC_ERR_WOULD_DEADLOCK: return std::errc::resource_deadlock_would_occur;
        case UDSIPC_ERR_BUFFER_FULL: return std::errc::resource_unavailable_try_again;
        case UDSIPC_ERR_STOPPED: return std::errc::operation_canceled;
        case UDSIPC_ERR_MESSAGE_TOO_LARGE: return std::errc::message_size;
        case UDSIPC_ERR_TIMEOUT:
        case UDSIPC_ERR_BACKPRESSURE: return std::errc::timed_out;
        case UDSIPC_ERR_NO_CONSUMER: return std::errc::broken_pipe;
        case UDSIPC_ERR_NOT_CONNECTED: return std::errc::not_connected;
        case UDSIPC_ERR_CONNECTION_CLOSED: return std::errc::connection_reset;
        case UDSIPC_ERR_NOT_ACKNOWLEDGED: return std::errc::not_supported;
        case UDSIPC_ERR_IO: return std::errc::io_error;
        case UDSIPC_ERR_INVALID_LENGTH_PREFIX: return std::errc::bad_message;
        case UDSIPC_ERR_ADDRESS_IN_USE: return std::errc::address_in_use;
        case UDSIPC_ERR_PERMISSION_DENIED: return std::errc::permission_denied;
        case UDSIPC_ERR_SOCKET_GONE: return std::errc::no_such_file_or_directory;
        case UDSIPC_ERR_PANIC: return std::errc::state_not_recoverable;
        default: return std::error_condition(status, *this);
        }
    }
};

} /* namespace detail */

/*
 * The category of the std::error_codes that are a udsipc_status. Visible, so that a program and its plugins have one
 * object for it. Never destroyed: callbacks may still run while static objects are.
 */
__attribute__((visibility("default"))) inline const std::error_category &category() noexcept
{
    union storage {
        detail::category_of_statuses value;
        storage() noexcept : value() {}
        ~storage() {}
    };
    static const storage instance;
    return instance.value;
}

} /* namespace udsipc */

/* Beside udsipc_status, where std::error_code looks for it. */
inline std::error_code make_error_code(udsipc_status status) noexcept
{
    return std::error_code(static_cast<int>(status), udsipc::category());
}

namespace udsipc {

/* A failed call: status() and code() are why, what() is the whole text. */
class __attribute__((visibility("default"))) error : public std::system_error {
public:
    error(udsipc_status status, const std::string &text)
        : std::system_error(::make_error_code(status)), text_(text.empty() ? udsipc_strerror(status) : text)
    {
    }

    udsipc_status status() const noexcept { return static_cast<udsipc_status>(code().value()); }
    const char *what() const noexcept override { return text_.what(); }

    /* The text of this thread's last failure, see udsipc_last_error_message. */
    static std::string last_message()
    {
        std::string text(udsipc_last_error_message(nullptr, 0) + 1, '\0');
        text.resize(udsipc_last_error_message(&text[0], text.size()));
        return text;
    }

private:
    std::runtime_error text_; /* a text whose copies do not throw; system_error would append the message to its own */
};

#ifdef UDSIPC_HPP_THROWS
/* Throws error unless the status is UDSIPC_OK. For calls of udsipc.h. */
inline void check(udsipc_status status)
{
    if (status != UDSIPC_OK)
        throw error(status, error::last_message());
}
#endif

namespace detail {

template <typename T>
using is_number = std::integral_constant<bool, std::is_integral<T>::value && !std::is_same<T, bool>::value>;

template <typename T> constexpr uint64_t not_negative(T number) noexcept
{
    return number > T(0) ? static_cast<uint64_t>(number) : 0;
}

/* count * num / den, rounded up and saturated, where count is whole * den + rest. */
constexpr uint64_t scaled(uint64_t whole, uint64_t rest, uint64_t num) noexcept
{
    return whole > (UINT64_MAX - rest) / num ? UINT64_MAX : whole * num + rest;
}

template <typename MillisecondsPerTick> constexpr uint64_t milliseconds(uint64_t ticks) noexcept
{
    static_assert(MillisecondsPerTick::num <= INTMAX_MAX / MillisecondsPerTick::den, "this std::ratio is too fine");
    return scaled(ticks / MillisecondsPerTick::den,
                  (ticks % MillisecondsPerTick::den * MillisecondsPerTick::num + MillisecondsPerTick::den - 1) /
                      MillisecondsPerTick::den,
                  MillisecondsPerTick::num);
}

} /* namespace detail */

/* How long: milliseconds as an integer, or a std::chrono::duration of an integer. See BYTES AND TIMES, above. */
class duration {
public:
    template <typename Integer, typename std::enable_if<detail::is_number<Integer>::value, int>::type = 0>
    constexpr duration(Integer milliseconds) noexcept : ms_(detail::not_negative(milliseconds))
    {
    }
    template <typename Integer, typename Period,
              typename std::enable_if<detail::is_number<Integer>::value, int>::type = 0>
    constexpr duration(std::chrono::duration<Integer, Period> time) noexcept
        : ms_(detail::milliseconds<std::ratio_divide<Period, std::milli>>(detail::not_negative(time.count())))
    {
    }

    /* Not with floating point: give milliseconds as an integer, or a std::chrono::duration that counts in integers. */
    template <typename FloatingPoint,
              typename std::enable_if<std::is_floating_point<FloatingPoint>::value, int>::type = 0>
    duration(FloatingPoint) = delete;
    template <typename FloatingPoint, typename Period,
              typename std::enable_if<std::is_floating_point<FloatingPoint>::value, int>::type = 0>
    duration(std::chrono::duration<FloatingPoint, Period>) = delete;

    constexpr uint64_t ms() const noexcept { return ms_; }

private:
    uint64_t ms_;
};

/* No limit. (Qt has a macro called forever.) */
constexpr duration wait_forever = UDSIPC_WAIT_FOREVER;

namespace detail {

template <typename...> struct make_void {
    using type = void;
};

template <typename T>
using is_byte = std::integral_constant<bool, sizeof(T) == 1 && std::is_trivially_copyable<T>::value>;

template <typename T> struct is_text : std::is_same<T, char> {};
#ifdef __cpp_char8_t
template <> struct is_text<char8_t> : std::true_type {};
#endif

template <typename T> struct pointee : std::remove_cv<typename std::remove_pointer<T>::type> {};

template <typename T>
using is_text_pointer =
    std::integral_constant<bool, std::is_pointer<T>::value && is_text<typename pointee<T>::type>::value>;

/* data() that points to bytes, and size(). */
template <typename T, typename = void, typename = void> struct is_container : std::false_type {};
template <typename T>
struct is_container<T, typename make_void<decltype(*std::declval<const T &>().data())>::type,
                    typename make_void<decltype(std::declval<const T &>().size())>::type>
    : std::integral_constant<bool,
                             std::is_pointer<decltype(std::declval<const T &>().data())>::value &&
                                 std::is_convertible<decltype(std::declval<const T &>().size()), size_t>::value &&
                                 is_byte<typename pointee<decltype(std::declval<const T &>().data())>::type>::value> {};

} /* namespace detail */

/*
 * Bytes that belong to somebody else, as those of a std::string_view. What it is made of: see BYTES AND TIMES, above.
 * Converts to std::string_view, std::span<const std::byte> and std::span<const uint8_t> where the standard has them.
 */
class view {
public:
    view() noexcept : buffer_() {}
    view(const void *data, size_t size) noexcept : buffer_()
    {
        buffer_.data = static_cast<const uint8_t *>(data);
        buffer_.len = size;
    }
    view(const udsipc_buffer &buffer) noexcept : buffer_(buffer) {}

    template <typename Container, typename std::enable_if<detail::is_container<Container>::value, int>::type = 0>
    view(const Container &bytes) noexcept : view(bytes.data(), static_cast<size_t>(bytes.size()))
    {
    }

    /* Text that ends in NUL, without the NUL; a null pointer is empty. */
    template <typename Text, typename std::enable_if<detail::is_text_pointer<Text>::value, int>::type = 0>
    view(const Text &text) noexcept
        : view(text, text == nullptr ? 0 : std::char_traits<typename detail::pointee<Text>::type>::length(text))
    {
    }

    /* Text in an array, a literal for instance: up to its first NUL, or the whole array. */
    template <typename Character, size_t N, typename std::enable_if<detail::is_text<Character>::value, int>::type = 0>
    view(const Character (&text)[N]) noexcept : view(text, N)
    {
        if (const void *nul = std::memchr(text, 0, N))
            buffer_.len = static_cast<size_t>(static_cast<const Character *>(nul) - text);
    }

    /* An array of bytes, the whole of it. */
    template <typename Element, size_t N, typename std::enable_if<detail::is_byte<Element>::value &&
                                                                      !detail::is_text<Element>::value,
                                                                  int>::type = 0>
    view(const Element (&bytes)[N]) noexcept : view(bytes, N)
    {
    }

    const uint8_t *data() const noexcept { return buffer_.data; }
    size_t size() const noexcept { return buffer_.len; }
    bool empty() const noexcept { return buffer_.len == 0; }
    const uint8_t *begin() const noexcept { return data(); }
    const uint8_t *end() const noexcept { return data() + size(); }
    const udsipc_buffer &buffer() const noexcept { return buffer_; }
    std::string str() const { return std::string(begin(), end()); }

#if __cplusplus >= 201703L
    operator std::string_view() const noexcept { return {reinterpret_cast<const char *>(data()), size()}; }
#endif
#ifdef __cpp_lib_span
    operator std::span<const std::byte>() const noexcept
    {
        return {reinterpret_cast<const std::byte *>(data()), size()};
    }
#endif

private:
    udsipc_buffer buffer_;
};

/* The messages of a batch. Goes into a loop, `for (udsipc::view message : messages)`, and into a std::span. */
class batch {
public:
    batch(const udsipc_buffer *messages, size_t count) noexcept : messages_(messages), count_(count) {}

    const udsipc_buffer *data() const noexcept { return messages_; }
    size_t size() const noexcept { return count_; }
    const udsipc_buffer *begin() const noexcept { return messages_; }
    const udsipc_buffer *end() const noexcept { return messages_ + count_; }
    view operator[](size_t index) const noexcept { return messages_[index]; }

private:
    const udsipc_buffer *messages_;
    size_t count_;
};

/* Who sent a message; valid during the callback only. */
class connection {
public:
    struct credentials {
        int32_t pid;
        uint32_t uid;
        uint32_t gid;
    };

    explicit connection(const udsipc_connection *handle) noexcept : handle_(handle) {}

    uint64_t id() const noexcept { return udsipc_connection_id(handle_); }
    /* Of the message, or of the first of the batch; 0 if the writer does not take part in acknowledged delivery. */
    uint64_t sequence() const noexcept { return udsipc_message_sequence(handle_); }

    /* UDSIPC_ERR_NOT_ACKNOWLEDGED if the writer does not take part in acknowledged delivery. */
    UDSIPC_NODISCARD udsipc_status try_writer_id(std::array<uint8_t, 16> &id) const noexcept
    {
        return udsipc_connection_writer_id(handle_, id.data());
    }
    UDSIPC_NODISCARD udsipc_status try_peer(credentials &peer) const noexcept
    {
        return udsipc_connection_credentials(handle_, &peer.pid, &peer.uid, &peer.gid);
    }

#ifdef UDSIPC_HPP_THROWS
    std::array<uint8_t, 16> writer_id() const
    {
        std::array<uint8_t, 16> id;
        udsipc::check(try_writer_id(id));
        return id;
    }
    credentials peer() const
    {
        credentials peer;
        udsipc::check(try_peer(peer));
        return peer;
    }
#endif

private:
    const udsipc_connection *handle_;
};

namespace detail {

/* What userdata points to: the base of a callable, whose type only the two functions know. */
template <typename Result, typename... Arguments> struct slot {
    using result = Result;
    using caller = Result (*)(slot &self, Arguments... arguments);
    using destroyer = void (*)(slot *self);
    slot(caller call_, destroyer destroy_) noexcept : call(call_), destroy(destroy_) {}
    caller call;
    destroyer destroy;
};
using message_slot = slot<int32_t, view, connection>;
using batch_slot = slot<size_t, batch, connection>;
using error_slot = slot<void, udsipc_status, int, const char *>;

/* Hidden: another shared object of the process may be built with another version of this file, and so other slots. */
extern "C" {

__attribute__((visibility("hidden"))) inline int32_t udsipc_hpp_on_message(const uint8_t *data, size_t len,
                                                                           const udsipc_connection *from,
                                                                           void *userdata) noexcept
{
    message_slot &callable = *static_cast<message_slot *>(userdata);
    return callable.call(callable, view(data, len), connection(from));
}

__attribute__((visibility("hidden"))) inline size_t udsipc_hpp_on_messages(const udsipc_buffer *messages, size_t count,
                                                                           const udsipc_connection *from,
                                                                           void *userdata) noexcept
{
    batch_slot &callable = *static_cast<batch_slot *>(userdata);
    return callable.call(callable, batch(messages, count), connection(from));
}

__attribute__((visibility("hidden"))) inline void udsipc_hpp_on_error(int32_t status, int32_t os_errno,
                                                                      const char *context, void *userdata) noexcept
{
    error_slot &callable = *static_cast<error_slot *>(userdata);
    callable.call(callable, static_cast<udsipc_status>(status), os_errno, context);
}

} /* extern "C" */

/* How a callable is called: an argument of templates, so that the two kinds are different functions in one program. */
struct without_exceptions {
    template <typename Result, typename Call> static Result run(Call call, Result) { return call(); }
};
#ifdef UDSIPC_HPP_THROWS
struct with_exceptions {
    template <typename Result, typename Call> static Result run(Call call, Result if_it_throws)
    {
        try {
            return call();
        } catch (...) {
            return if_it_throws;
        }
    }
};
using mode = with_exceptions;
#else
using mode = without_exceptions;
#endif

template <typename T> struct identity {
    using type = T;
};

/* The forms that callables may have. */
struct view_and_connection {
    template <typename F>
    static auto call(F &f, view message, connection from) -> decltype(f(view(message), connection(from)))
    {
        return f(view(message), connection(from));
    }
};
struct view_alone {
    template <typename F> static auto call(F &f, view message, connection) -> decltype(f(view(message)))
    {
        return f(view(message));
    }
};
struct string_and_connection {
    template <typename F>
    static auto call(F &f, view message, connection from) -> decltype(f(message.str(), connection(from)))
    {
        return f(message.str(), connection(from));
    }
};
struct string_alone {
    template <typename F> static auto call(F &f, view message, connection) -> decltype(f(message.str()))
    {
        return f(message.str());
    }
};
struct batch_and_connection {
    template <typename F>
    static auto call(F &f, batch messages, connection from) -> decltype(f(batch(messages), connection(from)))
    {
        return f(batch(messages), connection(from));
    }
};
struct batch_alone {
    template <typename F> static auto call(F &f, batch messages, connection) -> decltype(f(batch(messages)))
    {
        return f(batch(messages));
    }
};
struct array_and_connection {
    template <typename F>
    static auto call(F &f, batch messages, connection from)
        -> decltype(f(messages.data(), messages.size(), connection(from)))
    {
        return f(messages.data(), messages.size(), connection(from));
    }
};
struct array_alone {
    template <typename F>
    static auto call(F &f, batch messages, connection) -> decltype(f(messages.data(), messages.size()))
    {
        return f(messages.data(), messages.size());
    }
};
struct status_errno_context {
    template <typename F>
    static auto call(F &f, udsipc_status status, int os_errno, const char *context)
        -> decltype(f(udsipc_status(status), int(os_errno), context))
    {
        return f(udsipc_status(status), int(os_errno), context);
    }
};
/* For a callable that has none, so that the text of the static_assert is all that the compiler says. */
struct no_form {
    template <typename... Arguments> static void call(Arguments &&...) {}
};

template <typename Form, typename F, typename Slot, typename = void> struct fits : std::false_type {};
template <typename Form, typename F, typename Result, typename... Arguments>
struct fits<Form, F, slot<Result, Arguments...>,
            typename make_void<decltype(Form::call(std::declval<F &>(), std::declval<Arguments>()...))>::type>
    : std::true_type {};

/* The first form that F has. Those behind it are not tried: a generic lambda might not compile with them. */
template <typename F, typename Slot, typename... Forms> struct first_form : identity<no_form> {};
template <typename F, typename Slot, typename Form, typename... Forms>
struct first_form<F, Slot, Form, Forms...>
    : std::conditional<fits<Form, F, Slot>::value, identity<Form>, first_form<F, Slot, Forms...>>::type {};

/* The answer of a message callback: 0 if the message was handled. */
template <typename Answer> struct message_answer {
    static_assert(sizeof(Answer) == 0, "udsipc: a message callback returns void, bool (true: handled) or udsipc_status "
                                       "(UDSIPC_OK: handled); not int, whose 0 could mean either");
    template <typename Call> static int32_t of(Call) { return 0; }
};
template <> struct message_answer<void> {
    template <typename Call> static int32_t of(Call call)
    {
        call();
        return 0;
    }
};
template <> struct message_answer<bool> {
    template <typename Call> static int32_t of(Call call) { return call() ? 0 : 1; }
};
template <> struct message_answer<udsipc_status> {
    template <typename Call> static int32_t of(Call call) { return static_cast<int32_t>(call()); }
};

/* The answer of a batch callback: how many messages were handled. */
template <typename Answer> struct batch_answer {
    static_assert(is_number<Answer>::value,
                  "udsipc: a batch callback returns void (all messages were handled) or size_t (how many were)");
    template <typename Call> static size_t of(Call call, size_t)
    {
        return static_cast<size_t>(not_negative(call()));
    }
};
template <> struct batch_answer<void> {
    template <typename Call> static size_t of(Call call, size_t count)
    {
        call();
        return count;
    }
};

/* A slot with its callable. Kind says how it is called. */
template <typename Kind, typename F, typename Mode> struct held : Kind::slot {
    template <typename G>
    explicit held(G &&callable_) : Kind::slot(call_it, destroy_it), callable(std::forward<G>(callable_))
    {
    }

    F callable;

private:
    template <typename Slot, typename... Arguments>
    static typename Slot::result call_it(Slot &self, Arguments... arguments)
    {
        return Kind::template call<Mode>(static_cast<held &>(self).callable, arguments...);
    }
    template <typename Slot> static void destroy_it(Slot *self) { delete static_cast<held *>(self); }
};

struct on_message {
    using slot = message_slot;
    template <typename Mode, typename F> static int32_t call(F &f, view message, connection from)
    {
        using form = typename first_form<F, slot, view_and_connection, view_alone, string_and_connection,
                                         string_alone>::type;
        static_assert(!std::is_same<form, no_form>::value,
                      "udsipc: a message callback takes (message) or (message, udsipc::connection). The message is a "
                      "udsipc::view, std::string_view, std::span<const std::byte> or std::string, no non-const &");
        using answer = typename std::decay<decltype(form::call(f, message, from))>::type;
        return Mode::template run<int32_t>(
            [&] { return message_answer<answer>::of([&] { return form::call(f, message, from); }); }, 1);
    }
};

struct on_messages {
    using slot = batch_slot;
    template <typename Mode, typename F> static size_t call(F &f, batch messages, connection from)
    {
        using form = typename first_form<F, slot, batch_and_connection, batch_alone, array_and_connection,
                                         array_alone>::type;
        static_assert(!std::is_same<form, no_form>::value,
                      "udsipc: a batch callback takes (messages) or (messages, udsipc::connection). The messages are a "
                      "udsipc::batch, a std::span<const udsipc_buffer>, or const udsipc_buffer * and size_t");
        using answer = typename std::decay<decltype(form::call(f, messages, from))>::type;
        return Mode::template run<size_t>(
            [&] {
                return batch_answer<answer>::of([&] { return form::call(f, messages, from); }, messages.size());
            },
            0);
    }
};

struct on_error {
    using slot = error_slot;
    template <typename Mode, typename F> static void call(F &f, udsipc_status status, int os_errno, const char *context)
    {
        using form = typename first_form<F, slot, status_errno_context>::type;
        static_assert(!std::is_same<form, no_form>::value,
                      "udsipc: an error callback takes (udsipc_status or std::error_code, int os_errno, "
                      "const char *context)");
        Mode::template run<bool>(
            [&] {
                form::call(f, status, os_errno, context);
                return true;
            },
            false);
    }
};

/* What can be there without anything to call: a pointer, a std::function or what else has an explicit operator bool. */
template <typename F>
using can_be_empty =
    std::integral_constant<bool, std::is_pointer<F>::value ||
                                     (std::is_class<F>::value && std::is_constructible<bool, const F &>::value &&
                                      !std::is_convertible<const F &, bool>::value)>;
template <typename F> bool is_empty(const F &f, std::true_type) { return !static_cast<bool>(f); }
template <typename F> bool is_empty(const F &, std::false_type) { return false; }

/* Owns a callable, or nothing. */
template <typename Kind> class callback {
public:
    using slot = typename Kind::slot;

    callback(std::nullptr_t) noexcept : slot_() {}
    template <typename F, typename Mode = mode,
              typename std::enable_if<!std::is_same<typename std::decay<F>::type, callback>::value, int>::type = 0>
    callback(F &&callable) : slot_()
    {
        using type = typename std::decay<F>::type;
        if (!detail::is_empty<type>(callable, can_be_empty<type>()))
            slot_.reset(new held<Kind, type, Mode>(std::forward<F>(callable)));
    }

    explicit operator bool() const noexcept { return slot_ != nullptr; }
    slot *get() const noexcept { return slot_.get(); }
    std::shared_ptr<slot> share() && { return std::shared_ptr<slot>(std::move(slot_)); }

private:
    struct deleter {
        void operator()(slot *self) const noexcept { self->destroy(self); }
    };
    std::unique_ptr<slot, deleter> slot_;
};

struct deleter {
    void operator()(udsipc_writer_options *options) const noexcept { udsipc_writer_options_free(options); }
    void operator()(udsipc_reader_options *options) const noexcept { udsipc_reader_options_free(options); }
    void operator()(udsipc_writer *writer) const noexcept { udsipc_writer_free(writer); }
    void operator()(udsipc_reader *reader) const noexcept { udsipc_reader_free(reader); }
};

template <typename T> using owner = std::unique_ptr<T, deleter>;

/* A text that a C function stores as snprintf does. It is asked again when counters in it have grown meanwhile. */
template <typename Ask> std::string text_of(const Ask &ask)
{
    std::string text;
    size_t length = ask(nullptr, 0);
    while (length > 0 && length + 1 > text.size()) {
        text.resize(length + 1);
        length = ask(&text[0], text.size());
    }
    text.resize(length);
    return text;
}

/* A path as an argument: anything that converts to std::string or has its characters in one piece. */
class socket_path {
public:
    socket_path(std::nullptr_t) : text_(), is_null_(true) {}
    socket_path(const char *path) : text_(path == nullptr ? "" : path), is_null_(path == nullptr) {}
    template <typename Text, typename std::enable_if<!std::is_pointer<Text>::value &&
                                                         std::is_convertible<const Text &, std::string>::value,
                                                     int>::type = 0>
    socket_path(const Text &path) : text_(to_string(path)), is_null_(false)
    {
    }
    template <typename Text, typename std::enable_if<is_container<Text>::value &&
                                                         !std::is_convertible<const Text &, std::string>::value,
                                                     int>::type = 0>
    socket_path(const Text &path) : text_(view(path).str()), is_null_(false)
    {
    }

    const char *c_str() const noexcept { return is_null_ ? nullptr : text_.c_str(); }
    /* A C function would take the path up to there. */
    bool has_nul() const noexcept { return text_.find('\0') != std::string::npos; }

private:
    static std::string to_string(std::string text) { return text; }

    std::string text_;
    bool is_null_;
};

/* What the options of writers and readers share. */
template <typename Handle> class options {
public:
    /*
     * UDSIPC_OK, or why the first of the refused settings was refused: no object is made with such options. A setting
     * itself never fails, so that a chain of them is checked in one place. UDSIPC_ERR_NULL_POINTER: moved from.
     */
    udsipc_status status() const noexcept
    {
        return handle_ == nullptr && status_ == UDSIPC_OK ? UDSIPC_ERR_NULL_POINTER : status_;
    }
    /* The text for status(). */
    std::string message() const
    {
        return handle_ == nullptr && status_ == UDSIPC_OK ? "the options were moved from" : message_;
    }
    Handle *get() const noexcept { return handle_.get(); }

protected:
    explicit options(Handle *fresh) : on_error_(), message_(), status_(UDSIPC_OK), handle_(fresh)
    {
        if (fresh == nullptr)
            record(UDSIPC_ERR_PANIC);
    }
    options(options &&other) noexcept
        : on_error_(std::move(other.on_error_)), message_(std::move(other.message_)), status_(other.status_),
          handle_(std::move(other.handle_))
    {
        other.status_ = UDSIPC_OK;
    }
    options &operator=(options &&other) noexcept
    {
        options taken(std::move(other)); /* first, so that an assignment to itself changes nothing */
        on_error_.swap(taken.on_error_);
        message_.swap(taken.message_);
        std::swap(status_, taken.status_);
        handle_.swap(taken.handle_);
        return *this;
    }
    ~options() = default;

    void record(udsipc_status status)
    {
        if (status == UDSIPC_OK || status_ != UDSIPC_OK || (handle_ == nullptr && status == UDSIPC_ERR_NULL_POINTER))
            return;
        status_ = status;
        message_ = error::last_message();
    }
    template <typename Setter> udsipc_status set_error_callback(Setter setter, callback<on_error> &&callback)
    {
        const udsipc_status status = setter(get(), callback ? udsipc_hpp_on_error : nullptr, callback.get());
        if (status == UDSIPC_OK)
            on_error_ = std::move(callback).share();
        return status;
    }

private:
    friend class udsipc::writer;
    friend class udsipc::reader;

    std::shared_ptr<error_slot> on_error_;
    std::string message_;
    udsipc_status status_;
    owner<Handle> handle_;
};

/* Whether an object may be made with these. */
template <typename Options> udsipc_status usable(const socket_path &path, const Options &options) noexcept
{
    if (options.status() != UDSIPC_OK)
        return options.status();
    return path.has_nul() ? UDSIPC_ERR_INVALID_SOCKET_PATH : UDSIPC_OK;
}

#ifdef UDSIPC_HPP_THROWS
template <typename Options>
void check_created(udsipc_status status, const socket_path &path, const Options &options)
{
    if (status == UDSIPC_OK)
        return;
    if (options.status() != UDSIPC_OK)
        throw error(status, options.message());
    if (path.has_nul())
        throw error(status, "a socket path has no NUL byte in it");
    throw error(status, error::last_message());
}
#endif

/* Data that an integer behind it is the size of: a pointer, or an array, to plain bytes or plain structs. */
template <typename T> struct is_plain : std::is_trivially_copyable<T> {};
template <> struct is_plain<void> : std::true_type {};
template <> struct is_plain<view> : std::false_type {};
template <> struct is_plain<udsipc_buffer> : std::false_type {};
template <typename T> struct is_plain<T *> : std::false_type {};
template <typename T, typename Size>
using is_data_and_size =
    std::integral_constant<bool, (std::is_pointer<T>::value || std::is_array<T>::value) && is_number<Size>::value &&
                                     is_plain<typename pointee<typename std::decay<T>::type>::type>::value>;

/* The size, or SIZE_MAX, which is refused, if the data is an array that has fewer bytes, or the size is negative. */
template <typename T, typename Size> size_t size_within(Size size) noexcept
{
    return size != 0 && (not_negative(size) == 0 || (std::is_array<T>::value && not_negative(size) > sizeof(T)))
               ? SIZE_MAX
               : static_cast<size_t>(size);
}

/* Whether the elements of a range stay where they are while others are looked at. */
template <typename Iterator, typename = void> struct is_stable : std::false_type {};
template <typename Iterator>
struct is_stable<Iterator, typename make_void<typename std::iterator_traits<Iterator>::iterator_category>::type>
    : std::integral_constant<bool,
                             std::is_lvalue_reference<typename std::iterator_traits<Iterator>::reference>::value &&
                                 std::is_base_of<std::forward_iterator_tag,
                                                 typename std::iterator_traits<Iterator>::iterator_category>::value> {};

} /* namespace detail */

/*
 * Callables, or nullptr. Made of any function, lambda or object that can be called with:
 *
 *     message_callback  (message) or (message, connection). The message is a udsipc::view, std::string_view,
 *                       std::span<const std::byte> or std::string; an `auto` is a udsipc::view. Returns void, bool
 *                       (false: failed) or udsipc_status.
 *     batch_callback    (messages) or (messages, connection). The messages are a udsipc::batch, a std::span<const
 *                       udsipc_buffer>, or const udsipc_buffer * and size_t. Returns void (all were handled) or how
 *                       many were handled: the message at that index has failed, and those behind it come again. An
 *                       exception is 0, so that messages come again that were handled: catch it where it comes from.
 *     error_callback    (status, os_errno, context). The status is a udsipc_status or std::error_code, the context a
 *                       const char * or std::string_view. What it returns is ignored.
 */
using message_callback = detail::callback<detail::on_message>;
using batch_callback = detail::callback<detail::on_messages>;
using error_callback = detail::callback<detail::on_error>;

/* A setting of named options, and of temporary ones, which returns options that live as long as what they are bound to:
 * const auto &options = udsipc::writer_options().linger(5s); */
#define UDSIPC_HPP_SETTING(options, setting, call) \
    options &setting & \
    { \
        record(call); \
        return *this; \
    } \
    options setting && \
    { \
        record(call); \
        return std::move(*this); \
    }

/* Whether the reader is asked to acknowledge messages. With `required` nothing is sent to a reader that cannot. */
enum class acknowledge : int32_t { off = 0, if_possible = 1, required = 2 };

/*
 * Settings are chained: udsipc::writer_options().max_attempts(3).linger(5s). One that is refused is found out when a
 * writer is made, and by status(). A time has a second name, which is that of the option in udsipc.h: linger_ms.
 */
class writer_options : public detail::options<udsipc_writer_options> {
public:
    writer_options() : options(udsipc_writer_options_new()) {}

    UDSIPC_HPP_SETTING(writer_options, max_buffered_writes(uint32_t messages),
                       udsipc_writer_options_set_max_buffered_writes(get(), messages))
    UDSIPC_HPP_SETTING(writer_options, max_buffered_bytes(uint64_t bytes),
                       udsipc_writer_options_set_max_buffered_bytes(get(), bytes))
    UDSIPC_HPP_SETTING(writer_options, max_message_size(uint64_t bytes),
                       udsipc_writer_options_set_max_message_size(get(), bytes))
    UDSIPC_HPP_SETTING(writer_options, write_timeout(duration time),
                       udsipc_writer_options_set_write_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, write_timeout_ms(duration time),
                       udsipc_writer_options_set_write_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, dial_timeout(duration time),
                       udsipc_writer_options_set_dial_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, dial_timeout_ms(duration time),
                       udsipc_writer_options_set_dial_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, max_backoff(duration time),
                       udsipc_writer_options_set_max_backoff_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, max_backoff_ms(duration time),
                       udsipc_writer_options_set_max_backoff_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, write_buffer_size(uint32_t bytes),
                       udsipc_writer_options_set_write_buffer_size(get(), bytes))
    UDSIPC_HPP_SETTING(writer_options, max_attempts(uint32_t attempts),
                       udsipc_writer_options_set_max_attempts(get(), attempts))
    UDSIPC_HPP_SETTING(writer_options, drain_until_deadline(bool on),
                       udsipc_writer_options_set_drain_until_deadline(get(), on))
    UDSIPC_HPP_SETTING(writer_options, linger(duration time), udsipc_writer_options_set_linger_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, linger_ms(duration time), udsipc_writer_options_set_linger_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(writer_options, acknowledge(udsipc::acknowledge mode),
                       udsipc_writer_options_set_acknowledge(get(), static_cast<int32_t>(mode)))
    UDSIPC_HPP_SETTING(writer_options, redeliver(bool on), udsipc_writer_options_set_redeliver(get(), on))
    UDSIPC_HPP_SETTING(writer_options, on_error(error_callback callback),
                       set_error_callback(udsipc_writer_options_set_error_callback, std::move(callback)))
};

/* Settings are chained, as in writer_options. */
class reader_options : public detail::options<udsipc_reader_options> {
public:
    reader_options() : options(udsipc_reader_options_new()) {}

    UDSIPC_HPP_SETTING(reader_options, max_message_size(uint64_t bytes),
                       udsipc_reader_options_set_max_message_size(get(), bytes))
    UDSIPC_HPP_SETTING(reader_options, inactivity_timeout(duration time),
                       udsipc_reader_options_set_inactivity_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(reader_options, inactivity_timeout_ms(duration time),
                       udsipc_reader_options_set_inactivity_timeout_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(reader_options, max_accept_errors(uint32_t count),
                       udsipc_reader_options_set_max_accept_errors(get(), count))
    UDSIPC_HPP_SETTING(reader_options, read_buffer_size(uint32_t bytes),
                       udsipc_reader_options_set_read_buffer_size(get(), bytes))
    UDSIPC_HPP_SETTING(reader_options, max_handler_threads(uint32_t threads),
                       udsipc_reader_options_set_max_handler_threads(get(), threads))
    UDSIPC_HPP_SETTING(reader_options, callback_stack_size(uint64_t bytes),
                       udsipc_reader_options_set_callback_stack_size(get(), bytes))
    UDSIPC_HPP_SETTING(reader_options, max_connections(uint32_t count),
                       udsipc_reader_options_set_max_connections(get(), count))
    UDSIPC_HPP_SETTING(reader_options, max_shared_memory(uint64_t bytes),
                       udsipc_reader_options_set_max_shared_memory(get(), bytes))
    UDSIPC_HPP_SETTING(reader_options, socket_mode(uint32_t mode), udsipc_reader_options_set_socket_mode(get(), mode))
    UDSIPC_HPP_SETTING(reader_options, socket_group(uint32_t gid), udsipc_reader_options_set_socket_group(get(), gid))
    UDSIPC_HPP_SETTING(reader_options, allow_uid(uint32_t id), udsipc_reader_options_allow_uid(get(), id))
    UDSIPC_HPP_SETTING(reader_options, allow_gid(uint32_t id), udsipc_reader_options_allow_gid(get(), id))
    UDSIPC_HPP_SETTING(reader_options, listen_fd_name(const std::string &name),
                       udsipc_reader_options_set_listen_fd_name(get(), name.c_str()))
    UDSIPC_HPP_SETTING(reader_options, listen_fd(int32_t fd), udsipc_reader_options_set_listen_fd(get(), fd))
    UDSIPC_HPP_SETTING(reader_options, linger(duration time), udsipc_reader_options_set_linger_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(reader_options, linger_ms(duration time), udsipc_reader_options_set_linger_ms(get(), time.ms()))
    UDSIPC_HPP_SETTING(reader_options, use_systemd(bool on), udsipc_reader_options_set_use_systemd(get(), on))
    UDSIPC_HPP_SETTING(reader_options, on_error(error_callback callback),
                       set_error_callback(udsipc_reader_options_set_error_callback, std::move(callback)))
};

#undef UDSIPC_HPP_SETTING

/* The sending end. */
class writer {
public:
    /* Nothing yet: assign to it, or give it to try_create. */
    writer() noexcept : on_error_(), handle_() {}
    writer(writer &&other) noexcept = default;
    writer &operator=(writer other) noexcept
    {
        on_error_.swap(other.on_error_); /* what was here ends with `other`: its callback outlives its handle */
        handle_.swap(other.handle_);
        return *this;
    }

    /* Makes a writer in `out`; what was there ends. `out` stays as it is if the call fails. */
    UDSIPC_NODISCARD static udsipc_status try_create(const detail::socket_path &path, const writer_options &options,
                                                     writer &out) noexcept
    {
        udsipc_status status = detail::usable(path, options);
        udsipc_writer *handle = nullptr;
        if (status == UDSIPC_OK)
            status = udsipc_writer_new(path.c_str(), options.get(), &handle);
        if (status == UDSIPC_OK)
            out = writer(handle, options);
        return status;
    }
    UDSIPC_NODISCARD static udsipc_status try_create(const detail::socket_path &path, writer &out)
    {
        return try_create(path, writer_options(), out);
    }

    UDSIPC_NODISCARD udsipc_status try_start() noexcept { return udsipc_writer_start(get()); }
    UDSIPC_NODISCARD udsipc_status try_write(view message) noexcept
    {
        return udsipc_write_message(get(), message.data(), message.size());
    }
    /* Waits for room in the queue. */
    UDSIPC_NODISCARD udsipc_status try_write(view message, duration timeout) noexcept
    {
        return udsipc_write_message_timeout(get(), message.data(), message.size(), timeout.ms());
    }
    /* The first bytes of what is at a pointer, or in an array. */
    template <typename Data, typename Size,
              typename std::enable_if<detail::is_data_and_size<Data, Size>::value, int>::type = 0>
    UDSIPC_NODISCARD udsipc_status try_write(const Data &data, Size bytes) noexcept
    {
        return udsipc_write_message(get(), data, detail::size_within<Data>(bytes));
    }
    /* Several messages, see udsipc_write_messages. */
    UDSIPC_NODISCARD udsipc_status try_write(const udsipc_buffer *messages, size_t count, size_t &accepted) noexcept
    {
        return udsipc_write_messages(get(), messages, count, &accepted);
    }
    /* All messages of a container or range, up to the first that is refused: its index is then in `accepted`. */
    template <typename Messages>
    UDSIPC_NODISCARD udsipc_status try_write_many(Messages &&messages, size_t &accepted)
    {
        using std::begin;
        constexpr bool is_stable = detail::is_stable<decltype(begin(messages))>::value;
        udsipc_buffer chunk[is_stable ? 64 : 1];
        size_t pending = 0;
        accepted = 0;
        for (auto &&message : messages) {
            chunk[pending++] = to_view(message).buffer();
            if (pending < sizeof chunk / sizeof chunk[0])
                continue;
            const udsipc_status status = write_chunk(chunk, pending, accepted);
            if (status != UDSIPC_OK)
                return status;
            pending = 0;
        }
        return write_chunk(chunk, pending, accepted);
    }
    UDSIPC_NODISCARD udsipc_status try_write_many(std::initializer_list<view> messages, size_t &accepted) noexcept
    {
        return try_write_many<const std::initializer_list<view> &>(messages, accepted);
    }
    UDSIPC_NODISCARD udsipc_status try_flush(duration timeout) noexcept
    {
        return udsipc_writer_flush(get(), timeout.ms());
    }
    udsipc_status try_stop(duration timeout) noexcept { return udsipc_writer_stop(get(), timeout.ms()); }
    udsipc_status try_dispatch(duration timeout = 0) noexcept { return udsipc_writer_dispatch(get(), timeout.ms()); }
    UDSIPC_NODISCARD udsipc_status try_metrics(udsipc_writer_metrics &metrics) const noexcept
    {
        return udsipc_writer_get_metrics(get(), &metrics, sizeof metrics);
    }

#ifdef UDSIPC_HPP_THROWS
    explicit writer(const detail::socket_path &path) : writer(path, writer_options()) {}
    writer(const detail::socket_path &path, const writer_options &options) : writer()
    {
        detail::check_created(try_create(path, options, *this), path, options);
    }

    void start() { udsipc::check(try_start()); }
    void write(view message) { udsipc::check(try_write(message)); }
    void write(view message, duration timeout) { udsipc::check(try_write(message, timeout)); }
    template <typename Data, typename Size,
              typename std::enable_if<detail::is_data_and_size<Data, Size>::value, int>::type = 0>
    void write(const Data &data, Size bytes)
    {
        if (std::is_array<Data>::value && detail::size_within<Data>(bytes) == SIZE_MAX)
            throw error(UDSIPC_ERR_INVALID_ARGUMENT,
                        std::to_string(bytes) + " is no size of an array of " + std::to_string(sizeof(Data)) +
                            " bytes; a timeout is written as std::chrono::milliseconds(" + std::to_string(bytes) + ")");
        udsipc::check(try_write(data, bytes));
    }
    /* Returns how many were accepted: less than all if the queue has become full. Throws for any other reason. */
    template <typename Messages> UDSIPC_NODISCARD size_t write_many(Messages &&messages)
    {
        size_t accepted = 0;
        const udsipc_status status = try_write_many(std::forward<Messages>(messages), accepted);
        udsipc::check(status == UDSIPC_ERR_BUFFER_FULL ? UDSIPC_OK : status);
        return accepted;
    }
    UDSIPC_NODISCARD size_t write_many(std::initializer_list<view> messages)
    {
        return write_many<const std::initializer_list<view> &>(messages);
    }
    void flush(duration timeout) { udsipc::check(try_flush(timeout)); }
    void stop(duration timeout) { udsipc::check(try_stop(timeout)); }
    void dispatch(duration timeout = 0) { udsipc::check(try_dispatch(timeout)); }
    udsipc_writer_metrics metrics() const
    {
        udsipc_writer_metrics metrics;
        udsipc::check(try_metrics(metrics));
        return metrics;
    }
#endif

    std::string socket_path() const { return udsipc_writer_socket_path(get()); }
    /* One line for a log, see udsipc_writer_describe. */
    std::string describe() const
    {
        return detail::text_of([this](char *text, size_t size) { return udsipc_writer_describe(get(), text, size); });
    }
    /* The counters as text for Prometheus, see udsipc_writer_metrics_prometheus; empty if the labels would not parse. */
    std::string metrics_prometheus(const std::string &labels = std::string()) const
    {
        return detail::text_of([this, &labels](char *text, size_t size) {
            return udsipc_writer_metrics_prometheus(get(), labels.c_str(), text, size);
        });
    }
    bool is_connected() const noexcept { return udsipc_writer_is_connected(get()) != 0; }
    int fd() const noexcept { return udsipc_writer_fd(get()); }

    udsipc_writer *get() const noexcept { return handle_.get(); }

private:
    writer(udsipc_writer *handle, const writer_options &options) noexcept
        : on_error_(options.on_error_), handle_(handle)
    {
    }

    static view to_view(view message) noexcept { return message; }
    udsipc_status write_chunk(const udsipc_buffer *messages, size_t count, size_t &accepted) noexcept
    {
        size_t more = 0;
        const udsipc_status status = udsipc_write_messages(get(), messages, count, &more);
        accepted += more;
        return status;
    }

    std::shared_ptr<detail::error_slot> on_error_; /* before the handle, and so destroyed after it */
    detail::owner<udsipc_writer> handle_;
};

/* The receiving end. */
class reader {
public:
    /* Nothing yet: assign to it, or give it to try_create. */
    reader() noexcept : on_message_(nullptr), on_messages_(nullptr), on_error_(), handle_() {}
    reader(reader &&other) noexcept = default;
    reader &operator=(reader other) noexcept
    {
        std::swap(on_message_, other.on_message_); /* what was here ends with `other`: callbacks outlive the handle */
        std::swap(on_messages_, other.on_messages_);
        on_error_.swap(other.on_error_);
        handle_.swap(other.handle_);
        return *this;
    }

    /* Makes a reader in `out`; what was there ends. `out` stays as it is if the call fails. */
    UDSIPC_NODISCARD static udsipc_status try_create(const detail::socket_path &path, message_callback on_message,
                                                     const reader_options &options, reader &out) noexcept
    {
        udsipc_status status = detail::usable(path, options);
        udsipc_reader *handle = nullptr;
        if (status == UDSIPC_OK)
            status = udsipc_reader_new(path.c_str(), on_message ? detail::udsipc_hpp_on_message : nullptr,
                                       on_message.get(), options.get(), &handle);
        if (status == UDSIPC_OK)
            out = reader(handle, options, std::move(on_message), nullptr);
        return status;
    }
    UDSIPC_NODISCARD static udsipc_status try_create(const detail::socket_path &path, message_callback on_message,
                                                     reader &out)
    {
        return try_create(path, std::move(on_message), reader_options(), out);
    }
    /* A reader whose callback gets many messages at a time. */
    UDSIPC_NODISCARD static udsipc_status try_create_batched(const detail::socket_path &path,
                                                             batch_callback on_messages, const reader_options &options,
                                                             reader &out) noexcept
    {
        udsipc_status status = detail::usable(path, options);
        udsipc_reader *handle = nullptr;
        if (status == UDSIPC_OK)
            status = udsipc_reader_new_batched(path.c_str(), on_messages ? detail::udsipc_hpp_on_messages : nullptr,
                                               on_messages.get(), options.get(), &handle);
        if (status == UDSIPC_OK)
            out = reader(handle, options, nullptr, std::move(on_messages));
        return status;
    }
    UDSIPC_NODISCARD static udsipc_status try_create_batched(const detail::socket_path &path,
                                                             batch_callback on_messages, reader &out)
    {
        return try_create_batched(path, std::move(on_messages), reader_options(), out);
    }

    UDSIPC_NODISCARD udsipc_status try_start() noexcept { return udsipc_reader_start(get()); }
    udsipc_status try_stop(duration timeout) noexcept { return udsipc_reader_stop(get(), timeout.ms()); }
    udsipc_status try_dispatch(duration timeout = 0) noexcept { return udsipc_reader_dispatch(get(), timeout.ms()); }
    UDSIPC_NODISCARD udsipc_status try_metrics(udsipc_reader_metrics &metrics) const noexcept
    {
        return udsipc_reader_get_metrics(get(), &metrics, sizeof metrics);
    }

#ifdef UDSIPC_HPP_THROWS
    reader(const detail::socket_path &path, message_callback on_message)
        : reader(path, std::move(on_message), reader_options())
    {
    }
    reader(const detail::socket_path &path, message_callback on_message, const reader_options &options) : reader()
    {
        detail::check_created(try_create(path, std::move(on_message), options, *this), path, options);
    }
    /* A reader whose callback gets many messages at a time. */
    UDSIPC_NODISCARD static reader batched(const detail::socket_path &path, batch_callback on_messages,
                                           const reader_options &options = reader_options())
    {
        reader made;
        detail::check_created(try_create_batched(path, std::move(on_messages), options, made), path, options);
        return made;
    }

    void start() { udsipc::check(try_start()); }
    void stop(duration timeout) { udsipc::check(try_stop(timeout)); }
    void dispatch(duration timeout = 0) { udsipc::check(try_dispatch(timeout)); }
    udsipc_reader_metrics metrics() const
    {
        udsipc_reader_metrics metrics;
        udsipc::check(try_metrics(metrics));
        return metrics;
    }
#endif

    std::string socket_path() const { return udsipc_reader_socket_path(get()); }
    /* One line for a log, see udsipc_reader_describe. */
    std::string describe() const
    {
        return detail::text_of([this](char *text, size_t size) { return udsipc_reader_describe(get(), text, size); });
    }
    /* The counters as text for Prometheus, see udsipc_reader_metrics_prometheus; empty if the labels would not parse. */
    std::string metrics_prometheus(const std::string &labels = std::string()) const
    {
        return detail::text_of([this, &labels](char *text, size_t size) {
            return udsipc_reader_metrics_prometheus(get(), labels.c_str(), text, size);
        });
    }
    int fd() const noexcept { return udsipc_reader_fd(get()); }

    udsipc_reader *get() const noexcept { return handle_.get(); }

private:
    reader(udsipc_reader *handle, const reader_options &options, message_callback on_message,
           batch_callback on_messages) noexcept
        : on_message_(std::move(on_message)), on_messages_(std::move(on_messages)),
          on_error_(options.on_error_), handle_(handle)
    {
    }

    message_callback on_message_; /* these before the handle, and so destroyed after it */
    batch_callback on_messages_;
    std::shared_ptr<detail::error_slot> on_error_;
    detail::owner<udsipc_reader> handle_;
};

} /* namespace udsipc */

#undef UDSIPC_HPP_THROWS

#endif /* UDSIPC_HPP */
