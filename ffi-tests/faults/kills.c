/* Readers of this library that are killed (kill -9) under load, again and again, at any moment. Nothing is lost, the order is
   kept, and of each connection at most what was in the callback comes twice. */
#include "../support/account.h"

static struct reader_job reader_job;
static struct writer_job writer_jobs[8];
static pid_t writers[8];

struct load {
    uint32_t writers, longest, work_us;
    bool batched, dispatched, at_most_once, required;
    int kills;
};

static bool at_most_once, required;

static void configure(udsipc_writer_options *options)
{
    if (at_most_once) CHECK_OK(udsipc_writer_options_set_redeliver(options, 0));
    if (required) CHECK_OK(udsipc_writer_options_set_acknowledge(options, 2));
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, 0));
}

static void begin(const struct load *load)
{
    static struct path path;
    path = in_scratch("s");
    open_ledger(load->writers);
    ledger->at_once = load->batched ? 256 : 1;
    at_most_once = load->at_most_once;
    required = load->required;
    reader_job = (struct reader_job){.path = path.text, .batched = load->batched, .dispatched = load->dispatched,
                                     .work_us = load->work_us};
    for (uint32_t i = 0; i < load->writers; i++) {
        writer_jobs[i] = (struct writer_job){.path = path.text, .first = i, .count = 1, .longest = load->longest,
                                             .burst = load->longest > 10000 ? 4 : 60, .configure = configure};
        writers[i] = start_writers(&writer_jobs[i]);
    }
}

static void kill_again_and_again(const struct load *load)
{
    begin(load);
    pid_t reader = start_reader(&reader_job);
    for (uint32_t i = 0; i < load->writers; i++)
        WAIT_UNTIL(atomic_load(&ledger->books[i].delivered) > 0); /* who was never served cannot know */
    for (int kills = 0; kills < load->kills; kills++) {
        WAIT_DELIVERED(20 + kills * 7 % 200);
        pause_ms(kills % 5);
        kill_reader(reader);
        reader = start_reader(&reader_job);
    }
    WAIT_DELIVERED(100);
    end_writers(writers, load->writers);
    end_readers(reader);
    struct sums all = settle();
    CHECK_INT(all.abandoned, 0);
    if (load->at_most_once) {
        CHECK_INT(all.repeated, 0);
        CHECK(all.missing <= all.suspected_lost);
        CHECK(all.suspected_lost <= ledger->kills * load->writers * ledger->at_once);
    } else {
        CHECK_INT(all.missing, 0);
        CHECK_INT(all.suspected_lost, 0);
    }
}

#define KILLS(name, ...) \
    static void name(void) \
    { \
        struct load load = {.kills = 70, __VA_ARGS__}; \
        kill_again_and_again(&load); \
    }

KILLS(one_writer, .writers = 1, .longest = 100)
KILLS(one_writer_and_a_slow_callback, .writers = 1, .longest = 100, .work_us = 200)
KILLS(one_writer_required, .writers = 1, .longest = 4000, .work_us = 2, .required = true)
KILLS(one_writer_in_batches, .writers = 1, .longest = 100, .batched = true, .work_us = 2)
KILLS(one_writer_in_an_event_loop, .writers = 1, .longest = 1000, .dispatched = true, .work_us = 2)
KILLS(one_writer_at_most_once, .writers = 1, .longest = 100, .work_us = 2, .at_most_once = true)
KILLS(four_writers, .writers = 4, .longest = 1000, .work_us = 2)
KILLS(four_writers_of_large_messages, .writers = 4, .longest = 300000)
KILLS(four_writers_of_large_messages_in_batches, .writers = 4, .longest = 300000, .batched = true)
KILLS(four_writers_in_an_event_loop, .writers = 4, .longest = 300000, .dispatched = true)
KILLS(four_writers_at_most_once, .writers = 4, .longest = 4000, .work_us = 200, .at_most_once = true)
KILLS(eight_writers, .writers = 8, .longest = 100)
KILLS(eight_writers_in_batches, .writers = 8, .longest = 1000, .batched = true, .work_us = 2)
KILLS(eight_writers_at_most_once_in_batches, .writers = 8, .longest = 1000, .batched = true, .at_most_once = true)
KILLS(eight_writers_in_an_event_loop_in_batches, .writers = 8, .longest = 100, .batched = true, .dispatched = true)

/* Readers that stop in order, one after the other, under load: nothing is lost and nothing comes twice. */
static void a_thousand_readers_that_stop(void)
{
    struct load load = {.writers = 4, .longest = 1000};
    begin(&load);
    for (int readers = 0; readers < 250; readers++) {
        pid_t reader = start_reader(&reader_job);
        WAIT_DELIVERED(20);
        atomic_store(&ledger->site_ends[0], true);
        join_child(reader);
        atomic_store(&ledger->site_ends[0], false);
    }
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(20);
    end_writers(writers, load.writers);
    end_readers(reader);
    settle_without_loss();
    for (uint32_t i = 0; i < load.writers; i++)
        CHECK_INT(ledger->books[i].repeated, 0);
}

static const struct scenario scenarios[] = {
    SCENARIO(one_writer),
    SCENARIO(one_writer_and_a_slow_callback),
    SCENARIO(one_writer_required),
    SCENARIO(one_writer_in_batches),
    SCENARIO(one_writer_in_an_event_loop),
    SCENARIO(one_writer_at_most_once),
    SCENARIO(four_writers),
    SCENARIO(four_writers_of_large_messages),
    SCENARIO(four_writers_of_large_messages_in_batches),
    SCENARIO(four_writers_in_an_event_loop),
    SCENARIO(four_writers_at_most_once),
    SCENARIO(eight_writers),
    SCENARIO(eight_writers_in_batches),
    SCENARIO(eight_writers_at_most_once_in_batches),
    SCENARIO(eight_writers_in_an_event_loop_in_batches),
    SCENARIO(a_thousand_readers_that_stop),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
