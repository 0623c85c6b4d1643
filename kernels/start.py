"""The first start of a Triton kernel in a process, at which Triton builds what ties it to this Python and driver."""

import subprocess
from collections.abc import Callable


class KernelError(RuntimeError):
    """A kernel cannot start on this machine; one line that says what to do."""


def start(launch: Callable[[], object]) -> None:
    """Calls `launch`, which starts a kernel.

    Raises KernelError where Triton's build of its driver fails: it needs a C compiler and Python's header files, or a
    cache in which an earlier process has left what it built.
    """
    try:
        launch()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if isinstance(error, RuntimeError) and "C compiler" not in str(error):
            raise
        ran = isinstance(error, subprocess.CalledProcessError)
        found = "the C compiler failed, Python.h may be missing" if ran else str(error).partition(". ")[0]
        raise KernelError(
            f"the gradient kernels cannot start, for Triton cannot build its driver here ({found}): install a C "
            "compiler and Python's headers (Debian: gcc, python3-dev), or set TRITON_CACHE_DIR to a cache filled on a "
            "like machine"
        ) from error
