#include "diag.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "report.h"

enum { STATE_ESTABLISHED = 1, STATE_LISTEN = 10 }; /* as for TCP */

static bool ask(int fd)
{
    struct {
        struct nlmsghdr header;
        struct unix_diag_req request;
    } question = {
        .header = {.nlmsg_len = sizeof question, .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .request = {.sdiag_family = AF_UNIX, .udiag_states = 1U << STATE_ESTABLISHED | 1U << STATE_LISTEN,
                    .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID},
    };
    return send(fd, &question, sizeof question, 0) == (ssize_t)sizeof question;
}

/* Copies what an attribute holds, if it is as long as it should be. */
static void copy(void *to, const struct rtattr *attribute, size_t size)
{
    if (RTA_PAYLOAD(attribute) >= size)
        memcpy(to, RTA_DATA(attribute), size);
}

static void take_attribute(struct unix_socket *to, const struct rtattr *attribute)
{
    struct unix_diag_vfs vfs = {0};
    struct unix_diag_rqlen queues = {0};
    switch (attribute->rta_type) {
    case UNIX_DIAG_NAME:
        to->name_length = RTA_PAYLOAD(attribute) < sizeof to->name ? RTA_PAYLOAD(attribute) : sizeof to->name;
        memcpy(to->name, RTA_DATA(attribute), to->name_length);
        break;
    case UNIX_DIAG_VFS:
        copy(&vfs, attribute, sizeof vfs);
        to->file = vfs.udiag_vfs_ino;
        to->device = vfs.udiag_vfs_dev;
        break;
    case UNIX_DIAG_PEER: copy(&to->peer, attribute, sizeof to->peer); break;
    case UNIX_DIAG_RQLEN:
        copy(&queues, attribute, sizeof queues);
        to->receive_queue = queues.udiag_rqueue;
        to->send_queue = queues.udiag_wqueue;
        break;
    case UNIX_DIAG_UID: copy(&to->uid, attribute, sizeof to->uid); break;
    default: break;
    }
}

static bool take_socket(struct unix_sockets *sockets, const struct nlmsghdr *header)
{
    const struct unix_diag_msg *message = NLMSG_DATA(header);
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof *message) || message->udiag_type != SOCK_STREAM)
        return true;
    if ((sockets->count & (sockets->count - 1)) == 0) {
        size_t capacity = sockets->count == 0 ? 1 : 2 * sockets->count;
        struct unix_socket *grown = realloc(sockets->list, capacity * sizeof *grown);
        if (grown == NULL)
            return false;
        sockets->list = grown;
    }
    struct unix_socket *to = &sockets->list[sockets->count++];
    *to = (struct unix_socket){.inode = message->udiag_ino, .uid = UINT32_MAX,
                               .listens = message->udiag_state == STATE_LISTEN,
                               .connected = message->udiag_state == STATE_ESTABLISHED};
    unsigned left = (unsigned)(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
    const struct rtattr *attribute = (const struct rtattr *)(message + 1);
    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
        take_attribute(to, attribute);
    return true;
}

/* Reads the kernel's answers up to the last one. */
static bool take_answers(int fd, struct unix_sockets *sockets)
{
    static union {
        struct nlmsghdr aligned;
        char bytes[32 << 10];
    } answer;
    for (;;) {
        ssize_t got = recv(fd, &answer, sizeof answer, 0);
        if (got <= 0)
            return false;
        unsigned left = (unsigned)got;
        for (const struct nlmsghdr *header = &answer.aligned; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
            if (header->nlmsg_type == NLMSG_DONE)
                return true;
            if (header->nlmsg_type == NLMSG_ERROR) {
                const struct nlmsgerr *error = NLMSG_DATA(header);
                errno = -error->error;
                return false;
            }
            if (!take_socket(sockets, header))
                return false;
        }
    }
}

static int by_inode(const void *left, const void *right)
{
    uint32_t a = ((const struct unix_socket *)left)->inode, b = ((const struct unix_socket *)right)->inode;
    return (a > b) - (a < b);
}

bool diag_sockets(struct unix_sockets *sockets)
{
    *sockets = (struct unix_sockets){0};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    bool ok = fd >= 0 && ask(fd) && take_answers(fd, sockets);
    if (!ok)
        report("the kernel does not tell about sockets (sock_diag): %s%s", strerror(errno),
               errno == ENOENT ? "; try: sudo modprobe unix_diag" : "");
    if (fd >= 0)
        close(fd);
    if (ok && sockets->count > 0)
        qsort(sockets->list, sockets->count, sizeof *sockets->list, by_inode);
    return ok;
}

struct unix_socket *diag_find(const struct unix_sockets *sockets, uint32_t inode)
{
    const struct unix_socket key = {.inode = inode};
    if (inode == 0 || sockets->count == 0)
        return NULL;
    return bsearch(&key, sockets->list, sockets->count, sizeof key, by_inode);
}

/* A process can give itself any name. */
static void read_command(const char *pid, char *command, size_t capacity)
{
    char path[288];
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(command, (int)capacity, file) == NULL)
        snprintf(command, capacity, "?");
    if (file != NULL)
        fclose(file);
    command[strcspn(command, "\n")] = '\0';
    for (char *at = command; *at != '\0'; at++)
        *at = isprint((unsigned char)*at) ? *at : '?';
}

static void look_into(struct unix_sockets *sockets, const char *pid)
{
    char path[288], target[64], command[32] = "";
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *folder = opendir(path);
    if (folder == NULL)
        return;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        unsigned long inode;
        if (sscanf(target, "socket:[%lu]", &inode) != 1)
            continue;
        struct unix_socket *socket = diag_find(sockets, (uint32_t)inode);
        if (socket == NULL || socket->pid != 0)
            continue;
        if (command[0] == '\0')
            read_command(pid, command, sizeof command);
        socket->pid = (pid_t)atol(pid);
        memcpy(socket->command, command, sizeof command);
    }
    closedir(folder);
}

void diag_processes(struct unix_sockets *sockets)
{
    DIR *processes = opendir("/proc");
    if (processes == NULL)
        return;
    for (const struct dirent *entry; (entry = readdir(processes)) != NULL;)
        if (isdigit((unsigned char)entry->d_name[0]))
            look_into(sockets, entry->d_name);
    closedir(processes);
}
