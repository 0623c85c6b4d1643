"""Workers: the same batches in the same order, errors in turn, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Prefetch, Stream, build


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_the_same_batches_in_order(digits: Dataset, num_workers: int) -> None:
    stream = Stream(digits, seed=0, batch_size=64)
    with closing(Prefetch(partial(stream.batch, rank=1, world_size=3), start=20, num_workers=num_workers)) as batches:
        for expected in range(20, 60):
            b, batch = next(batches)
            assert b == expected
            alone = stream.batch(b, 1, 3)
            assert batch.keys == alone.keys
            np.testing.assert_array_equal(batch.images, alone.images)
    assert not prefetch_threads()


def test_an_error_comes_out_in_its_batchs_turn(digits: Dataset, tmp_path: Path) -> None:
    dataset = build("digits", tmp_path / "digits")
    stream = Stream(dataset, seed=0, batch_size=10)
    bad_key = stream.batch(3).keys[4]
    tar = dataset.files.paths[0]
    data = bytearray(tar.read_bytes())
    row = dataset.index[dataset.keys.index(bad_key)]
    data[int(row["offset"]) : int(row["offset"]) + int(row["length"])] = bytes(int(row["length"]))
    tar.write_bytes(data)
    dataset.files.close()
    with pytest.raises(DataError, match=bad_key), closing(Prefetch(stream.batch, num_workers=4)) as batches:
        for expected, (b, _) in enumerate(batches):
            assert b == expected < 3
    # asking again is the same error, not the batch after it
    again = Prefetch(stream.batch, start=2, num_workers=2)
    next(again)
    for _ in range(2):
        with pytest.raises(DataError, match=bad_key):
            next(again)
    again.close()
    assert not prefetch_threads()


def test_closing_early_and_twice(digits: Dataset) -> None:
    batches = Prefetch(Stream(digits, seed=0, batch_size=500).batch, num_workers=3)
    next(batches)
    batches.close()
    batches.close()
    assert not prefetch_threads()


def test_options(digits: Dataset) -> None:
    with pytest.raises(DataError, match="num_workers: -1"):
        Prefetch(Stream(digits, seed=0, batch_size=1).batch, num_workers=-1)


READER = """
import signal, sys
from erasediff.shards import Dataset, Prefetch, Stream
# a shell's background job starts with Ctrl-C ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
batches = Prefetch(Stream(Dataset.open(sys.argv[1]), seed=0, batch_size=64).batch, num_workers=4)
for b, batch in batches:
    if b == 5:
        print("reading", flush=True)
        if sys.argv[2] == "error":
            raise RuntimeError("the trainer failed")
        if sys.argv[2] == "forget":
            break
"""


@pytest.mark.parametrize(("ending", "status"), [("error", 1), ("forget", 0), ("ctrl-c", -signal.SIGINT)])
def test_the_process_ends_at_once_and_leaves_nothing(digits: Dataset, ending: str, status: int) -> None:
    shared_before = set(os.listdir("/dev/shm"))  # noqa: PTH208 - a listing is what is compared
    command = [sys.executable, "-c", READER, str(digits.path), ending]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        if ending == "ctrl-c":
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == status
        # it led its own group: nobody may be left in it
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    assert {name for name in os.listdir("/dev/shm") if f"{process.pid}" in name} <= shared_before  # noqa: PTH208
