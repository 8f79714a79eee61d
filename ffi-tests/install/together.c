/* A program with two static libraries that both have Rust's standard library in them. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <udsipc.h>

uint64_t other_sum(uint64_t n);
bool other_panics(void);

int main(int argc, char **argv)
{
    udsipc_writer *writer = NULL;
    if (argc != 2 || udsipc_writer_new(argv[1], NULL, &writer) != UDSIPC_OK || udsipc_writer_start(writer) != UDSIPC_OK)
        return 1;
    uint64_t sum = other_sum(100);
    bool caught = other_panics();
    bool stopped = udsipc_writer_stop(writer, 0) == UDSIPC_OK;
    udsipc_writer_free(writer);
    printf("sum %u, panic %s, writer %s\n", (unsigned)sum, caught ? "caught" : "lost", stopped ? "stopped" : "failed");
    return 0;
}
