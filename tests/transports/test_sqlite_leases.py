"""The lock that shows that a host lives."""

import fcntl
import os
import threading
import time
from pathlib import Path

from echo_core.transports.sqlite.leases import HostLock, living, lock_path, said


def test_a_host_gets_its_lock_although_somebody_is_just_looking_whether_it_lives(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    looking = os.open(lock_path(store, 1), os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_EX)
    began = time.monotonic()
    threading.Timer(0.05, os.close, [looking]).start()
    lock = HostLock(lock_path(store, 1))
    assert time.monotonic() - began >= 0.04
    assert living(store) == [1]
    lock.say(b"a longer document")
    lock.say(b"a document")
    assert said(store) == {"1": b"a document"}
    lock.release()
    assert said(store) == {}
