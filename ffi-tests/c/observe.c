/* What a handle says of itself: one line for a log, and its counters as text for Prometheus. */
#include "../support/check.h"

static char text[8192];

static const char *described(const udsipc_writer *writer)
{
    size_t needed = udsipc_writer_describe(writer, NULL, 0);
    CHECK(needed > 0 && needed < sizeof text);
    CHECK_INT(udsipc_writer_describe(writer, text, sizeof text), needed);
    CHECK_INT(strlen(text), needed);
    CHECK(strchr(text, '\n') == NULL);
    return text;
}

static void check_begins(const char *line, const char *begin)
{
    if (strncmp(line, begin, strlen(begin)) != 0)
        fprintf(stderr, "\"%s\" does not begin with \"%s\"\n", line, begin);
    CHECK(strncmp(line, begin, strlen(begin)) == 0);
}

static void a_writer_says_what_it_does(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_writer *writer = new_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "abc", 3));
    check_begins(described(writer), "not started socket_path=");
    CHECK(strstr(text, path.text) != NULL);
    CHECK(strstr(text, " connected=false acknowledged_delivery=false queue_depth=1 queue_bytes=3 sent=0 ") != NULL);

    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    check_begins(described(writer), "running on threads of the library socket_path=");
    CHECK(strstr(text, " connected=true acknowledged_delivery=true queue_depth=0 queue_bytes=0 sent=1 ") != NULL);
    CHECK(strstr(text, " acknowledged=1 redelivered=0 dropped=0 abandoned=0 suspected_lost=0 connections=1 ") != NULL);

    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    check_begins(described(writer), "stopped socket_path=");
    udsipc_writer_free(writer);

    writer = new_writer(path.text);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    check_begins(described(writer), "running in the program's event loop socket_path=");
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void counters_as_text(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "hello", 5));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));

    size_t needed = udsipc_writer_metrics_prometheus(writer, "pipe=\"a\"", NULL, 0);
    CHECK(needed > 0 && needed < 4096);
    CHECK_INT(udsipc_writer_metrics_prometheus(writer, "pipe=\"a\"", text, sizeof text), needed);
    CHECK_INT(strlen(text), needed);
    check_begins(text, "# HELP udsipc_writer_sent_total ");
    CHECK(strstr(text, "\n# TYPE udsipc_writer_sent_total counter\nudsipc_writer_sent_total{pipe=\"a\"} 1\n") != NULL);
    CHECK(strstr(text, "\n# TYPE udsipc_writer_connected gauge\nudsipc_writer_connected{pipe=\"a\"} 1\n") != NULL);

    needed = udsipc_reader_metrics_prometheus(reader, NULL, text, sizeof text);
    CHECK(needed > 0 && needed < 4096);
    CHECK_INT(strlen(text), needed);
    CHECK(strstr(text, "\n# TYPE udsipc_reader_received_total counter\nudsipc_reader_received_total 1\n") != NULL);

    /* As snprintf: what fits, and the length of the whole. */
    char small[8];
    CHECK_INT(udsipc_reader_metrics_prometheus(reader, "", small, sizeof small), needed);
    CHECK_TEXT(small, "# HELP ");
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void labels_that_would_not_parse_are_refused(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    const char *bad[] = {"pipe", "pipe=a", "pipe=\"a", "pipe=\"a\"\n", "{pipe=\"a\"}", "a=\"\",a=\"\"", "a=\"\xff\""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        text[0] = 'x';
        CHECK_INT(udsipc_writer_metrics_prometheus(writer, bad[i], text, sizeof text), 0);
        CHECK(text[0] == 0);
        udsipc_last_error_message(text, sizeof text);
        CHECK(strstr(text, "labels") != NULL);
    }
    udsipc_writer_free(writer);
}

static void ask_inherited_handles(void *argument)
{
    udsipc_writer *writer = argument;
    CHECK_INT(udsipc_writer_describe(writer, text, sizeof text), 0);
    CHECK(text[0] == 0);
    CHECK_INT(udsipc_writer_metrics_prometheus(writer, NULL, text, sizeof text), 0);
}

static void a_forked_child_gets_no_line(void)
{
    udsipc_writer *writer = started_writer(in_scratch("s").text);
    join_child(start_child(ask_inherited_handles, writer));
    udsipc_writer_free(writer);
}

static const struct scenario scenarios[] = {
    SCENARIO(a_writer_says_what_it_does),
    SCENARIO(counters_as_text),
    SCENARIO(labels_that_would_not_parse_are_refused),
    SCENARIO(a_forked_child_gets_no_line),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
