"""Reading and building shards against other ways and what the machine allows: one long file, all side by side.

    python benchmarks/shards.py                                    # latents, jpegs, order
    python benchmarks/shards.py latents jpegs --repeats 9
    python benchmarks/shards.py build --images cifar10/train.zip   # a folder or zip of class/name.jpg

latents  packed latents and text (185 KB a sample): batches of ours, plain `webdataset` iteration of the same tar, raw
         `pread` of the same bytes in our order (keeping a batch in memory as ours does, or reading all into one buffer
         that never leaves the processor's cache), mosaicml-streaming on its own format where it is installed
jpegs    512 × 512 JPEGs: batches of ours, and Pillow alone decoding the same bytes from memory to arrays
order    synthetic datasets of 10^5 to 10^8 samples: time to open one and read a batch at sample 10,000,000, time of the
         batches after it, memory of the process
build    images a second, with and without workers, memory of the process

latents and jpegs run on one core, every provider in turn in each repeat, from the page cache, in CPU seconds. What
providers return is compared first: where ours is wrong, no figure is printed and the exit status is 1.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.numpy
from erasediff.shards import Dataset, Stream, build
from erasediff.shards.format.index import index_dtype
from erasediff.shards.format.manifest import Shard, write_manifest
from erasediff.shards.streaming.order import Order
from PIL import Image
from rows import Rows

BATCH_SIZE = 32
RESUME_AT = 10_000_000
SHARD_SAMPLES = 10_000
NUM_BATCHES = 300
COLUMNS = ["question", "provider", "unit", "median", "p20", "p80", "MB/s", "peak MB"]

TABLE: Rows | None = None  # made once the options are read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", default=["latents", "jpegs", "order"], help="latents jpegs order build")
    parser.add_argument("--repeats", type=int, default=7, help="passes over the data for each provider")
    parser.add_argument("--samples", type=int, default=400, help="latents or JPEGs in the data set")
    parser.add_argument("--images", type=Path, help="source for `build`")
    parser.add_argument("--child", nargs=2, metavar=("QUESTION", "ARGUMENT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child[0]](options.child[1])))
        return 0
    global TABLE
    TABLE = Rows(COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        for question in options.questions:
            QUESTIONS[question](options, Path(folder) / question)
    return 0


def print_row(
    question: str, provider: str, unit: str, values: list[float], mb_a_unit: float = 0, peak_mb: float = 0
) -> None:
    """`values` are in `unit`; a row has their median and quantiles."""
    p20, median, p80 = np.quantile(values, [0.2, 0.5, 0.8])
    figures = [f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in (median, p20, p80)]
    mb = f"{median * mb_a_unit:,.0f}" if mb_a_unit else ""
    assert TABLE is not None
    TABLE.add(question, provider, unit, *figures, mb, f"{peak_mb:,.0f}" if peak_mb else "")


def print_ratio(question: str, text: str, ours: list[float], theirs: list[float]) -> None:
    """Of passes that ran one after the other."""
    print_row(question, text, "ratio", [one / other for one, other in zip(ours, theirs, strict=True)])


def one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def passes(providers: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Samples a CPU second of each provider, all in turn in each repeat, after a pass to warm up.

    CPU seconds (of all threads) are seconds on an idle core, and stay comparable where other work shares the machine.
    """
    for provider in providers.values():
        provider()
    rates: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(repeats):
        for name, provider in providers.items():
            start = time.process_time()
            num_samples = provider()
            rates[name].append(num_samples / (time.process_time() - start))
    return rates


def check(is_right: bool, what: str) -> None:
    if not is_right:
        sys.exit(f"{what}: ours is wrong, no figures")


# latents


def latents(options: argparse.Namespace, folder: Path) -> None:
    one_core()
    dataset = make_latents(folder, options.samples)
    rows = list(epoch_rows(dataset))
    stream = Stream(dataset, seed=0, batch_size=BATCH_SIZE)
    num_batches = len(dataset) // BATCH_SIZE
    tars = [str(path) for path in dataset.files.paths]

    def ours() -> int:
        for b in range(num_batches):
            stream.batch(b)
        return num_batches * BATCH_SIZE

    def pread(kept: int) -> int:
        with Path(tars[0]).open("rb", buffering=0) as file:
            for start in range(0, len(rows), kept):
                _ = [os.pread(file.fileno(), length, offset) for _, offset, length in rows[start : start + kept]]
        return len(rows)

    check_latents(dataset, stream, tars)
    providers = {
        "erasediff": ours,
        "raw pread, a batch kept": lambda: pread(BATCH_SIZE),
        "raw pread, one buffer": lambda: pread(1),
        "webdataset": lambda: sum(1 for _ in plain_webdataset(tars)),
    }
    mosaic = make_mosaic(folder / "mds", dataset)
    if mosaic is not None:
        providers["mosaicml-streaming"] = mosaic
    mb = float(np.mean([length for _, _, length in rows])) / 1e6
    rates = passes(providers, options.repeats)
    for name, values in rates.items():
        print_row("latents", name, "samples/CPU s", values, mb_a_unit=mb)
    for name in list(providers)[1:]:
        print_ratio("latents", f"erasediff / {name}", rates["erasediff"], rates[name])


def make_latents(folder: Path, num_samples: int) -> Dataset:
    """SD 1.x's moments (8 × 64 × 64) and CLIP's text states (77 × 768) in fp16, one safetensors entry a sample."""
    random = np.random.default_rng(0)
    (folder / "in").mkdir(parents=True)
    for i in range(num_samples):
        moments = random.normal(size=(8, 64, 64)).astype(np.float16)
        text = random.normal(size=(77, 768)).astype(np.float16)
        data = safetensors.numpy.save({"moments": moments, "text": text})
        (folder / "in" / f"{i:06d}.safetensors").write_bytes(data)
    lines = [json.dumps({"path": f"{i:06d}.safetensors", "label": i % 10}) for i in range(num_samples)]
    (folder / "in" / "table.jsonl").write_text("\n".join(lines))
    return build(folder / "in" / "table.jsonl", folder / "out")


def epoch_rows(dataset: Dataset) -> Iterator[tuple[int, int, int]]:
    """(shard, offset, length) in the order in which the stream reads them."""
    order = Order([shard.num_samples for shard in dataset.manifest.shards], seed=0, window_shards=16)
    for row in order.rows(np.arange(len(dataset) // BATCH_SIZE * BATCH_SIZE)).tolist():
        place = dataset.index[row]
        yield int(place["shard"]), int(place["offset"]), int(place["length"])


def plain_webdataset(tars: list[str]) -> Iterator[dict]:
    from webdataset.compat import WebDataset

    return iter(WebDataset(tars, shardshuffle=False))


def check_latents(dataset: Dataset, stream: Stream, tars: list[str]) -> None:
    """Ours against the library's reading of plain webdataset's bytes."""
    expected = {sample["__key__"]: safetensors.numpy.load(sample["safetensors"]) for sample in plain_webdataset(tars)}
    batch = stream.batch(1)
    assert batch.arrays is not None
    for k, key in enumerate(batch.keys):
        same = all(np.array_equal(batch.arrays[name][k], array) for name, array in expected[key].items())
        check(same and len(expected) == len(dataset), "latents")


def make_mosaic(folder: Path, dataset: Dataset) -> Callable[[], int] | None:
    """The same entries in MDS shards of the same size, read as its documentation does; None if it is not installed."""
    try:
        stand_in_for_torchvision()
        from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"mosaicml-streaming is left out: {error}", file=sys.stderr)
        return None
    with MDSWriter(out=str(folder), columns={"content": "bytes", "label": "int"}, size_limit=1 << 30) as writer:
        for i in range(len(dataset)):
            writer.write({"content": dataset.read_bytes(i), "label": int(dataset.labels[i])})
    reader = StreamingDataset(local=str(folder), shuffle=False, batch_size=BATCH_SIZE)
    return lambda: sum(1 for _ in reader)


def stand_in_for_torchvision() -> None:
    """mosaicml-streaming imports torchvision for image data sets that are not used here."""
    # transformers looks for the real torchvision when it is imported, and streaming imports it
    import transformers.feature_extraction_utils  # noqa: F401

    attributes = {"datasets": {"VisionDataset": object}, "transforms": {}, "transforms.functional": {"to_tensor": None}}
    for name, contents in {"": {}, **attributes}.items():
        module = types.ModuleType(f"torchvision.{name}".rstrip("."))
        module.__dict__.update(contents)
        sys.modules.setdefault(module.__name__, module)


# jpegs


def jpegs(options: argparse.Namespace, folder: Path) -> None:
    one_core()
    dataset = make_jpegs(folder, options.samples)
    scaled = Stream(dataset, seed=0, batch_size=BATCH_SIZE)
    raw = Stream(dataset, seed=0, batch_size=BATCH_SIZE, dtype="uint8")
    num_batches = len(dataset) // BATCH_SIZE
    contents = [dataset.read_bytes(i) for i in range(num_batches * BATCH_SIZE)]
    check_jpegs(dataset, raw)

    def read(stream: Stream) -> int:
        for b in range(num_batches):
            stream.batch(b)
        return num_batches * BATCH_SIZE

    def decode() -> int:
        for content in contents:
            with Image.open(io.BytesIO(content)) as image:
                np.asarray(image.convert("RGB"))
        return len(contents)

    rates = passes(
        {
            "erasediff, uint8": lambda: read(raw),
            "erasediff, float32": lambda: read(scaled),
            "Pillow alone": decode,
        },
        options.repeats,
    )
    for name, values in rates.items():
        print_row("jpegs", name, "images/CPU s", values, mb_a_unit=float(np.mean([len(c) for c in contents])) / 1e6)
    for name in list(rates)[:2]:
        print_ratio("jpegs", f"{name} / Pillow alone", rates[name], rates["Pillow alone"])


def make_jpegs(folder: Path, num_images: int) -> Dataset:
    """Smooth pictures with noise, about 90 KB each at quality 90, as photographs of that size have."""
    random = np.random.default_rng(0)
    (folder / "in" / "a").mkdir(parents=True)
    for i in range(num_images):
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + random.integers(-12, 12, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "in" / "a" / f"{i:06d}.jpg", quality=90)
    return build(folder / "in", folder / "out")


def check_jpegs(dataset: Dataset, stream: Stream) -> None:
    batch = stream.batch(0)
    rows = {key: i for i, key in enumerate(dataset.keys)}
    for pixels, key in zip(batch.images, batch.keys, strict=True):
        with Image.open(io.BytesIO(dataset.read_bytes(rows[key]))) as image:
            check(np.array_equal(pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB"))), "jpegs")


# order


def order(options: argparse.Namespace, folder: Path) -> None:
    digits = build("digits", folder / "digits")
    for num_samples in (10**5, 10**6, 10**7, 10**8):
        path = make_synthetic(folder / f"{num_samples}", digits, num_samples)
        found = [run_child("order", str(path)) for _ in range(options.repeats)]
        peak_mb = statistics.median(result["peak_mb"] for result in found)
        what = f"{num_samples:.0e} samples".replace("e+0", "e")
        print_row(
            "order", f"{what}: open, first batch", "s", [result["first_seconds"] for result in found], peak_mb=peak_mb
        )
        print_row("order", f"{what}: next batches", "ms", [1e3 * result["next_seconds"] for result in found])


def make_synthetic(folder: Path, digits: Dataset, num_samples: int) -> Path:
    """`num_samples` rows over shards of 10,000, all of them the digits' one tar; rows that are not read stay holes."""
    folder.mkdir(parents=True)
    num_shards = num_samples // SHARD_SAMPLES
    shard = digits.manifest.shards[0]
    shared = f"../digits/{shard.path}"
    # one file under many numbers
    shards = [Shard(shared, shard.bytes, shard.sha256, SHARD_SAMPLES, 0)] * num_shards
    index = np.lib.format.open_memmap(folder / "index.npy", mode="w+", dtype=index_dtype(11), shape=(num_samples,))
    positions = np.arange(NUM_BATCHES * BATCH_SIZE) + RESUME_AT
    rows = Order([SHARD_SAMPLES] * num_shards, seed=0, window_shards=16).rows(positions)
    filled = digits.index[rows % len(digits)].copy()
    filled["shard"] = rows // SHARD_SAMPLES
    index[rows] = filled
    index.flush()
    write_manifest(folder, dataclasses.replace(digits.manifest, num_samples=num_samples, shards=tuple(shards)))
    return folder


def order_child(path: str) -> dict[str, float]:
    start = time.perf_counter()
    stream = Stream(Dataset.open(path), seed=0, batch_size=BATCH_SIZE)
    first = RESUME_AT // BATCH_SIZE
    stream.batch(first)
    first_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for b in range(1, NUM_BATCHES):
        stream.batch(first + b)
    next_seconds = (time.perf_counter() - start) / (NUM_BATCHES - 1)
    return {"first_seconds": first_seconds, "next_seconds": next_seconds, "peak_mb": peak_mb()}


# build


def build_rates(options: argparse.Namespace, folder: Path) -> None:
    if options.images is None:
        sys.exit("build: give --images, a folder or zip of class/name.jpg")
    folder.mkdir()
    prints = set()
    for num_workers in (1, os.cpu_count() or 1):
        outputs = [folder / f"{num_workers}-{number}" for number in range(options.repeats)]
        found = [run_child("build", json.dumps([str(options.images), str(path), num_workers])) for path in outputs]
        prints |= {tree_hash(path) for path in outputs}
        check(len(prints) == 1, "build")
        peak = max(result["peak_mb"] for result in found)
        rates = [result["images"] / result["seconds"] for result in found]
        print_row("build", f"erasediff, {num_workers} worker(s)", "images/s", rates, peak_mb=peak)
        # what a busy machine leaves comparable
        rates = [result["images"] / result["cpu_seconds"] for result in found]
        print_row("build", f"erasediff, {num_workers} worker(s)", "images/CPU s", rates)


def build_child(argument: str) -> dict[str, float]:
    source, output, num_workers = json.loads(argument)
    start = time.perf_counter()
    dataset = build(source, output, num_workers=num_workers)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = used.ru_utime + used.ru_stime
    return {"images": len(dataset), "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb()}


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def run_child(question: str, argument: str) -> dict[str, float]:
    """A fresh process, so that its memory is its own."""
    command = [sys.executable, __file__, "--child", question, argument]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


QUESTIONS = {"latents": latents, "jpegs": jpegs, "order": order, "build": build_rates}
CHILDREN = {"order": order_child, "build": build_child}


if __name__ == "__main__":
    sys.exit(main())
