/* The command line. */
#define _GNU_SOURCE /* getopt_long */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"

static const char help[] =
    "usage: udsipc-nats [OPTION]... SOCKET SUBJECT\n"
    "\n"
    "Reads the messages of the writers at SOCKET and publishes them to NATS JetStream. A writer's message is acknowledged\n"
    "when a stream has it. In SUBJECT {uid} stands for the number of the writer's user, {label} for its --label.\n"
    "\n"
    "  --server URL             a server; several times for a cluster (nats://localhost:4222)\n"
    "  --creds FILE             credentials, a chained file\n"
    "  --tls-ca FILE            certificates that the server's must be signed by; turns TLS on, as does a tls:// URL\n"
    "  --tls-cert FILE          this client's certificate\n"
    "  --tls-key FILE           and its key\n"
    "  --create-stream NAME     make this stream for SUBJECT if no stream takes it\n"
    "  --duplicate-window S     how long that stream remembers the ids of messages, in seconds (120)\n"
    "  --label UID=TEXT         what {label} is for this user; several times. Others have their number\n"
    "  --in-flight N            publishes of one writer that may wait for acknowledgement (256). 1 keeps the order of a\n"
    "                           writer's messages also if the stream refuses single ones or changes its leader\n"
    "  --threads N              writers that are served at the same time (16)\n"
    "  --ack-timeout S          without an acknowledgement for so long the engine counts as away (5)\n"
    "  --stop-time S            how long SIGTERM and SIGINT leave for what writers have sent (5)\n"
    "  --socket-mode MODE       permissions of the socket file, octal (0777 less the umask)\n"
    "  --allow-uid UID          accept writers of this user only; several times for several users\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 stopped, everything is in the stream; 75 stopped while the engine was away or slow, acknowledging\n"
    "writers keep the rest and send it to the next start; 1 an error that the last line tells; 2 wrong usage.\n";

enum option_id {
    SERVER = 256, CREDS, TLS_CA, TLS_CERT, TLS_KEY, CREATE_STREAM, DUPLICATE_WINDOW, LABEL, IN_FLIGHT, THREADS, ACK_TIMEOUT,
    STOP_TIME, SOCKET_MODE, ALLOW_UID, HELP, VERSION
};

static const struct option options[] = {
    {"server", required_argument, NULL, SERVER},
    {"creds", required_argument, NULL, CREDS},
    {"tls-ca", required_argument, NULL, TLS_CA},
    {"tls-cert", required_argument, NULL, TLS_CERT},
    {"tls-key", required_argument, NULL, TLS_KEY},
    {"create-stream", required_argument, NULL, CREATE_STREAM},
    {"duplicate-window", required_argument, NULL, DUPLICATE_WINDOW},
    {"label", required_argument, NULL, LABEL},
    {"in-flight", required_argument, NULL, IN_FLIGHT},
    {"threads", required_argument, NULL, THREADS},
    {"ack-timeout", required_argument, NULL, ACK_TIMEOUT},
    {"stop-time", required_argument, NULL, STOP_TIME},
    {"socket-mode", required_argument, NULL, SOCKET_MODE},
    {"allow-uid", required_argument, NULL, ALLOW_UID},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {NULL, 0, NULL, 0},
};

static bool wrong(const char *what, const char *value)
{
    fprintf(stderr, "udsipc-nats: %s: %s. See udsipc-nats --help\n", what, value);
    return false;
}

static bool number(const char *text, int base, uint64_t least, uint64_t most, uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, base);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || parsed < least || parsed > most)
        return wrong("not a number in the range of its option", text);
    *value = parsed;
    return true;
}

static bool number32(const char *text, int base, uint32_t least, uint32_t most, uint32_t *value)
{
    uint64_t wide;
    if (!number(text, base, least, most, &wide))
        return false;
    *value = (uint32_t)wide;
    return true;
}

static bool seconds(const char *text, uint64_t least, uint64_t *ms)
{
    if (!number(text, 10, least, 86400, ms))
        return false;
    *ms *= 1000;
    return true;
}

static bool add_label(struct settings *settings, char *text)
{
    char *separator = strchr(text, '=');
    if (separator == NULL || settings->label_count == MAX_LIST)
        return wrong("not a UID=TEXT, or too many of them", text);
    *separator = '\0';
    struct label *label = &settings->labels[settings->label_count++];
    label->text = separator + 1;
    return number32(text, 10, 0, UINT32_MAX, &label->uid);
}

static bool add_server(struct settings *settings, const char *url)
{
    if (settings->server_count == MAX_LIST)
        return wrong("too many servers", url);
    settings->servers[settings->server_count++] = url;
    return true;
}

static bool add_uid(struct settings *settings, const char *text)
{
    if (settings->allow_uid_count == MAX_LIST)
        return wrong("too many users", text);
    return number32(text, 10, 0, UINT32_MAX, &settings->allow_uids[settings->allow_uid_count++]);
}

static bool apply(struct settings *settings, int id, char *value)
{
    switch (id) {
    case SERVER: return add_server(settings, value);
    case CREDS: settings->credentials = value; return true;
    case TLS_CA: settings->tls_ca = value; return true;
    case TLS_CERT: settings->tls_cert = value; return true;
    case TLS_KEY: settings->tls_key = value; return true;
    case CREATE_STREAM: settings->create_stream = value; return true;
    case DUPLICATE_WINDOW: return number(value, 10, 1, 31536000, &settings->duplicate_window_s);
    case LABEL: return add_label(settings, value);
    case IN_FLIGHT: return number32(value, 10, 1, 65536, &settings->in_flight);
    case THREADS: return number32(value, 10, 1, 1024, &settings->threads);
    case ACK_TIMEOUT: return seconds(value, 1, &settings->ack_timeout_ms);
    case STOP_TIME: return seconds(value, 0, &settings->stop_time_ms);
    case SOCKET_MODE: settings->has_socket_mode = true; return number32(value, 8, 0, 0777, &settings->socket_mode);
    case ALLOW_UID: return add_uid(settings, value);
    case HELP: fputs(help, stdout); exit(EXIT_SUCCESS);
    case VERSION: printf("udsipc-nats %s, libnats %s\n", udsipc_version(), nats_GetVersion()); exit(EXIT_SUCCESS);
    default: return false; /* getopt_long has said why */
    }
}

bool parse_settings(int argc, char **argv, struct settings *settings)
{
    *settings = (struct settings){.duplicate_window_s = 120, .in_flight = 256, .threads = 16, .ack_timeout_ms = 5000,
                                  .stop_time_ms = 5000};
    for (int id; (id = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (!apply(settings, id, optarg))
            return false;
    if (argc - optind != 2)
        return wrong("SOCKET and SUBJECT are needed, nothing else", argc > optind ? argv[argc - 1] : "none given");
    if (settings->server_count == 0)
        add_server(settings, NATS_DEFAULT_URL);
    if ((settings->tls_cert == NULL) != (settings->tls_key == NULL))
        return wrong("--tls-cert and --tls-key go together", "one is missing");
    settings->socket_path = argv[optind];
    settings->subject = argv[optind + 1];
    if (!subject_is_valid(settings))
        return wrong("no message can be published to this subject, or not with each label", settings->subject);
    return true;
}
