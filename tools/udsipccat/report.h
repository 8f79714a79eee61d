/* What a person is told, on standard error. */
#ifndef UDSIPCCAT_REPORT_H
#define UDSIPCCAT_REPORT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

/* --quiet: remark() says nothing from now on. */
void report_be_quiet(void);

/* An error: one line that begins with the name of the program. Removes the progress line first. */
void report(const char *text, ...) __attribute__((format(printf, 1, 2)));
void report_list(const char *text, va_list arguments) __attribute__((format(printf, 1, 0)));

/* The same for what is no error. */
void remark(const char *text, ...) __attribute__((format(printf, 1, 2)));

/* The full text of this thread's last failure of the library, or that of the status. Valid until the next call. */
const char *failure_text(int32_t status);

#endif
