/*
 * Makes the library panic and sees that the panic stays inside: the standard library of Rust panics when the clock cannot be
 * read, and this program's own clock_gettime fails at will, for the calling thread only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <udsipc.h>

static _Thread_local bool broken;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (broken) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_clock_gettime, clock, now);
}

int main(int argc, char **argv)
{
    udsipc_writer *writer = NULL;
    if (argc != 2 || udsipc_writer_new(argv[1], NULL, &writer) != UDSIPC_OK || udsipc_writer_start(writer) != UDSIPC_OK ||
        udsipc_write_message(writer, "x", 1) != UDSIPC_OK)
        return 1;
    broken = true;
    udsipc_status status = udsipc_writer_flush(writer, 1000);
    broken = false;
    char text[256];
    udsipc_last_error_message(text, sizeof text);
    printf("flush: %d, %s\n", status, strstr(text, "a bug in libudsipc") != NULL ? "reported" : text);
    printf("then: %d\n", udsipc_writer_flush(writer, 1000));
    udsipc_writer_free(writer);
    return 0;
}
