#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "control.h"

#define INTERVAL_MS 200

static bool on, visible, shares_the_terminal;
static const char *label;
static uint64_t shown_ms, counted_ms; /* when the line was written, and when the rate was counted */
static struct totals counted;         /* what the rate was counted from */
static double rate, byte_rate;

void progress_begin(const char *what)
{
    const char *terminal = getenv("TERM");
    on = isatty(STDERR_FILENO) && terminal != NULL && strcmp(terminal, "dumb") != 0;
    shares_the_terminal = on && isatty(STDOUT_FILENO);
    label = what;
    counted_ms = now_ms();
}

bool progress_is_on(void)
{
    return on;
}

const char *progress_bytes(double bytes, char *text, unsigned capacity)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;
    for (; bytes >= 1000 && unit < sizeof units / sizeof *units - 1; unit++)
        bytes /= 1000;
    snprintf(text, capacity, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

/* Longer than the terminal is wide, a line would be wrapped, and could not be erased. */
static int columns(void)
{
    struct winsize size;
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80;
}

static void count_rate(const struct totals *totals, uint64_t now)
{
    double seconds = (double)(now - counted_ms) / 1000;
    if (seconds < 1)
        return;
    rate = (double)(totals->messages - counted.messages) / seconds;
    byte_rate = (double)(totals->bytes - counted.bytes) / seconds;
    counted = *totals;
    counted_ms = now;
}

void progress_show(const struct totals *totals, uint64_t queued)
{
    uint64_t now = now_ms();
    if (!on || (visible && now - shown_ms < INTERVAL_MS))
        return;
    count_rate(totals, now);
    char bytes[32], per_second[32], line[256], queue[48] = "";
    if (queued > 0)
        snprintf(queue, sizeof queue, ", %" PRIu64 " queued", queued);
    int length = snprintf(line, sizeof line, "%s: %" PRIu64 " messages, %s, %.0f messages/s, %s/s%s", label,
                          totals->messages, progress_bytes((double)totals->bytes, bytes, sizeof bytes), rate,
                          progress_bytes(byte_rate, per_second, sizeof per_second), queue);
    int most = columns() - 1;
    if (length >= (int)sizeof line)
        length = sizeof line - 1;
    fprintf(stderr, "\r%.*s\033[K", length < most ? length : most, line);
    visible = true;
    shown_ms = now;
}

void progress_hide(void)
{
    if (visible)
        fputs("\r\033[K", stderr);
    visible = false;
}

void progress_make_way(void)
{
    if (shares_the_terminal)
        progress_hide();
}
