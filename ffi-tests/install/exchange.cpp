/* Built against an installed libudsipc: a C++ reader and writer in one process exchange messages and compare them. */
#include <chrono>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <udsipc.hpp>

static const std::chrono::seconds patience(60);

int main(int argc, char **argv)
{
    if (argc != 2 || std::string(udsipc_version()) != UDSIPC_VERSION_STRING) {
        std::cerr << "library " << udsipc_version() << ", header " << UDSIPC_VERSION_STRING << std::endl;
        return 2;
    }
    try {
        /* The n-th message is its number and n bytes: all sizes, and no two alike. */
        std::vector<std::string> sent, arrived;
        for (size_t n = 0; n < 1000; n++)
            sent.push_back(std::to_string(n) + std::string(n, static_cast<char>(n & 0xff)));

        udsipc::reader reader(argv[1], [&arrived](const std::string &message) { arrived.push_back(message); });
        reader.start();
        udsipc::writer writer(argv[1]);
        writer.start();
        for (const std::string &message : sent)
            writer.write(message);
        writer.flush(patience);
        writer.stop(patience);
        reader.stop(patience);

        std::cout << "C++: " << arrived.size() << " messages" << (arrived == sent ? "" : ", not as sent") << std::endl;
        return arrived == sent ? 0 : 1;
    } catch (const std::exception &error) {
        std::cerr << error.what() << std::endl;
        return 1;
    }
}
