/* What the kernel knows about Unix sockets (sock_diag(7)), and about the processes that have them open. */
#ifndef UDSIPCCAT_DIAG_H
#define UDSIPCCAT_DIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct unix_socket {
    uint32_t inode;
    uint32_t peer;      /* inode of the socket at the other end; 0 if there is none, or it is not accepted yet */
    bool listens, connected;
    uint32_t device, file; /* of the socket file: the kernel's number of the device, and the inode; 0 for an abstract name */
    uint32_t uid;
    uint32_t receive_queue; /* bytes that wait to be read; of a listening socket connections that wait to be accepted */
    uint32_t send_queue;    /* of a listening socket how many may wait */
    size_t name_length;     /* 0: no name */
    char name[108];         /* begins with a NUL if it is abstract */
    pid_t pid;              /* a process that has it open; 0 if none is visible */
    char command[32];       /* its name, printable */
};

struct unix_sockets {
    struct unix_socket *list; /* by inode */
    size_t count;
};

/* All Unix stream sockets of the network namespace, without their processes. False on failure, which has been reported. */
bool diag_sockets(struct unix_sockets *sockets);

struct unix_socket *diag_find(const struct unix_sockets *sockets, uint32_t inode);

/* Fills in the processes, as far as this one may see their descriptors: its own user's, or all for root. */
void diag_processes(struct unix_sockets *sockets);

#endif
