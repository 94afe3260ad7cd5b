"""What a thread waits in, from the kernel function it sleeps in (``/proc/<pid>/wchan``).

For where ``/proc/<pid>/syscall`` may not be read: that takes the right to trace a process, which a hardened kernel
(Yama's ``ptrace_scope``, the default of Ubuntu) gives to its ancestors only; or where the numbers of the system calls
are not known. Names are of Linux 4.19 to 6.x.
"""

from __future__ import annotations

#: Beginnings of the functions' names, as they differ in their endings from version to version.
_KINDS = {
    "futex": "futex",
    "locks_lock_inode_wait": "futex",
    "flock_lock_inode_wait": "futex",
    "posix_lock_inode_wait": "futex",
    "fcntl_setlk": "futex",
    "hrtimer_nanosleep": "sleep",
    "do_nanosleep": "sleep",
    "common_nsleep": "sleep",
    "do_wait": "child",
    "kernel_wait": "child",
    "pipe_": "child",
    "anon_pipe_": "child",
    "wait_for_partner": "child",
    "ep_poll": "socket",
    "do_epoll_wait": "socket",
    "poll_schedule_timeout": "socket",
    "do_sys_poll": "socket",
    "do_poll": "socket",
    "do_select": "socket",
    "sk_wait_data": "socket",
    "wait_woken": "socket",
    "unix_": "socket",
    "tcp_": "socket",
    "inet_": "socket",
    "skb_wait": "socket",
    "__skb_wait": "socket",
    "sk_stream_wait": "socket",
    "io_schedule": "disk",
    "folio_wait": "disk",
    "wait_on_page": "disk",
    "jbd2_": "disk",
}


def kind_of(function: str) -> str:
    """One of the sampler's kinds of waits; empty when the function is not known, or none was said ("0")."""
    return next((kind for beginning, kind in _KINDS.items() if function.startswith(beginning)), "")
