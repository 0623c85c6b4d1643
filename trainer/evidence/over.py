"""An erasure of which copies were deleted: what it was made from is gone, and nothing is left to do."""

from __future__ import annotations

from pathlib import Path

from ..config import EraseConfig
from ..errors import ConfigError
from ..files import sha256_of
from ..run.folder import check_output
from .collect import Evidence
from .copies import REPORT_NAME
from .ledger import Deletion, published, read_entries
from .publication import Candidate
from .record import RECORD_NAME, Record

OVER = "over        a model is published, and copies were deleted: nothing is left to do"


def over(config: EraseConfig) -> Evidence | None:
    """What the published model rests on, where the erasure's copies were deleted; None: there is something to do.

    Raises ConfigError for another run's folder, and for what would need the copies: another request, or another model
    than the published one.
    """
    output, request = Path(config.output), Path(config.request)
    check_output(config, config.output)
    entries = read_entries(output)
    standing = published(entries)
    if standing is None or not any(isinstance(entry, Deletion) for entry in entries):
        return None
    record = next(e for e in entries if isinstance(e, Record) and e.place.number == standing.evaluation)
    # it names samples, and may have been deleted as well
    if request.exists() and sha256_of(request) != record.request.sha256:
        raise of_another_request(output, str(request))
    asked = Candidate.of(config).name
    if asked != standing.published:
        raise ConfigError(
            f"publish = {config.publish!r}: '{output / 'model'}' is the {standing.published} model, and what the "
            f"{asked} one is published from was deleted: leave publish as it was, or choose another output"
        )
    return Evidence(record, output / RECORD_NAME, output / REPORT_NAME)


def of_another_request(output: Path, request: str) -> ConfigError:
    """What is said where `request` now holds another one than the erasure was begun with."""
    return ConfigError(
        f"output = '{output}' was begun with another request than '{request}' holds now: choose another output"
    )
