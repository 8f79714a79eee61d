// Compiled as C++20: overloads and conversions that main.cpp does not have.
#include "modes.hpp"

#include <span>
#include <string_view>

namespace newer {

sizes measured()
{
    return measure();
}

udsipc::reader make(const std::string &path, udsipc::message_callback callback)
{
    using namespace std::literals;
    return udsipc::reader(path, std::move(callback), udsipc::reader_options().linger(0s).inactivity_timeout(1min));
}

void write(udsipc::writer &writer)
{
    using namespace std::literals;
    writer.write("good"sv, 1s);
    writer.write(std::as_bytes(std::span("bad", 3)));
    writer.write(std::string_view("good"), 1);
}

} // namespace newer
