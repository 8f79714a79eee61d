// What udsipc.hpp takes from C++17 and C++20: std::string_view, std::byte, std::span, literals of std::chrono, generic
// lambdas, paths of std::filesystem. The harness compiles it as C++20, by its name.
#include "../support/check.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <memory>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace std::literals;

void times_are_literals()
{
    udsipc::writer writer(socket_path(), udsipc::writer_options().write_timeout(5s).max_backoff(1min).linger(0ns));
    writer.start();
    writer.write("nobody listens", 1s);
    const auto begun = std::chrono::steady_clock::now();
    CHECK(writer.try_flush(begun - std::chrono::steady_clock::now()) == UDSIPC_ERR_TIMEOUT);
    CHECK(writer.try_flush(1us) == UDSIPC_ERR_TIMEOUT);
    CHECK(writer.try_stop(5s) == UDSIPC_ERR_UNDELIVERED);
}

void bytes_are_string_views_and_spans()
{
    inbox received;
    udsipc::reader reader(socket_path(), [&](std::string_view message) { received.put(std::string(message)); });
    udsipc::writer writer{std::string_view(socket_path())};
    const std::vector<std::byte> bytes{std::byte{'a'}, std::byte{'b'}};
    std::array<std::byte, 2> array{std::byte{'c'}, std::byte{'d'}};
    const std::byte raw[] = {std::byte{'e'}, std::byte{'f'}};
    writer.write("a\0b"sv);
    writer.write(std::string_view());
    writer.write("view"sv, 1s);
    writer.write("view"sv, 1000);
    writer.write(bytes);
    writer.write(array);
    writer.write(std::span(array));
    writer.write(std::span<const std::byte, 1>(array.data(), 1), 1s);
    writer.write(std::as_bytes(std::span("xyz", 3)));
    writer.write(raw);
    writer.write(raw, 1);
    writer.write(bytes.data(), bytes.size());
    writer.write(u8"\u00e4");
    writer.write(u8"\u00e4"s);
    CHECK(writer.write_many(std::vector{"one"sv, "two"sv}) == 2);
    std::vector<std::string> expected{"a\0b"s, "view", "view", "ab", "cd", "cd", "c", "xyz", "ef", "e", "ab"};
    for (const char *text : {"\xc3\xa4", "\xc3\xa4", "one", "two"})
        expected.push_back(text);
#if !defined(__clang__) || __clang_major__ > 15 // which does not compile the views of libstdc++
    CHECK(writer.write_many(std::views::iota(0, 130) | std::views::transform([](int i) {
                                return "a number that needs memory of its own: " + std::to_string(i);
                            })) == 130);
    std::deque<std::string> reversed{"three", "four"};
    CHECK(writer.write_many(reversed | std::views::reverse) == 2);
    for (int i = 0; i < 130; i++)
        expected.push_back("a number that needs memory of its own: " + std::to_string(i));
    expected.insert(expected.end(), {"four", "three"});
#endif
    reader.start();
    writer.start();
    writer.stop(30s);
    reader.stop(30s);
    CHECK(received.all() == expected);
    static_assert(!std::is_convertible_v<std::span<int>, udsipc::view>);
    static_assert(!std::is_convertible_v<std::u16string_view, udsipc::view>);
}

// How many of the messages "good", "bad", "good" are handled.
uint64_t handled_by(udsipc::message_callback callback, udsipc::batch_callback batched = nullptr)
{
    udsipc::reader reader = batched ? udsipc::reader::batched(socket_path(), std::move(batched))
                                    : udsipc::reader(socket_path(), std::move(callback));
    udsipc::writer writer(socket_path());
    CHECK(writer.write_many({"good", "bad", "good"}) == 3);
    writer.start();
    reader.start();
    writer.stop(30s);
    reader.stop(30s);
    return reader.metrics().received;
}

struct generic {
    template <typename... Arguments> bool operator()(Arguments &&...arguments) const
    {
        static_assert(std::is_same_v<std::tuple<Arguments...>, std::tuple<udsipc::view, udsipc::connection>>);
        return sizeof...(arguments) == 2;
    }
};

void callbacks_take_string_views_and_spans()
{
    CHECK(handled_by([](std::string_view message) { return message == "good"; }) == 2);
    CHECK(handled_by([](const std::string_view &message, udsipc::connection from) {
              return message == "good" && from.id() != 0;
          }) == 2);
    CHECK(handled_by([](std::span<const std::byte> message) { return message.size() == 4; }) == 2);
    CHECK(handled_by([](std::span<const std::byte> message, const udsipc::connection &from) {
              std::array<uint8_t, 16> id;
              const bool is_known = from.try_writer_id(id) == UDSIPC_OK;
              CHECK(is_known == (from.sequence() != 0));
              return message.front() == std::byte{'g'} ? UDSIPC_OK : UDSIPC_ERR_IO;
          }) == 2);
    CHECK(handled_by([](std::span<const uint8_t> message) { return message[0] == 'g'; }) == 2);
    CHECK(handled_by([](std::string_view) noexcept {}) == 3);
    CHECK(handled_by([kept = std::make_unique<int>(4)](std::string_view message) mutable {
              return message.size() == static_cast<size_t>(*kept);
          }) == 2);
    // Generic ones get a udsipc::view, and the connection if they take two.
    CHECK(handled_by([](auto message) {
              static_assert(std::is_same_v<decltype(message), udsipc::view>);
              return message.size() == 4;
          }) == 2);
    CHECK(handled_by([](const auto &message, auto &&from) {
              static_assert(std::is_same_v<decltype(from), udsipc::connection &&>);
              return message.size() == 4;
          }) == 2);
    CHECK(handled_by(generic()) == 3);
}

void batch_callbacks_take_spans()
{
    CHECK(handled_by(nullptr, [](std::span<const udsipc_buffer> messages) {
              CHECK(!messages.empty());
          }) == 3);
    CHECK(handled_by(nullptr, [](std::span<const udsipc_buffer> messages, udsipc::connection) {
              return udsipc::view(messages[0]).size() == 4 ? size_t(1) : 0;
          }) == 2);
    CHECK(handled_by(nullptr, [](auto messages) {
              static_assert(std::is_same_v<decltype(messages), udsipc::batch>);
              return messages.size();
          }) == 3);
    CHECK(handled_by(nullptr, [](auto messages, auto from) {
              static_assert(std::is_same_v<decltype(from), udsipc::connection>);
              return messages.size();
          }) == 3);
}

void errors_have_codes_and_views()
{
    std::atomic<int> reports(0);
    udsipc::writer writer(std::filesystem::path{socket_path()},
                          udsipc::writer_options().on_error([&](std::error_code code, int, std::string_view context) {
                              reports += code == UDSIPC_ERR_UNDELIVERED && context == "write failure during drain"sv;
                          }));
    writer.write("x");
    try {
        writer.stop(0s);
        CHECK(false);
    } catch (const std::system_error &error) {
        CHECK(error.code() == UDSIPC_ERR_UNDELIVERED && error.code().category() == udsipc::category());
    }
    CHECK(reports == 1);
}

const scenario scenarios[] = {
    {"times_are_literals", times_are_literals},
    {"bytes_are_string_views_and_spans", bytes_are_string_views_and_spans},
    {"callbacks_take_string_views_and_spans", callbacks_take_string_views_and_spans},
    {"batch_callbacks_take_spans", batch_callbacks_take_spans},
    {"errors_have_codes_and_views", errors_have_codes_and_views},
};

} // namespace

int main(int argc, char **argv)
{
    return run_scenarios(scenarios, argc, argv);
}
