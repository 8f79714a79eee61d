// Compiled with -fno-exceptions and -fno-rtti, as embedded programs are: everything is there without a throw.
#include "modes.hpp"

#ifdef __cpp_exceptions
#error "this file is about -fno-exceptions"
#endif

namespace bare {

sizes measured()
{
    return measure();
}

udsipc_status make(const std::string &path, udsipc::writer &writer)
{
    auto options = udsipc::writer_options().max_buffered_writes(3).linger(0).on_error(
        [](std::error_code, int, const std::string &) {});
    udsipc_status status = udsipc::writer::try_create(path, options, writer);
    if (status == UDSIPC_OK) status = writer.try_start();
    return status;
}

udsipc_status make(const std::string &path, udsipc::reader &reader)
{
    udsipc_status status = udsipc::reader::try_create_batched(path, [](udsipc::batch) {}, reader);
    if (status == UDSIPC_OK)
        status = udsipc::reader::try_create(path + "2", shared_callable(), udsipc::reader_options().linger(0), reader);
    udsipc_reader_metrics metrics;
    if (status == UDSIPC_OK) status = reader.try_metrics(metrics);
    return status;
}

std::error_code write(udsipc::writer &writer, const std::string &message)
{
    size_t accepted = 0;
    const udsipc_status status = writer.try_write_many({message, message}, accepted);
    return status == UDSIPC_OK ? writer.try_write(message.data(), message.size()) : status;
}

} // namespace bare
