/* A host that loads the library as a plugin would be: dlopen, use, stop, free, dlclose, again and again. It is not linked
 * against the library, so that dlclose could really unload it, and it must end without a crash in any case. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "udsipc.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1); \
        } \
    } while (0)

static const char *library;
static atomic_uint received;

static int32_t receive(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection, (void)userdata;
    atomic_fetch_add(&received, 1);
    return 0;
}

/* POSIX lets a data pointer hold a function's address (dlsym(3)); ISO C has no cast for it. */
static void find(void *plugin, const char *name, void *function)
{
    void *address = dlsym(plugin, name);
    REQUIRE(address != NULL);
    memcpy(function, &address, sizeof address);
}

static void use(void *plugin, bool free_at_once)
{
    __typeof__(udsipc_reader_new) *reader_new;
    __typeof__(udsipc_reader_start) *reader_start;
    __typeof__(udsipc_reader_stop) *reader_stop;
    __typeof__(udsipc_reader_free) *reader_free;
    __typeof__(udsipc_writer_new) *writer_new;
    __typeof__(udsipc_writer_start) *writer_start;
    __typeof__(udsipc_write_message) *write_message;
    __typeof__(udsipc_writer_stop) *writer_stop;
    __typeof__(udsipc_writer_free) *writer_free;
    find(plugin, "udsipc_reader_new", &reader_new);
    find(plugin, "udsipc_reader_start", &reader_start);
    find(plugin, "udsipc_reader_stop", &reader_stop);
    find(plugin, "udsipc_reader_free", &reader_free);
    find(plugin, "udsipc_writer_new", &writer_new);
    find(plugin, "udsipc_writer_start", &writer_start);
    find(plugin, "udsipc_write_message", &write_message);
    find(plugin, "udsipc_writer_stop", &writer_stop);
    find(plugin, "udsipc_writer_free", &writer_free);

    udsipc_reader *reader = NULL;
    udsipc_writer *writer = NULL;
    unsigned before = atomic_load(&received);
    REQUIRE(reader_new("", receive, NULL, NULL, &reader) == UDSIPC_ERR_INVALID_SOCKET_PATH); /* this thread's last error */
    REQUIRE(reader_new("plugin.sock", receive, NULL, NULL, &reader) == UDSIPC_OK);
    REQUIRE(writer_new("plugin.sock", NULL, &writer) == UDSIPC_OK);
    REQUIRE(reader_start(reader) == UDSIPC_OK && writer_start(writer) == UDSIPC_OK);
    for (int i = 0; i < 100; i++)
        REQUIRE(write_message(writer, "hello", 5) == UDSIPC_OK);
    if (!free_at_once) {
        REQUIRE(writer_stop(writer, 30000) == UDSIPC_OK && reader_stop(reader, 30000) == UDSIPC_OK);
        REQUIRE(atomic_load(&received) == before + 100);
    }
    writer_free(writer);
    reader_free(reader);
}

static bool is_loaded(void)
{
    char line[512];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    REQUIRE(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        found |= strstr(line, "libudsipc") != NULL;
    fclose(maps);
    return found;
}

static size_t resident_kib(void)
{
    unsigned long size = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    REQUIRE(statm != NULL && fscanf(statm, "%lu %lu", &size, &resident) == 2);
    fclose(statm);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

/* Handlers of pthread_atfork(3) that were left behind would be called where nothing is mapped any more. */
static void fork_a_child(void)
{
    int status = 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) _exit(0);
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void *load(void)
{
    void *plugin = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(plugin != NULL);
    return plugin;
}

/* The thread that used it lives on, or, in the second function, unloads before it ends itself. */
static void in_this_thread(bool free_at_once)
{
    void *plugin = load();
    use(plugin, free_at_once);
    fork_a_child();
    REQUIRE(dlclose(plugin) == 0);
}

static void *run_in_this_thread(void *free_at_once)
{
    in_this_thread(free_at_once != NULL);
    return NULL;
}

struct job {
    void *plugin;
    bool free_at_once;
};

static void *run_use(void *argument)
{
    struct job *job = (struct job *)argument;
    use(job->plugin, job->free_at_once);
    return NULL;
}

static void run_in_a_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, body, argument) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
}

/* Every thread that ever used it has ended before it is unloaded: nothing keeps it mapped but itself. */
static void around_a_thread(bool free_at_once)
{
    struct job job = {load(), free_at_once};
    run_in_a_thread(run_use, &job);
    REQUIRE(dlclose(job.plugin) == 0);
}

/* plugin LIBRARY main|thread|around: who loads it and who uses it. */
int main(int argc, char **argv)
{
    REQUIRE(argc == 3);
    library = argv[1];
    size_t warm = 0;
    for (int round = 0; round < 60; round++) {
        bool free_at_once = round % 2 == 1;
        if (strcmp(argv[2], "main") == 0)
            in_this_thread(free_at_once);
        else if (strcmp(argv[2], "thread") == 0)
            run_in_a_thread(run_in_this_thread, free_at_once ? &warm : NULL);
        else
            around_a_thread(free_at_once);
        fork_a_child();
        if (round == 20) warm = resident_kib();
    }
    printf("%s: after the last dlclose the library is %s; %zu KiB resident after 20 rounds, %zu after 60\n", argv[2],
           is_loaded() ? "still mapped" : "gone", warm, resident_kib());
#ifndef UDSIPC_CHECKER /* a sanitizer keeps what was freed */
    REQUIRE(resident_kib() < warm + 4096);
#endif
    return 0;
}
