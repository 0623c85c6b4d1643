"""The house: arrows of imports run one way, and no file is long without a reason."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("launch", "trainer", "kernels", "shards")
# from the top floor down: a room imports from rooms below it
FLOORS = [
    *("launch", "trainer.comparing"),
    *("trainer.erase", "trainer.concepts", "trainer.evidence", "trainer.pretrain", "trainer.scrubbing"),
    *("trainer.bench", "trainer.plan", "trainer.run"),
    *("trainer.methods", "trainer.objectives", "trainer.sample", "trainer.engine", "trainer.models", "trainer.ranks"),
    *(
        "trainer.config",
        "trainer.plugins",
        "trainer.tensors",
        "trainer.files",
        "trainer.randomness",
        "trainer.side_stream",
    ),
    *("trainer.errors", "kernels"),
    *("shards.checking", "shards.requests", "shards.writing", "shards.sources", "shards.streaming", "shards.dataset"),
    *("shards.format", "shards.errors", "shards.strict_json"),
]


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] in ("launch", "kernels") else ".".join(parts[:2])


def arrows() -> dict[str, set[str]]:
    """What each room imports from; annotations' imports count, too."""
    found: dict[str, set[str]] = defaultdict(set)
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    for name, path in modules.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                target = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    whole = f"{target}.{alias.name}"
                    found[room_of(name)].add(room_of(whole if whole in modules else target))
    return found


def test_arrows_run_down() -> None:
    # a package's face shows what is in it
    faces = {"trainer", "shards"}
    for room, targets in arrows().items():
        for target in targets - {room} - faces if room not in faces else ():
            assert FLOORS.index(room) < FLOORS.index(target), f"{room} imports from {target}, which is above it"


def test_a_long_file_says_why() -> None:
    for folder in (*PACKAGES, "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            assert len(lines) <= 300 or "one long file" in lines[0].lower(), path
