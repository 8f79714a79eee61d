// What three files that are compiled in different modes share: main.cpp in C++11, bare.cpp without exceptions and RTTI,
// newer.cpp in C++20.
#ifndef MODES_HPP
#define MODES_HPP

#include <udsipc.hpp>

#include <array>
#include <string>

#define EXPORTED __attribute__((visibility("default")))

// Throws for "bad"; defined in main.cpp.
EXPORTED void look_at(const std::string &message);

// The same callable for all of them: what the library calls must still depend on the file that passes it.
struct shared_callable {
    void operator()(const std::string &message) const { look_at(message); }
};

using sizes = std::array<size_t, 12>;

namespace {

sizes measure()
{
    return sizes{{sizeof(udsipc::view), sizeof(udsipc::batch), sizeof(udsipc::duration), sizeof(udsipc::connection),
                  sizeof(udsipc::error), sizeof(udsipc::message_callback), sizeof(udsipc::batch_callback),
                  sizeof(udsipc::error_callback), sizeof(udsipc::writer_options), sizeof(udsipc::reader_options),
                  sizeof(udsipc::writer), sizeof(udsipc::reader)}};
}

} // namespace

namespace bare {

EXPORTED sizes measured();
EXPORTED udsipc_status make(const std::string &path, udsipc::writer &writer);
EXPORTED udsipc_status make(const std::string &path, udsipc::reader &reader);
EXPORTED std::error_code write(udsipc::writer &writer, const std::string &message);

} // namespace bare

namespace newer {

EXPORTED sizes measured();
EXPORTED udsipc::reader make(const std::string &path, udsipc::message_callback callback);
EXPORTED void write(udsipc::writer &writer);

} // namespace newer

#endif
