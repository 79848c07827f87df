"""Become a command that has no network: a namespace of its own with nothing but a loopback device.

It is started by path, with the standard library alone, as

    python -I -S -B cutoff.py COMMAND ARGUMENT...

and becomes the command (the process id stays, so signals, exit status and measurements are the command's own).
With no command it only tries, and says on standard output, as JSON, which step failed.

Someone who may (root) gets a network namespace alone; everyone else gets one inside a user namespace in which
his ids are his own, so files belong to whom they always belonged.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

REFUSED = 125
"""Exit status where the kernel did not allow it; the command was not started then."""

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1


class Refused(Exception):
    """``step`` did not work; ``error`` says how."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(f"{step}: {error.strerror}")
        self.step = step
        self.error = error


def cut_off() -> None:
    """Give this process (which must have one thread) a network of its own, with loopback up and nothing else.

    Raises:
        Refused
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        user, group = os.geteuid(), os.getegid()
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise Refused("unshare", OSError(number, os.strerror(number)))
        # In this order: the kernel takes a group map of the unprivileged only without setgroups.
        _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    try:
        _loopback_up()
    except OSError as error:
        raise Refused("loopback", error) from None


def _write(name: str, text: str) -> None:
    try:
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (pathlib would cost more than all the rest)
            file.write(text)
    except OSError as error:
        raise Refused(name, error) from None


def _loopback_up() -> None:
    # Compiler caches, job servers and MPI talk to themselves over it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def main(command: list[str]) -> int:
    try:
        cut_off()
    except Refused as refused:
        if command:
            sys.stderr.write(f"cannot be cut off from the network: {refused}\n")
        else:
            print(json.dumps({"step": refused.step, "errno": refused.error.errno}))
        return REFUSED
    if not command:
        return 0
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
