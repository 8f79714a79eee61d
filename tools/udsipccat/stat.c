/* Nothing here connects: a reader would see a connection, and perhaps be started by systemd for it. */
#include "stat.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "diag.h"
#include "report.h"

/* What all sockets of the path have in common: a reader's listening one and its connections. */
struct address {
    const char *path;
    bool abstract;
    struct stat file;
};

static bool has_address(const struct unix_socket *socket, const struct address *address)
{
    if (address->abstract) {
        size_t length = strlen(address->path);
        return socket->name_length == length && socket->name[0] == '\0' &&
               memcmp(socket->name + 1, address->path + 1, length - 1) == 0;
    }
    /* The name is as it was bound, perhaps through another directory; the file is the same. In some file systems
     * (overlayfs) stat(2) has another number for the device: then the last part of the name decides. */
    if (socket->file == 0 || socket->file != (uint32_t)address->file.st_ino)
        return false;
    uint32_t device = (uint32_t)(major(address->file.st_dev) << 20 | minor(address->file.st_dev));
    char name[sizeof socket->name + 1] = "";
    memcpy(name, socket->name, socket->name_length);
    const char *ours = strrchr(address->path, '/'), *theirs = strrchr(name, '/');
    return socket->device == device ||
           strcmp(ours != NULL ? ours + 1 : address->path, theirs != NULL ? theirs + 1 : name) == 0;
}

static const char *user_name(uint32_t uid, char *text, size_t capacity)
{
    const struct passwd *user = getpwuid(uid);
    if (user != NULL)
        snprintf(text, capacity, "%s", user->pw_name);
    else
        snprintf(text, capacity, "%" PRIu32, uid);
    return text;
}

static void print_process(const struct unix_socket *socket)
{
    if (socket != NULL && socket->pid != 0)
        printf("pid %ld (%s)", (long)socket->pid, socket->command);
    else
        printf("a process that is not visible (run as its user or as root)");
}

/* False if there is nothing that could be listened at, which has been printed. */
static bool print_file(struct address *address)
{
    if (address->abstract)
        return true;
    if (stat(address->path, &address->file) != 0) {
        printf("file         %s\n", strerror(errno));
        return false;
    }
    if (!S_ISSOCK(address->file.st_mode)) {
        printf("file         is no socket\n");
        return false;
    }
    char owner[64];
    const struct group *group = getgrgid(address->file.st_gid);
    printf("file         mode %04o, owner %s, ", (unsigned)address->file.st_mode & 07777U,
           user_name(address->file.st_uid, owner, sizeof owner));
    if (group != NULL)
        printf("group %s\n", group->gr_name);
    else
        printf("group %" PRIu32 "\n", (uint32_t)address->file.st_gid);
    return true;
}

static const struct unix_socket *print_listener(const struct unix_sockets *sockets, const struct address *address)
{
    for (size_t i = 0; i < sockets->count; i++) {
        const struct unix_socket *socket = &sockets->list[i];
        if (!socket->listens || !has_address(socket, address))
            continue;
        char user[64];
        printf("listens      ");
        print_process(socket);
        if (socket->uid != UINT32_MAX)
            printf(", user %s", user_name(socket->uid, user, sizeof user));
        printf("\nbacklog      %" PRIu32 " of %" PRIu32 " connections wait to be accepted\n", socket->receive_queue,
               socket->send_queue);
        return socket;
    }
    printf("listens      nobody\n");
    return NULL;
}

/* A writer that asks for acknowledgement has bound its socket to "\0udsipc/1/ID/SENT/DIAL" (unix(7)). */
static void print_writer(const struct unix_socket *peer)
{
    char name[sizeof peer->name] = "", id[33];
    uint64_t sequence;
    if (peer != NULL && peer->name_length > 1 && peer->name[0] == '\0')
        memcpy(name, peer->name + 1, peer->name_length - 1);
    if (sscanf(name, "udsipc/1/%32[0-9a-f]/%" SCNx64 "/", id, &sequence) == 2)
        printf(", libudsipc writer %s, from message %" PRIu64 " on", id, sequence);
}

static void print_connections(const struct unix_sockets *sockets, const struct address *address)
{
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < sockets->count; i++) {
        const struct unix_socket *socket = &sockets->list[i];
        if (!socket->connected || !has_address(socket, address))
            continue;
        const struct unix_socket *peer = diag_find(sockets, socket->peer);
        printf("writer       ");
        print_process(peer);
        printf(": %" PRIu32 " bytes unread", socket->receive_queue);
        print_writer(peer);
        printf("\n");
        count++;
        bytes += socket->receive_queue;
    }
    printf("connections  %zu, with %" PRIu64 " bytes unread\n", count, bytes);
}

int print_stat(const struct options *options)
{
    struct address address = {.path = options->path, .abstract = options->path[0] == '@'};
    struct unix_sockets sockets;
    printf("path         %s\n", options->path);
    if (!print_file(&address)) {
        printf("listens      nobody\n");
        return EXIT_FAILED;
    }
    if (!diag_sockets(&sockets))
        return EXIT_FAILED;
    diag_processes(&sockets);
    bool listens = print_listener(&sockets, &address) != NULL;
    print_connections(&sockets, &address);
    free(sockets.list);
    if (fflush(stdout) != 0) {
        report("cannot write to standard output: %s", strerror(errno));
        return EXIT_FAILED;
    }
    return listens ? EXIT_OK : EXIT_FAILED;
}
