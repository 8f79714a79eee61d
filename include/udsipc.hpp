/*
 * udsipc.hpp - udsipc.h for C++11: handles that free themselves, any function as callback, errors as exceptions
 *
 * Header only; link with -ludsipc. What the functions do, who may call them and how long they block is said in
 * udsipc.h.
 *
 *     udsipc::writer writer("/run/app/app.sock");
 *     writer.start();
 *     writer.write("hello");
 *     writer.stop(1000);
 *
 *     udsipc::reader reader("/run/app/app.sock", [](udsipc::view message, udsipc::connection) {
 *         std::cout << message.str() << std::endl;
 *     });
 *     reader.start();
 *
 * Every function throws udsipc::error when the C function fails. Those named try_ return the status instead, for what
 * is no surprise: a full queue, a timeout.
 *
 * Objects can be moved, not copied, and an object that was moved from may only be destroyed or assigned to. A
 * destructor stops at once: call stop first to send, or to receive, what is left. Callbacks are called on the threads
 * of the library. No exception leaves a callback: one that a message callback throws makes the message a failed one,
 * one that an error callback throws is dropped. A callback must not destroy its own object.
 */
#ifndef UDSIPC_HPP
#define UDSIPC_HPP

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "udsipc.h"

namespace udsipc {

/* A failed call: status() is why, what() the whole text. */
class error : public std::runtime_error {
public:
    error(udsipc_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    udsipc_status status() const noexcept { return status_; }

    /* The text of this thread's last failure, see udsipc_last_error_message. */
    static std::string last_message()
    {
        std::string text(udsipc_last_error_message(nullptr, 0) + 1, '\0');
        text.resize(udsipc_last_error_message(&text[0], text.size()));
        return text;
    }

private:
    udsipc_status status_;
};

inline void check(udsipc_status status)
{
    if (status != UDSIPC_OK)
        throw error(status, error::last_message());
}

/* Bytes that belong to somebody else. */
class view {
public:
    view() noexcept : buffer_() {}
    view(const void *data, size_t size) noexcept : buffer_()
    {
        buffer_.data = static_cast<const uint8_t *>(data);
        buffer_.len = size;
    }
    view(const udsipc_buffer &buffer) noexcept : buffer_(buffer) {}
    view(const std::string &text) noexcept : view(text.data(), text.size()) {}
    view(const std::vector<uint8_t> &bytes) noexcept : view(bytes.data(), bytes.size()) {}
    view(const char *text) : view(text, std::char_traits<char>::length(text)) {}

    const uint8_t *data() const noexcept { return buffer_.data; }
    size_t size() const noexcept { return buffer_.len; }
    const uint8_t *begin() const noexcept { return data(); }
    const uint8_t *end() const noexcept { return data() + size(); }
    std::string str() const { return std::string(begin(), end()); }

private:
    udsipc_buffer buffer_;
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
    credentials peer() const
    {
        credentials peer;
        check(udsipc_connection_credentials(handle_, &peer.pid, &peer.uid, &peer.gid));
        return peer;
    }

private:
    const udsipc_connection *handle_;
};

/* Throwing, or for the batch callback returning less than the count, says that a message failed. */
using message_callback = std::function<void(view message, connection from)>;
using batch_callback = std::function<size_t(const udsipc_buffer *messages, size_t count, connection from)>;
using error_callback = std::function<void(udsipc_status status, int os_errno, const char *context)>;

namespace detail {

extern "C" {

inline int32_t udsipc_hpp_on_message(const uint8_t *data, size_t len, const udsipc_connection *from,
                                     void *userdata) noexcept
{
    try {
        (*static_cast<message_callback *>(userdata))(view(data, len), connection(from));
        return 0;
    } catch (...) {
        return 1;
    }
}

inline size_t udsipc_hpp_on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *from,
                                     void *userdata) noexcept
{
    try {
        return (*static_cast<batch_callback *>(userdata))(messages, count, connection(from));
    } catch (...) {
        return 0;
    }
}

inline void udsipc_hpp_on_error(int32_t status, int32_t os_errno, const char *context, void *userdata) noexcept
{
    try {
        (*static_cast<error_callback *>(userdata))(static_cast<udsipc_status>(status), os_errno, context);
    } catch (...) {
    }
}

} /* extern "C" */

struct deleter {
    void operator()(udsipc_writer_options *options) const noexcept { udsipc_writer_options_free(options); }
    void operator()(udsipc_reader_options *options) const noexcept { udsipc_reader_options_free(options); }
    void operator()(udsipc_writer *writer) const noexcept { udsipc_writer_free(writer); }
    void operator()(udsipc_reader *reader) const noexcept { udsipc_reader_free(reader); }
};

template <typename T> using owner = std::unique_ptr<T, deleter>;

template <typename T> owner<T> own(T *fresh)
{
    if (fresh == nullptr)
        throw error(UDSIPC_ERR_PANIC, error::last_message());
    return owner<T>(fresh);
}

} /* namespace detail */

/* Settings are chained: udsipc::writer_options().max_attempts(3).on_error(report). */
class writer_options {
public:
    writer_options() : handle_(detail::own(udsipc_writer_options_new())) {}

    writer_options &max_buffered_writes(uint32_t messages)
    {
        return checked(udsipc_writer_options_set_max_buffered_writes(get(), messages));
    }
    writer_options &max_buffered_bytes(uint64_t bytes)
    {
        return checked(udsipc_writer_options_set_max_buffered_bytes(get(), bytes));
    }
    writer_options &max_message_size(uint64_t bytes)
    {
        return checked(udsipc_writer_options_set_max_message_size(get(), bytes));
    }
    writer_options &write_timeout_ms(uint64_t ms)
    {
        return checked(udsipc_writer_options_set_write_timeout_ms(get(), ms));
    }
    writer_options &dial_timeout_ms(uint64_t ms)
    {
        return checked(udsipc_writer_options_set_dial_timeout_ms(get(), ms));
    }
    writer_options &max_backoff_ms(uint64_t ms) { return checked(udsipc_writer_options_set_max_backoff_ms(get(), ms)); }
    writer_options &write_buffer_size(uint32_t bytes)
    {
        return checked(udsipc_writer_options_set_write_buffer_size(get(), bytes));
    }
    writer_options &max_attempts(uint32_t attempts)
    {
        return checked(udsipc_writer_options_set_max_attempts(get(), attempts));
    }
    writer_options &drain_until_deadline(bool on)
    {
        return checked(udsipc_writer_options_set_drain_until_deadline(get(), on));
    }
    writer_options &on_error(error_callback callback)
    {
        auto shared = std::make_shared<error_callback>(std::move(callback));
        checked(udsipc_writer_options_set_error_callback(get(), detail::udsipc_hpp_on_error, shared.get()));
        on_error_ = std::move(shared);
        return *this;
    }

    udsipc_writer_options *get() const noexcept { return handle_.get(); }

private:
    friend class writer;

    writer_options &checked(udsipc_status status)
    {
        check(status);
        return *this;
    }

    std::shared_ptr<error_callback> on_error_;
    detail::owner<udsipc_writer_options> handle_;
};

/* The sending end. */
class writer {
public:
    explicit writer(const std::string &socket_path) : writer(socket_path, writer_options()) {}
    writer(const std::string &socket_path, const writer_options &options) : on_error_(options.on_error_)
    {
        udsipc_writer *fresh = nullptr;
        check(udsipc_writer_new(socket_path.c_str(), options.get(), &fresh));
        handle_.reset(fresh);
    }
    writer(writer &&other) = default;
    writer &operator=(writer &&other) noexcept
    {
        writer old(std::move(*this)); /* its callback must outlive its handle */
        on_error_ = std::move(other.on_error_);
        handle_ = std::move(other.handle_);
        return *this;
    }

    void start() { check(udsipc_writer_start(get())); }
    void write(view message) { check(try_write(message)); }
    void write(view message, uint64_t timeout_ms) { check(try_write(message, timeout_ms)); }
    void flush(uint64_t timeout_ms) { check(try_flush(timeout_ms)); }
    void stop(uint64_t timeout_ms) { check(try_stop(timeout_ms)); }
    void dispatch(uint64_t timeout_ms = 0) { check(udsipc_writer_dispatch(get(), timeout_ms)); }

    udsipc_status try_write(view message) noexcept
    {
        return udsipc_write_message(get(), message.data(), message.size());
    }
    udsipc_status try_write(view message, uint64_t timeout_ms) noexcept
    {
        return udsipc_write_message_timeout(get(), message.data(), message.size(), timeout_ms);
    }
    udsipc_status try_write(const udsipc_buffer *messages, size_t count, size_t &accepted) noexcept
    {
        return udsipc_write_messages(get(), messages, count, &accepted);
    }
    udsipc_status try_flush(uint64_t timeout_ms) noexcept { return udsipc_writer_flush(get(), timeout_ms); }
    udsipc_status try_stop(uint64_t timeout_ms) noexcept { return udsipc_writer_stop(get(), timeout_ms); }

    udsipc_writer_metrics metrics() const
    {
        udsipc_writer_metrics metrics;
        check(udsipc_writer_get_metrics(get(), &metrics, sizeof metrics));
        return metrics;
    }
    std::string socket_path() const { return udsipc_writer_socket_path(get()); }
    bool is_connected() const noexcept { return udsipc_writer_is_connected(get()) != 0; }
    int fd() const noexcept { return udsipc_writer_fd(get()); }

    udsipc_writer *get() const noexcept { return handle_.get(); }

private:
    std::shared_ptr<error_callback> on_error_; /* before the handle, and so destroyed after it */
    detail::owner<udsipc_writer> handle_;
};

/* Settings are chained, as in writer_options. */
class reader_options {
public:
    reader_options() : handle_(detail::own(udsipc_reader_options_new())) {}

    reader_options &max_message_size(uint64_t bytes)
    {
        return checked(udsipc_reader_options_set_max_message_size(get(), bytes));
    }
    reader_options &inactivity_timeout_ms(uint64_t ms)
    {
        return checked(udsipc_reader_options_set_inactivity_timeout_ms(get(), ms));
    }
    reader_options &max_accept_errors(uint32_t count)
    {
        return checked(udsipc_reader_options_set_max_accept_errors(get(), count));
    }
    reader_options &read_buffer_size(uint32_t bytes)
    {
        return checked(udsipc_reader_options_set_read_buffer_size(get(), bytes));
    }
    reader_options &max_handler_threads(uint32_t threads)
    {
        return checked(udsipc_reader_options_set_max_handler_threads(get(), threads));
    }
    reader_options &max_connections(uint32_t count)
    {
        return checked(udsipc_reader_options_set_max_connections(get(), count));
    }
    reader_options &socket_mode(uint32_t mode) { return checked(udsipc_reader_options_set_socket_mode(get(), mode)); }
    reader_options &socket_group(uint32_t gid) { return checked(udsipc_reader_options_set_socket_group(get(), gid)); }
    reader_options &allow_uid(uint32_t id) { return checked(udsipc_reader_options_allow_uid(get(), id)); }
    reader_options &allow_gid(uint32_t id) { return checked(udsipc_reader_options_allow_gid(get(), id)); }
    reader_options &listen_fd_name(const std::string &name)
    {
        return checked(udsipc_reader_options_set_listen_fd_name(get(), name.c_str()));
    }
    reader_options &use_systemd(bool on) { return checked(udsipc_reader_options_set_use_systemd(get(), on)); }
    reader_options &on_error(error_callback callback)
    {
        auto shared = std::make_shared<error_callback>(std::move(callback));
        checked(udsipc_reader_options_set_error_callback(get(), detail::udsipc_hpp_on_error, shared.get()));
        on_error_ = std::move(shared);
        return *this;
    }

    udsipc_reader_options *get() const noexcept { return handle_.get(); }

private:
    friend class reader;

    reader_options &checked(udsipc_status status)
    {
        check(status);
        return *this;
    }

    std::shared_ptr<error_callback> on_error_;
    detail::owner<udsipc_reader_options> handle_;
};

/* The receiving end. */
class reader {
public:
    reader(const std::string &socket_path, message_callback on_message)
        : reader(socket_path, std::move(on_message), reader_options())
    {
    }
    reader(const std::string &socket_path, message_callback on_message, const reader_options &options)
        : on_message_(new message_callback(std::move(on_message))), on_error_(options.on_error_)
    {
        udsipc_reader *fresh = nullptr;
        check(udsipc_reader_new(socket_path.c_str(), *on_message_ ? detail::udsipc_hpp_on_message : nullptr,
                                on_message_.get(), options.get(), &fresh));
        handle_.reset(fresh);
    }
    reader(reader &&other) = default;
    reader &operator=(reader &&other) noexcept
    {
        reader old(std::move(*this)); /* its callbacks must outlive its handle */
        on_message_ = std::move(other.on_message_);
        on_messages_ = std::move(other.on_messages_);
        on_error_ = std::move(other.on_error_);
        handle_ = std::move(other.handle_);
        return *this;
    }

    /* A reader whose callback gets many messages at a time. */
    static reader batched(const std::string &socket_path, batch_callback on_messages,
                          const reader_options &options = reader_options())
    {
        std::unique_ptr<batch_callback> callback(new batch_callback(std::move(on_messages)));
        return reader(socket_path, std::move(callback), options);
    }

    void start() { check(udsipc_reader_start(get())); }
    void stop(uint64_t timeout_ms) { check(try_stop(timeout_ms)); }
    void dispatch(uint64_t timeout_ms = 0) { check(udsipc_reader_dispatch(get(), timeout_ms)); }

    udsipc_status try_stop(uint64_t timeout_ms) noexcept { return udsipc_reader_stop(get(), timeout_ms); }

    udsipc_reader_metrics metrics() const
    {
        udsipc_reader_metrics metrics;
        check(udsipc_reader_get_metrics(get(), &metrics, sizeof metrics));
        return metrics;
    }
    std::string socket_path() const { return udsipc_reader_socket_path(get()); }
    std::string describe() const
    {
        std::string line(udsipc_reader_describe(get(), nullptr, 0) + 1, '\0');
        size_t whole = udsipc_reader_describe(get(), &line[0], line.size());
        line.resize(whole < line.size() ? whole : line.size() - 1);
        return line;
    }
    int fd() const noexcept { return udsipc_reader_fd(get()); }

    udsipc_reader *get() const noexcept { return handle_.get(); }

private:
    reader(const std::string &socket_path, std::unique_ptr<batch_callback> on_messages, const reader_options &options)
        : on_messages_(std::move(on_messages)), on_error_(options.on_error_)
    {
        udsipc_reader *fresh = nullptr;
        check(udsipc_reader_new_batched(socket_path.c_str(), *on_messages_ ? detail::udsipc_hpp_on_messages : nullptr,
                                        on_messages_.get(), options.get(), &fresh));
        handle_.reset(fresh);
    }

    std::unique_ptr<message_callback> on_message_; /* these before the handle, and so destroyed after it */
    std::unique_ptr<batch_callback> on_messages_;
    std::shared_ptr<error_callback> on_error_;
    detail::owner<udsipc_reader> handle_;
};

} /* namespace udsipc */

#endif /* UDSIPC_HPP */
