"""What a rank says before it leaves with an error, where its launcher looks for it. No torch here."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from ..files import write_text


def leave_word(message: str, status: int) -> bool:
    """Notes why this rank is about to leave, and its exit status, in the file that torch's launchers name.

    As torch's own error files have it, and beside that the status, the host and the time, for launchers of ours. False
    where no launcher has named a file, so that nobody will read it.
    """
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not name:
        return False
    now = time.time()
    told = {"message": message, "extraInfo": {"timestamp": str(int(now))}}
    said = {"message": told, "status": status, "host": socket.gethostname(), "time": now}
    with suppress(OSError):  # a full disk, perhaps
        write_text(Path(name), json.dumps(said))
        return True
    return False
