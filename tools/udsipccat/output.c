#include "output.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <udsipc.h>

#include "control.h"
#include "progress.h"
#include "report.h"

struct output output_on(int fd, const char *name)
{
    struct stat status;
    return (struct output){.fd = fd, .name = name, .terminal = isatty(fd) == 1,
                           .file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode)};
}

static bool wait_for_room(const struct output *output)
{
    struct pollfd fds[2] = {{.fd = -1}, {.fd = output->fd, .events = POLLOUT}};
    while (fds[1].revents == 0) {
        if (out_of_time()) {
            report("cannot write to %s: nobody reads it", output->name);
            return false;
        }
        if (!control_poll(fds, 2, UDSIPC_WAIT_FOREVER))
            return false;
    }
    return true;
}

bool output_write(const struct output *output, struct buffer *buffer)
{
    if (buffer->length > 0 && output->terminal)
        progress_make_way();
    for (size_t at = 0; at < buffer->length;) {
        if (!output->file && !wait_for_room(output))
            return false;
        /* A pipe that poll(2) calls writable takes PIPE_BUF bytes without blocking, and perhaps no more. */
        size_t left = buffer->length - at, size = output->file || left < PIPE_BUF ? left : PIPE_BUF;
        ssize_t written = write(output->fd, buffer->data + at, size);
        if (written >= 0)
            at += (size_t)written;
        else if (errno != EINTR && errno != EAGAIN) {
            report("cannot write to %s: %s", output->name, strerror(errno));
            return false;
        }
    }
    buffer->length = 0;
    return true;
}
