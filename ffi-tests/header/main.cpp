// Compiled as C++11 with exceptions. Everything here goes through objects that another mode has made, or the other way
// round.
#include "modes.hpp"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

static const int patience_ms = 30000;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "main.cpp:%d: failed: %s\n", __LINE__, #condition); \
            std::_Exit(1); \
        } \
    } while (0)

void look_at(const std::string &message)
{
    if (message == "bad") throw std::runtime_error("bad");
}

static void exchange(const std::string &path, udsipc::reader &reader)
{
    udsipc::writer writer;
    CHECK(bare::make(path, writer) == UDSIPC_OK);
    newer::write(writer);
    writer.flush(patience_ms);
    writer = udsipc::writer(path);
    writer.start();
    writer.write("good");
    writer.stop(patience_ms);
    reader.stop(patience_ms);
    CHECK(reader.metrics().received == 3 && reader.metrics().errors == 1);
}

int main()
{
    CHECK(measure() == bare::measured() && measure() == newer::measured());

    // The callable throws, and who passes it has exceptions: the message is a failed one.
    udsipc::reader reader = newer::make("modes.sock", shared_callable());
    reader.start();
    exchange("modes.sock", reader);

    // The file without exceptions has made the reader, and is given another callable by assignment.
    udsipc::reader other;
    CHECK(bare::make("bare.sock", other) == UDSIPC_OK);
    other = udsipc::reader("main.sock", shared_callable());
    other.start();
    exchange("main.sock", other);

    // An error code means the same in all of them.
    udsipc::writer stopped("modes.sock");
    stopped.stop(0);
    const std::error_code code = bare::write(stopped, "late");
    CHECK(code == UDSIPC_ERR_STOPPED && code.category() == udsipc::category());
    CHECK(code == std::errc::operation_canceled);
    udsipc::writer full;
    CHECK(bare::make("nobody.sock", full) == UDSIPC_OK);
    CHECK(!bare::write(full, "x") && bare::write(full, "x") == UDSIPC_ERR_BUFFER_FULL);
    return 0;
}
