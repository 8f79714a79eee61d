#include "control.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <udsipc.h>

#include "progress.h"
#include "report.h"

static int signals_fd = -1;
static sigset_t signals;
static uint64_t deadline = UDSIPC_WAIT_FOREVER, grace_end = UDSIPC_WAIT_FOREVER;
static bool interrupted;

uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool control_begin(uint64_t timeout_ms)
{
    if (timeout_ms != UDSIPC_WAIT_FOREVER)
        deadline = now_ms() + timeout_ms;
    /* A write to a closed pipe is an error to report (EPIPE), not the end: the message at hand is not acknowledged then. */
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP); /* not seen under nohup(1), which has it ignored */
    if (sigprocmask(SIG_BLOCK, &signals, NULL) == 0)
        signals_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals_fd < 0)
        report("cannot wait for signals: %s", strerror(errno));
    return signals_fd >= 0;
}

enum ending ending(void)
{
    struct signalfd_siginfo told;
    if (!interrupted && read(signals_fd, &told, sizeof told) == (ssize_t)sizeof told) {
        interrupted = true;
        grace_end = now_ms() + GRACE_MS;
        sigprocmask(SIG_UNBLOCK, &signals, NULL);
    }
    if (now_ms() >= deadline)
        return TIMED_OUT;
    return interrupted ? INTERRUPTED : RUNNING;
}

bool out_of_time(void)
{
    enum ending why = ending();
    return why == TIMED_OUT || (why == INTERRUPTED && now_ms() >= grace_end);
}

uint64_t remaining_ms(uint64_t most)
{
    uint64_t end = deadline < grace_end ? deadline : grace_end, now = now_ms();
    uint64_t left = end == UDSIPC_WAIT_FOREVER ? end : end > now ? end - now : 0;
    return left < most ? left : most;
}

bool control_poll(struct pollfd *fds, nfds_t count, uint64_t most_ms)
{
    fds[0] = (struct pollfd){.fd = interrupted ? -1 : signals_fd, .events = POLLIN};
    uint64_t wait = remaining_ms(progress_is_on() && most_ms > 200 ? 200 : most_ms);
    int timeout = wait == UDSIPC_WAIT_FOREVER ? -1 : wait > INT_MAX ? INT_MAX : (int)wait;
    if (poll(fds, count, timeout) >= 0)
        return true;
    for (nfds_t i = 0; i < count; i++)
        fds[i].revents = 0;
    if (errno != EINTR)
        report("cannot wait for input: %s", strerror(errno));
    return errno == EINTR;
}
