#include "report.h"

#include <stdio.h>

#include <udsipc.h>

#include "progress.h"

static bool quiet;

void report_be_quiet(void)
{
    quiet = true;
}

void report_list(const char *text, va_list arguments)
{
    progress_hide();
    fputs("udsipccat: ", stderr);
    vfprintf(stderr, text, arguments);
    fputc('\n', stderr);
}

void report(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    report_list(text, arguments);
    va_end(arguments);
}

void remark(const char *text, ...)
{
    if (quiet)
        return;
    va_list arguments;
    va_start(arguments, text);
    report_list(text, arguments);
    va_end(arguments);
}

const char *failure_text(int32_t status)
{
    static char text[512];
    return udsipc_last_error_message(text, sizeof text) > 0 ? text : udsipc_strerror(status);
}
