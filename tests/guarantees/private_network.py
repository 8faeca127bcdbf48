"""A network namespace of a test's own: a loopback on which packets can be dropped at will.

It has no name and is gone with its last process. Whatever the test's thread starts or connects
inside of the block belongs to it; every address of 127.0.0.0/8 is there, so processes that must be
told apart get addresses of their own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest

CLONE_NEWNET = 0x40000000


@contextmanager
def private_network() -> Iterator[None]:
    """A block in a network namespace of its own; skips the test where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            if libc.setns(before, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(before)


@contextmanager
def dropped(*addresses: str, share: float = 1.0) -> Iterator[None]:
    """A block in which so many of the packets from and to these addresses are lost in silence."""
    chance = ["-m", "statistic", "--mode", "random", "--probability", str(share)]
    rules = [
        ["INPUT", way, address, *([] if share == 1 else chance), "-j", "DROP"]
        for address, way in product(addresses, ("--source", "--destination"))
    ]
    for rule in rules:
        subprocess.run(["iptables", "--append", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "--delete", *rule], check=True)
