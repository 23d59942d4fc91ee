"""Addresses at which processes of a test meet."""

import pathlib
import random
import socket

_RANGE = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(host="localhost"):
    """Returns a port that nobody has, and that the system gives to nobody by itself.

    A port that the system chose might be given to a connection of another program
    before the test uses it.
    """
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    while True:
        port = random.SystemRandom().randrange(min(10_000, first // 2), first)
        with socket.socket() as listener:
            try:
                listener.bind((host, port))
                return port
            except OSError:
                continue


def free_address():
    """Returns `localhost` with such a port."""
    return f"localhost:{free_port()}"
