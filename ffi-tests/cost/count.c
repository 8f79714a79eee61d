/*
 * Preloaded: counts the allocations, and the calls that enter the kernel, of everything but the C library itself.
 * Unlike strace it slows nothing down, so threads sleep and wake as they do in earnest.
 *
 * getpid, clock_gettime and their like are not counted: the first is rare, the other does not enter the kernel.
 * cost.rs checks that the library imports no call that enters the kernel and is missing here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

static atomic_uint_fast64_t allocations, system_calls;

uint64_t count_of_allocations(void);
uint64_t count_of_system_calls(void);

uint64_t count_of_allocations(void)
{
    return allocations;
}

uint64_t count_of_system_calls(void)
{
    return system_calls;
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

/* Not by way of dlsym, which allocates itself. */
void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    allocations++;
    return __libc_realloc(old, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    allocations++;
    *out = __libc_memalign(alignment, size);
    return *out == NULL ? 12 /* ENOMEM */ : 0;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}

/* Six words are enough for every one of these, and words that a function does not take do it no harm. */
typedef long (*any_call)(long, long, long, long, long, long);

#define COUNTED(name)                                                                              \
    long name(long a, long b, long c, long d, long e, long f);                                     \
    long name(long a, long b, long c, long d, long e, long f)                                      \
    {                                                                                              \
        static _Atomic(any_call) real;                                                             \
        any_call call = real;                                                                      \
        if (call == NULL) {                                                                        \
            *(void **)&call = dlsym(RTLD_NEXT, #name);                                             \
            real = call;                                                                           \
        }                                                                                          \
        system_calls++;                                                                            \
        return call(a, b, c, d, e, f);                                                             \
    }

COUNTED(accept4)
COUNTED(bind)
COUNTED(clock_nanosleep)
COUNTED(close)
COUNTED(connect)
COUNTED(epoll_create1)
COUNTED(epoll_ctl)
COUNTED(epoll_wait)
COUNTED(eventfd)
COUNTED(fcntl)
COUNTED(flock)
COUNTED(getsockname)
COUNTED(getsockopt)
COUNTED(ioctl)
COUNTED(listen)
COUNTED(madvise)
COUNTED(mmap)
COUNTED(mmap64)
COUNTED(mprotect)
COUNTED(munmap)
COUNTED(nanosleep)
COUNTED(poll)
COUNTED(ppoll)
COUNTED(read)
COUNTED(readv)
COUNTED(recv)
COUNTED(recvfrom)
COUNTED(recvmsg)
COUNTED(sched_yield)
COUNTED(send)
COUNTED(sendmsg)
COUNTED(sendto)
COUNTED(setsockopt)
COUNTED(shutdown)
COUNTED(socket)
COUNTED(timerfd_create)
COUNTED(timerfd_settime)
COUNTED(write)
COUNTED(writev)

/* Seven words: the number of the call comes first. Futexes go this way. */
typedef long (*raw_call)(long, long, long, long, long, long, long);

long syscall(long number, long a, long b, long c, long d, long e, long f);
long syscall(long number, long a, long b, long c, long d, long e, long f)
{
    static _Atomic(raw_call) real;
    raw_call call = real;
    if (call == NULL) {
        *(void **)&call = dlsym(RTLD_NEXT, "syscall");
        real = call;
    }
    system_calls++;
    return call(number, a, b, c, d, e, f);
}
