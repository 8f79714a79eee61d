/* udsipccat: sends, receives and inspects messages of libudsipc from the command line. udsipccat(1) describes what it does
 * (packaging/man/udsipccat.1). */
#include <fcntl.h>
#include <unistd.h>

#include "bench.h"
#include "control.h"
#include "options.h"
#include "progress.h"
#include "receive.h"
#include "report.h"
#include "send.h"
#include "stat.h"

/* Opens what the parent has closed, so that no other file gets the number of a standard one. Reading and writing there fail. */
static bool open_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    if (!open_standard_files())
        return EXIT_FAILED;
    struct options options;
    options_parse(&options, argc, argv);
    if (options.quiet)
        report_be_quiet();
    if (!control_begin(options.timeout_ms))
        return EXIT_FAILED;
    if (!options.quiet)
        progress_begin(options.path != NULL ? options.path : "bench");
    int code = EXIT_USAGE;
    switch (options.task) {
    case TASK_WRITE: code = options.replay != NULL ? send_recording(&options) : send_input(&options); break;
    case TASK_READ:
    case TASK_TAP: code = receive(&options); break;
    case TASK_STAT: code = print_stat(&options); break;
    case TASK_BENCH: code = bench(&options); break;
    case TASK_NONE: break;
    }
    progress_hide();
    return code;
}
