#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <udsipc.h>

#include "report.h"

static const char help[] =
    "Usage: udsipccat -w [OPTION]... PATH [FILE]...\n"
    "       udsipccat -r [OPTION]... PATH\n"
    "       udsipccat --tap [OPTION]... A B\n"
    "       udsipccat --record=FILE [OPTION]... PATH\n"
    "       udsipccat --replay=FILE [OPTION]... PATH\n"
    "       udsipccat --stat PATH\n"
    "       udsipccat --bench [OPTION]... [PATH]\n"
    "Send, receive and inspect messages of libudsipc. PATH is a socket, or @NAME.\n"
    "\n"
    "  -w, --write            send each line of standard input, or of the FILEs\n"
    "  -r, --read             listen at PATH and print each message\n"
    "      --tap              listen at A, pass all on to the reader at B, print it\n"
    "      --record=FILE      listen, append each message to FILE; also with --tap\n"
    "      --replay=FILE      send what was recorded, with the pauses between\n"
    "      --stat             show who listens at PATH, and who is connected\n"
    "      --bench            measure the reader at PATH, or one of its own\n"
    "\n"
    "  -f, --format=FORMAT    lines (default), null, raw, frames; and to print: hex,\n"
    "                         json, none\n"
    "  -n, --count=N          end after N messages\n"
    "  -t, --timeout=SECONDS  end after this time\n"
    "  -W, --wait             wait until somebody listens; else fail at once\n"
    "  -a, --acknowledge=WHEN auto (default), never, or always: send nothing to a\n"
    "                         reader that does not acknowledge\n"
    "      --drop             leave out what finds the queue full; else wait\n"
    "      --speed=X          replay X times as fast (default 1); 0: without pauses\n"
    "      --sync             acknowledge what is recorded when it is on the disk\n"
    "      --size=BYTES       of a message of --bench (default 100)\n"
    "      --max-size=BYTES   of a message (default 10M); K and M are KiB and MiB\n"
    "  -q, --quiet            no progress line and no remarks, only errors\n"
    "  -h, --help             print this\n"
    "  -V, --version          print the version\n"
    "\n"
    "FILE - is standard input or output. SIGINT and SIGTERM end in an orderly way,\n"
    "a second one at once. Exit status: 0 all delivered, or somebody listens; 1 not\n"
    "so; 2 wrong usage; 3 the time of --timeout was over first.\n";

/* The long options without a letter of their own. */
enum { OPTION_TAP = 256, OPTION_RECORD, OPTION_REPLAY, OPTION_STAT, OPTION_BENCH, OPTION_DROP, OPTION_SPEED,
       OPTION_SYNC, OPTION_SIZE, OPTION_MAX_SIZE };

static const char letters[] = "wrf:n:t:Wa:qhV";
static const struct option names[] = {
    {"write", no_argument, NULL, 'w'},
    {"read", no_argument, NULL, 'r'},
    {"tap", no_argument, NULL, OPTION_TAP},
    {"record", required_argument, NULL, OPTION_RECORD},
    {"replay", required_argument, NULL, OPTION_REPLAY},
    {"stat", no_argument, NULL, OPTION_STAT},
    {"bench", no_argument, NULL, OPTION_BENCH},
    {"format", required_argument, NULL, 'f'},
    {"count", required_argument, NULL, 'n'},
    {"timeout", required_argument, NULL, 't'},
    {"wait", no_argument, NULL, 'W'},
    {"acknowledge", required_argument, NULL, 'a'},
    {"drop", no_argument, NULL, OPTION_DROP},
    {"speed", required_argument, NULL, OPTION_SPEED},
    {"sync", no_argument, NULL, OPTION_SYNC},
    {"size", required_argument, NULL, OPTION_SIZE},
    {"max-size", required_argument, NULL, OPTION_MAX_SIZE},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static const char *const formats[] = {
    [FORMAT_LINES] = "lines", [FORMAT_NULL] = "null", [FORMAT_RAW] = "raw",   [FORMAT_FRAMES] = "frames",
    [FORMAT_HEX] = "hex",     [FORMAT_JSON] = "json", [FORMAT_NONE] = "none",
};
static const char *const acknowledge_modes[] = {"never", "auto", "always"};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static void usage(const char *text, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void usage(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    report_list(text, arguments);
    va_end(arguments);
    fputs("Try 'udsipccat --help'.\n", stderr);
    exit(EXIT_USAGE);
}

static uint64_t whole_number(const char *option, const char *text, char **end)
{
    errno = 0;
    unsigned long long number = strtoull(text, end, 10);
    if (errno != 0 || *end == text || text[0] < '0' || text[0] > '9')
        usage("%s: '%s' is no number", option, text);
    return number;
}

static uint64_t count_of(const char *text)
{
    char *end;
    uint64_t number = whole_number("--count", text, &end);
    if (*end != '\0' || number == 0 || number == COUNT_UNLIMITED)
        usage("--count: '%s' is no number of messages, 1 or more", text);
    return number;
}

static uint64_t size_of(const char *option, const char *text)
{
    char *end;
    uint64_t number = whole_number(option, text, &end);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
    if (shift > 0)
        end++;
    if (*end != '\0' || number == 0 || number > (UINT64_C(1) << 40) >> shift)
        usage("%s: '%s' is no size: 1 or more bytes, with K or M behind it: KiB or MiB", option, text);
    return number << shift;
}

static double decimal(const char *option, const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(number) || number < 0 || number > 1e9)
        usage("%s: '%s' is no number, 0 or more", option, text);
    return number;
}

/* Rounded up: a time that is not 0 stays that. */
static uint64_t milliseconds(const char *option, const char *text)
{
    double ms = decimal(option, text) * 1000;
    uint64_t whole = (uint64_t)ms;
    return (double)whole < ms ? whole + 1 : whole;
}

static int word_of(const char *option, const char *text, const char *const *words, size_t count)
{
    char all[128] = "";
    for (size_t i = 0; i < count; i++) {
        if (strcmp(words[i], text) == 0)
            return (int)i;
        size_t length = strlen(all);
        snprintf(all + length, sizeof all - length, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    usage("%s: '%s' is none of %s", option, text, all);
}

static void set_task(struct options *options, enum task task)
{
    if (options->task != TASK_NONE && options->task != task)
        usage("one thing at a time: -w, -r, --tap, --stat or --bench");
    options->task = task;
}

static void set(struct options *options, int option)
{
    switch (option) {
    case 'w': set_task(options, TASK_WRITE); break;
    case 'r': set_task(options, TASK_READ); break;
    case OPTION_TAP: set_task(options, TASK_TAP); break;
    case OPTION_STAT: set_task(options, TASK_STAT); break;
    case OPTION_BENCH: set_task(options, TASK_BENCH); break;
    case OPTION_RECORD: options->record = optarg; break;
    case OPTION_REPLAY: options->replay = optarg; break;
    case 'f': options->format = (enum format)word_of("--format", optarg, formats, LENGTH(formats)); break;
    case 'n': options->count = count_of(optarg); break;
    case 't': options->timeout_ms = milliseconds("--timeout", optarg); break;
    case 'W': options->wait = true; break;
    case 'a':
        options->acknowledge = word_of("--acknowledge", optarg, acknowledge_modes, LENGTH(acknowledge_modes));
        break;
    case OPTION_DROP: options->drop = true; break;
    case OPTION_SPEED: options->speed = decimal("--speed", optarg); break;
    case OPTION_SYNC: options->sync = true; break;
    case OPTION_SIZE: options->size = size_of("--size", optarg); break;
    case OPTION_MAX_SIZE: options->max_size = size_of("--max-size", optarg); break;
    case 'q': options->quiet = true; break;
    case 'h': fputs(help, stdout); exit(fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED);
    case 'V': printf("udsipccat %s, libudsipc %s\n", UDSIPC_VERSION_STRING, udsipc_version());
        exit(fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED);
    default: fputs("Try 'udsipccat --help'.\n", stderr); exit(EXIT_USAGE); /* getopt has said what is wrong */
    }
}

/* An option that would have no effect is a misunderstanding. */
static void check_use(const struct options *options, const bool *given)
{
    static const struct { int option; const char *name, *with; unsigned tasks; } uses[] = {
        {'f', "--format", "-w, -r and --tap", 1 << TASK_WRITE | 1 << TASK_READ | 1 << TASK_TAP},
        {'n', "--count", "everything but --stat", ~(1U << TASK_STAT)},
        {'t', "--timeout", "everything but --stat", ~(1U << TASK_STAT)},
        {'W', "--wait", "-w, --tap and --replay", 1 << TASK_WRITE | 1 << TASK_TAP},
        {'a', "--acknowledge", "-w, --tap, --replay and --bench", 1 << TASK_WRITE | 1 << TASK_TAP | 1 << TASK_BENCH},
        {OPTION_DROP, "--drop", "-w", 1 << TASK_WRITE},
        {OPTION_RECORD, "--record", "-r or --tap", 1 << TASK_READ | 1 << TASK_TAP},
        {OPTION_REPLAY, "--replay", "-w", 1 << TASK_WRITE},
        {OPTION_SIZE, "--size", "--bench", 1 << TASK_BENCH},
        {OPTION_MAX_SIZE, "--max-size", "-w, -r and --tap", 1 << TASK_WRITE | 1 << TASK_READ | 1 << TASK_TAP},
    };
    for (size_t i = 0; i < LENGTH(uses); i++)
        if (given[uses[i].option] && (uses[i].tasks >> options->task & 1) == 0)
            usage("%s goes with %s", uses[i].name, uses[i].with);
    if (given[OPTION_SPEED] && options->replay == NULL)
        usage("--speed goes with --replay");
    if (given[OPTION_SYNC] && options->record == NULL)
        usage("--sync goes with --record");
    if (given['f'] && options->replay != NULL)
        usage("--format does not go with --replay: a recording has its own");
    if (options->task == TASK_WRITE && options->format > FORMAT_FRAMES)
        usage("-w sends lines, null, raw or frames");
}

static void take_operands(struct options *options, int count, char **operands)
{
    static const struct { int least, most; const char *missing; } numbers[] = {
        [TASK_WRITE] = {1, INT32_MAX, "-w needs the PATH of a socket"},
        [TASK_READ] = {1, 1, "-r needs the PATH of a socket"},
        [TASK_TAP] = {2, 2, "--tap needs two paths: A, where it listens, and B, where the reader listens"},
        [TASK_STAT] = {1, 1, "--stat needs the PATH of a socket"},
        [TASK_BENCH] = {0, 1, ""},
    };
    if (count < numbers[options->task].least)
        usage("%s", numbers[options->task].missing);
    int most = options->replay != NULL ? 1 : numbers[options->task].most;
    if (count > most)
        usage("'%s' is one argument too many", operands[most]);
    options->path = count > 0 ? operands[0] : NULL;
    options->target = options->task == TASK_TAP ? operands[1] : NULL;
    if (options->task == TASK_WRITE && count > 1) {
        options->files = operands + 1;
        options->file_count = (size_t)count - 1;
    }
}

void options_parse(struct options *options, int argc, char **argv)
{
    *options = (struct options){.count = COUNT_UNLIMITED, .timeout_ms = UDSIPC_WAIT_FOREVER, .max_size = 10 << 20,
                                .size = 100, .speed = 1, .acknowledge = 1};
    bool given[OPTION_MAX_SIZE + 1] = {false};
    int option;
    while ((option = getopt_long(argc, argv, letters, names, NULL)) >= 0) {
        set(options, option);
        given[option] = true;
    }
    if (options->task == TASK_NONE && options->record != NULL)
        options->task = TASK_READ;
    if (options->task == TASK_NONE && options->replay != NULL)
        options->task = TASK_WRITE;
    if (options->task == TASK_NONE)
        usage("what to do? -w sends, -r receives; also --tap, --record, --replay, --stat and --bench");
    check_use(options, given);
    if (options->record != NULL && !given['f'])
        options->format = FORMAT_NONE;
    if (options->record != NULL && strcmp(options->record, "-") == 0 && options->format != FORMAT_NONE)
        usage("standard output takes the recording or the messages, not both");
    take_operands(options, argc - optind, argv + optind);
}
