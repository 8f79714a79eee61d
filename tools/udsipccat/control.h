/* What ends the program before its work is done: a signal, or the time of --timeout. */
#ifndef UDSIPCCAT_CONTROL_H
#define UDSIPCCAT_CONTROL_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

enum ending {
    RUNNING,
    INTERRUPTED, /* SIGINT, SIGTERM or SIGHUP: what was begun is brought to its end, for GRACE_MS at most */
    TIMED_OUT,   /* --timeout */
};

/* Less than the 90 s after which systemd kills a service, and as much as a person waits before a second Ctrl-C. */
#define GRACE_MS 5000

/* How long a call of the library may wait before signals, time and progress line are looked at again. */
#define SLICE_MS 50

/* Milliseconds of a clock that nobody sets. */
uint64_t now_ms(void);

/* Signals wait for ending() from now on, and the time of --timeout begins. */
bool control_begin(uint64_t timeout_ms);

/* Why to end, or RUNNING. After the first signal the next one ends the process at once, by its default action. */
enum ending ending(void);

/* There is no time left to finish anything. */
bool out_of_time(void);

/* How long a call may wait: `most`, or less if the time is over before. */
uint64_t remaining_ms(uint64_t most);

/* poll(2) for the given time at most, and until ending() or the progress line has something to do. The first entry is
 * filled in for the signals. False on failure, which has been reported. */
bool control_poll(struct pollfd *fds, nfds_t count, uint64_t most_ms);

#endif
