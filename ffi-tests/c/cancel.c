/* Threads of the host that are cancelled (pthread_cancel(3)) while they are in a call of the library: the call goes on to its
 * end, and the thread ends at the host's next cancellation point. */
#include "../support/check.h"

struct call {
    const char *name;
    udsipc_reader *reader;
    udsipc_writer *writer;
    struct path path;
    struct inbox inbox;
    udsipc_status status;
    atomic_bool returned;
};

static void in_a_cancelled_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
}

/* Everything that a program calls, with a request to cancel that waits for the first cancellation point. */
static void *call_everything(void *argument)
{
    struct call *call = (struct call *)argument;
    udsipc_buffer buffer = {(const uint8_t *)"x", 1};
    size_t accepted = 0, needed = 0;
    char text[4096];
    CHECK(pthread_cancel(pthread_self()) == 0);

    call->reader = started_reader(call->path.text, &call->inbox);
    call->writer = started_writer(call->path.text);
    CHECK_OK(udsipc_writer_flush(call->writer, PATIENCE_MS));
    for (int i = 0; i < 3; i++) { /* sent at once, by this thread, since the writer sleeps */
        CHECK_OK(udsipc_write_message(call->writer, "x", 1));
        CHECK_OK(udsipc_writer_flush(call->writer, PATIENCE_MS));
    }
    CHECK_OK(udsipc_write_message_timeout(call->writer, "x", 1, PATIENCE_MS));
    CHECK_OK(udsipc_write_messages(call->writer, &buffer, 1, &accepted));
    CHECK_OK(udsipc_writer_flush(call->writer, PATIENCE_MS));
    writer_metrics(call->writer);
    reader_metrics(call->reader);
    CHECK(udsipc_writer_is_connected(call->writer));
    CHECK(udsipc_reader_describe(call->reader, text, sizeof text) > 0);
    CHECK_OK(udsipc_resolve_socket_path("a", text, sizeof text, &needed));
    CHECK_OK(udsipc_ensure_socket_dir(in_scratch("directory/s").text));
    CHECK_OK(udsipc_cleanup_socket(in_scratch("none").text));
    CHECK_OK(udsipc_systemd_notify("STATUS=x"));
    CHECK_OK(udsipc_writer_stop(call->writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(call->reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&call->inbox), 5);
    udsipc_writer_free(call->writer);
    udsipc_reader_free(call->reader);

    struct path path = in_scratch("dispatched");
    call->reader = new_reader(path.text, &call->inbox);
    call->writer = new_writer(path.text);
    CHECK_OK(udsipc_write_message(call->writer, "x", 1));
    CHECK_OK(udsipc_writer_dispatch(call->writer, 10));
    CHECK_OK(udsipc_reader_dispatch(call->reader, 10));
    CHECK_OK(udsipc_reader_dispatch(call->reader, 10));
    udsipc_writer_free(call->writer);
    udsipc_reader_free(call->reader);
    atomic_store(&call->returned, true);
    pthread_testcancel();
    return NULL;
}

static void regress_no_call_is_a_cancellation_point(void)
{
    for (int round = 0; round < 3; round++) {
        static struct call call;
        call = (struct call){.path = in_scratch("s"), .inbox = INBOX};
        in_a_cancelled_thread(call_everything, &call);
        CHECK(atomic_load(&call.returned));
    }
}

/* ---- calls that wait ---- */

#define LONG_MS 400

static _Noreturn void wait_to_be_cancelled(void)
{
    for (;;)
        pause();
}

static void *wait_in_flush(void *argument)
{
    struct call *call = (struct call *)argument;
    call->status = udsipc_writer_flush(call->writer, LONG_MS);
    atomic_store(&call->returned, true);
    wait_to_be_cancelled();
}

static void *wait_for_room(void *argument)
{
    struct call *call = (struct call *)argument;
    call->status = udsipc_write_message_timeout(call->writer, "x", 1, LONG_MS);
    atomic_store(&call->returned, true);
    wait_to_be_cancelled();
}

static void *wait_in_dispatch(void *argument)
{
    struct call *call = (struct call *)argument;
    call->status = udsipc_reader_dispatch(call->reader, LONG_MS);
    atomic_store(&call->returned, true);
    wait_to_be_cancelled();
}

static void *wait_in_writer_dispatch(void *argument)
{
    struct call *call = (struct call *)argument;
    call->status = udsipc_writer_dispatch(call->writer, LONG_MS);
    atomic_store(&call->returned, true);
    wait_to_be_cancelled();
}

static void *wait_in_stop(void *argument)
{
    struct call *call = (struct call *)argument;
    call->status = udsipc_writer_stop(call->writer, LONG_MS);
    atomic_store(&call->returned, true);
    wait_to_be_cancelled();
}

static void cancel_during(struct call *call, void *(*wait)(void *), int32_t status)
{
    pthread_t thread;
    void *result = NULL;
    atomic_store(&call->returned, false);
    CHECK(pthread_create(&thread, NULL, wait, call) == 0);
    for (int i = 0; i < 20; i++) /* so that it waits by then; if it does not yet, nothing is shown and nothing fails */
        look_again_soon();
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(atomic_load(&call->returned));
    CHECK_STATUS(call->status, status);
}

static void regress_a_thread_that_is_cancelled_while_it_waits_comes_back_first(void)
{
    static struct call call;
    call = (struct call){.path = in_scratch("s"), .inbox = INBOX};
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1));
    CHECK_OK(udsipc_writer_options_set_drain_until_deadline(options, 1));
    CHECK_OK(udsipc_writer_new(call.path.text, options, &call.writer));
    CHECK_OK(udsipc_writer_start(call.writer));
    CHECK_OK(udsipc_write_message(call.writer, "x", 1));
    cancel_during(&call, wait_in_flush, UDSIPC_ERR_TIMEOUT);
    cancel_during(&call, wait_for_room, UDSIPC_ERR_TIMEOUT);
    cancel_during(&call, wait_in_stop, UDSIPC_ERR_TIMEOUT);
    udsipc_writer_free(call.writer);

    CHECK_OK(udsipc_writer_new(call.path.text, options, &call.writer));
    call.reader = new_reader(call.path.text, &call.inbox);
    cancel_during(&call, wait_in_dispatch, UDSIPC_OK);
    cancel_during(&call, wait_in_writer_dispatch, UDSIPC_OK);
    /* The handles work as before. */
    CHECK_OK(udsipc_write_message(call.writer, "x", 1));
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&call.inbox) < 1;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_writer_dispatch(call.writer, 1));
        CHECK_OK(udsipc_reader_dispatch(call.reader, 1));
    }
    CHECK_OK(udsipc_writer_stop(call.writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(call.reader, PATIENCE_MS));
    udsipc_writer_options_free(options);
    udsipc_writer_free(call.writer);
    udsipc_reader_free(call.reader);
}

/* ---- what the host has set ---- */

static int cancel_state(void)
{
    int state;
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state) == 0);
    CHECK(pthread_setcancelstate(state, NULL) == 0);
    return state;
}

static void the_hosts_own_setting_is_kept(void)
{
    struct path path = in_scratch("s");
    const int states[] = {PTHREAD_CANCEL_ENABLE, PTHREAD_CANCEL_DISABLE};
    for (size_t i = 0; i < 2; i++) {
        CHECK(pthread_setcancelstate(states[i], NULL) == 0);
        udsipc_writer *writer = started_writer(path.text);
        CHECK_INT(cancel_state(), states[i]);
        CHECK_OK(udsipc_write_message(writer, "x", 1));
        CHECK_INT(cancel_state(), states[i]);
        CHECK_STATUS(udsipc_writer_flush(writer, 1), UDSIPC_ERR_TIMEOUT);
        CHECK_STATUS(udsipc_writer_start(NULL), UDSIPC_ERR_NULL_POINTER);
        CHECK_INT(cancel_state(), states[i]);
        udsipc_writer_free(writer);
        CHECK_INT(cancel_state(), states[i]);
    }
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
}

/* ---- callbacks ---- */

static int32_t come_upon_a_cancellation_point(const uint8_t *data, size_t len, const udsipc_connection *connection,
                                              void *userdata)
{
    CHECK(pthread_cancel(pthread_self()) == 0);
    pthread_testcancel();
    return receive(data, len, connection, userdata);
}

static void *dispatch_once_for_a_message(void *argument)
{
    struct call *call = (struct call *)argument;
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&call->inbox) < 1;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_reader_dispatch(call->reader, 0));
    }
    atomic_store(&call->returned, true);
    pthread_testcancel();
    return NULL;
}

static void callbacks_in_a_dispatching_call_are_not_cut_short(void)
{
    static struct call call;
    call = (struct call){.path = in_scratch("s"), .inbox = INBOX};
    CHECK_OK(udsipc_reader_new(call.path.text, come_upon_a_cancellation_point, &call.inbox, NULL, &call.reader));
    int client = raw_connect(call.path.text);
    raw_send_numbered(client, 1, 0);
    in_a_cancelled_thread(dispatch_once_for_a_message, &call);
    CHECK(atomic_load(&call.returned));
    udsipc_reader_free(call.reader);
    close(client);

    /* A thread of the library is never cancelled, not by its own callback either. */
    call.inbox = (struct inbox)INBOX;
    CHECK_OK(udsipc_reader_new(call.path.text, come_upon_a_cancellation_point, &call.inbox, NULL, &call.reader));
    CHECK_OK(udsipc_reader_start(call.reader));
    client = raw_connect(call.path.text);
    for (uint32_t i = 0; i < 3; i++) {
        raw_send_numbered(client, 1, i);
        WAIT_UNTIL(inbox_count(&call.inbox) == i + 1);
    }
    CHECK_OK(udsipc_reader_stop(call.reader, PATIENCE_MS));
    udsipc_reader_free(call.reader);
    close(client);
}

static const struct scenario scenarios[] = {
    SCENARIO(regress_no_call_is_a_cancellation_point),
    SCENARIO(regress_a_thread_that_is_cancelled_while_it_waits_comes_back_first),
    SCENARIO(the_hosts_own_setting_is_kept),
    SCENARIO(callbacks_in_a_dispatching_call_are_not_cut_short),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
