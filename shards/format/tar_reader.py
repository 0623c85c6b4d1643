"""The members of a tar somebody else wrote, grouped into samples; what is no data is refused."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, is_unicode
from .index import EXTENSIONS
from .limits import MAX_KEY_BYTES, MAX_SAMPLE_BYTES

# what loaders of other projects would unpickle or execute
REFUSED_EXTENSIONS = ("pkl", "pickle", "pyd", "pth", "pt", "py", "so", "exe", "dill", "joblib", "ckpt")
MAX_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One regular file in a tar; offset and length in bytes, of its data."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class TarSample:
    """Members that share a key."""

    key: str
    members: dict[str, Member]
    """By extension, lower case."""

    @property
    def contents(self) -> dict[str, Member]:
        """Images and arrays, by extension."""
        return {name: self.members[name] for name in EXTENSIONS if name in self.members}


class _Headers(io.BufferedReader):
    """What `tarfile` finds members with; it would read names and pax records of any length into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"a name or header of more than {MAX_HEADER_BYTES:,} bytes")
        return super().read(size)


def read_members(path: Path) -> Iterator[Member]:
    """Every regular file, in order; ustar, pax and GNU long names.

    Raises `DataError` for links, devices, sparse files, absolute or `..` names, pickles, members over the size limit, a
    truncated or compressed archive.
    """
    num_bytes = path.stat().st_size
    try:
        with _Headers(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                # the list of members would grow with the archive
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                if not info.isdir():
                    yield _checked(path, info, num_bytes)
            _check_end(path, tar.offset)
    except DataError:
        raise
    # tarfile parses numbers and text out of whatever bytes there are: ValueError, OverflowError, struct.error, ...
    except Exception as error:
        raise DataError(f"{path}: not a readable uncompressed tar ({error}); copy or build it again") from error


def read_samples(path: Path) -> Iterator[TarSample]:
    """Consecutive members with one key, as WebDataset groups them; raises `DataError` as `read_members` does, too."""
    sample: TarSample | None = None
    for member in read_members(path):
        key, extension = _split_name(path, member.name)
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = TarSample(key, {})
        if extension in sample.members:
            raise DataError(f"{path}: member {member.name!r} is there twice; build it again")
        sample.members[extension] = member
    if sample is not None:
        yield sample


def _checked(path: Path, info: tarfile.TarInfo, num_bytes: int) -> Member:
    name = info.name.removeprefix("./")
    where = f"{path}: member {name!r}"
    # isreg is true of sparse files, whose data is not where it seems to be
    if not info.isreg() or info.issparse():
        raise DataError(
            f"{where} is a link, device or sparse file; only regular files are read, build the tar without it"
        )
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise DataError(f"{where} has an absolute or `..` name; build the tar without it")
    # anywhere after a dot: loaders look into `.pkl.gz`, too
    if not set(name.rpartition("/")[2].lower().split(".")[1:]).isdisjoint(REFUSED_EXTENSIONS):
        raise DataError(f"{where} is refused: loading it could run code; store arrays as .npy or .safetensors")
    if info.size > MAX_SAMPLE_BYTES:
        raise DataError(f"{where} has {info.size:,} bytes, more than {MAX_SAMPLE_BYTES:,}; build the tar without it")
    if info.offset_data + info.size > num_bytes:
        raise DataError(f"{where}: truncated archive: it ends after {num_bytes:,} bytes; copy or build it again")
    return Member(name, info.offset_data, info.size)


def _check_end(path: Path, offset: int) -> None:
    """An archive ends with empty blocks and nothing else: tarfile takes a cut between members for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        first = file.read(tarfile.BLOCKSIZE)
        if first != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{path}: truncated archive: no end mark after the last member; copy or build it again")
        while chunk := file.read(_CHUNK_BYTES):
            if chunk.count(0) != len(chunk):
                raise DataError(
                    f"{path}: trailing bytes after the archive's end; copy it again, or unite tars properly"
                )


def _split_name(path: Path, name: str) -> tuple[str, str]:
    """Key and extension: WebDataset splits at the first dot of the last component."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    key = folder + slash + stem
    if not is_unicode(name):
        raise DataError(f"{path}: member {name!r} is not named in UTF-8; build the tar again")
    if not stem or not dot or len(key.encode()) > MAX_KEY_BYTES:
        raise DataError(f"{path}: member {name!r} has no WebDataset name (key.extension); build the tar without it")
    return key, extension.lower()
