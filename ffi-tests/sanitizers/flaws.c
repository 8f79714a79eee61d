/* A flaw per scenario: what the checkers are there to find, in the program and behind the C ABI in the library. The
 * library is the real one; the flaws are broken promises of its caller, which it cannot notice by itself.
 *
 * Run without a checker, most of these end well: that is the point.
 */
#include "../support/check.h"

/* The compiler must not see through these, or it refuses the program. */
static void *volatile hidden;
static volatile int one = 1;

static void *hide(void *pointer)
{
    hidden = pointer;
    return hidden;
}

static void overflow_in_the_program(void)
{
    volatile char *bytes = hide(malloc(16));
    bytes[16 * one] = 1;
    free(hidden);
}

static void leak_in_the_program(void)
{
    memset(hide(malloc(4321)), 1, 4321);
    hidden = NULL;
}

static void undefined_in_the_program(void)
{
    volatile int most = INT32_MAX;
    one = most + one;
}

static uint64_t plain;

static void *add_to_plain(void *unused)
{
    for (int i = 0; i < 10000; i++)
        plain++;
    return unused;
}

static void in_two_threads(void *(*body)(void *), void *argument)
{
    pthread_t other;
    CHECK(pthread_create(&other, NULL, body, argument) == 0);
    body(argument);
    CHECK(pthread_join(other, NULL) == 0);
}

static void race_in_the_program(void)
{
    in_two_threads(add_to_plain, NULL);
}

/* The array has one entry, and the library is told that it has two. */
static void overflow_in_the_library(void)
{
    udsipc_writer *writer = new_writer("nobody.sock");
    udsipc_buffer *messages = hide(malloc(sizeof *messages));
    *messages = (udsipc_buffer){(const uint8_t *)"m", 1};
    size_t accepted = 0;
    IGNORE(udsipc_write_messages(writer, messages, 1 + (size_t)one, &accepted));
    free(messages);
    udsipc_writer_free(writer);
}

static void use_after_free_in_the_library(void)
{
    udsipc_writer *writer = hide(new_writer("nobody.sock"));
    udsipc_writer_free(writer);
    udsipc_writer_is_connected(hidden);
}

static void leak_in_the_library(void)
{
    hide(new_writer("nobody.sock"));
    hidden = NULL;
}

static size_t shared_result;

/* The library's own locks order most of the calls, so the two threads must really meet: on a busy machine that takes many. */
static void *write_nothing(void *writer)
{
    for (int i = 0; i < 1000000; i++)
        IGNORE(udsipc_write_messages(writer, NULL, 0, &shared_result));
    return NULL;
}

/* Two threads let the library store its answer in the same place. */
static void race_in_the_library(void)
{
    udsipc_writer *writer = new_writer("nobody.sock");
    in_two_threads(write_nothing, writer);
    udsipc_writer_free(writer);
}

static const struct scenario scenarios[] = {
    SCENARIO(overflow_in_the_program),
    SCENARIO(leak_in_the_program),
    SCENARIO(undefined_in_the_program),
    SCENARIO(race_in_the_program),
    SCENARIO(overflow_in_the_library),
    SCENARIO(use_after_free_in_the_library),
    SCENARIO(leak_in_the_library),
    SCENARIO(race_in_the_library),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
