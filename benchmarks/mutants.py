"""How many deliberate mistakes do the tests see? One long file: mutants of the code, against the tests that reach them.

    make mutants                        or: python benchmarks/mutants.py --seed 1 --num 300

Everything lies in build/mutants/<commit>/ and is not done again: which tests reach which line, and a row a mutant.
Ctrl-C ends it; the same command goes on. The table goes to docs/results/mutants.md.

Mutants are cosmic-ray's, without those that cannot but crash (+ to <<). A place is drawn, then one of its changes. Not
drawn: annotations, strings, what is printed, raised or asserted, be it by `strict` or `frozen`.
benchmarks/mutants_argued.json says of survivors that change no promise why that is so, and of others which test that
was left out, or written since, catches them, seen by hand: no rate counts these.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

import cosmic_ray.ast  # pyright: ignore[reportMissingImports]
import cosmic_ray.plugins  # pyright: ignore[reportMissingImports]
import pytest
import tyro
from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
from coverage import CoverageData  # pyright: ignore[reportMissingImports]

PACKAGES = ("trainer", "kernels", "launch", "shards")
FILES = (
    "trainer/methods/*.py",
    "trainer/objectives/*.py",
    "trainer/objectives/targets/*.py",
    *(f"trainer/engine/{name}.py" for name in ("sharded_model", "packet", "optimizer", "vector")),
    *(f"trainer/models/{name}.py" for name in ("conditions", "sampling", "schedule")),
    "trainer/run/loop.py",
    *(f"trainer/evidence/{name}.py" for name in ("metrics", "formulas", "intervals", "evaluation", "thresholds")),
    *(f"trainer/evidence/{name}.py" for name in ("membership", "relearning")),
    "kernels/*.py",
    "shards/streaming/order.py",
    *(f"shards/requests/{name}.py" for name in ("split", "select", "request")),
)
# Triton's forms run in its interpreter in some tests and nowhere else here; exercise.py fills a GPU's cache
LEFT_OUT = re.compile(r"_triton\.py$|/__init__\.py$|kernels/(tiles|exercise)\.py$")
LEAST_A_FILE = 3
# files of tests of which none, with what they share, took longer
QUICK_SECONDS = 5.0
# of what is packaged and written, not of what the code does
TESTS_LEFT_OUT = ("tests/test_install.py", "tests/test_house.py")
# imported once, before the forks: nothing of ours
HEAVY = (
    "torch",
    "diffusers",
    "deepspeed",
    "transformers",
    "torchmetrics.image.fid",
    "sklearn.datasets",
    "tyro",
    "triton",
)
ARGUED = Path("benchmarks/mutants_argued.json")
CAUGHT = "caught"

_COMPARED = {"Eq": "NotEq", "NotEq": "Eq", "Lt": "LtE GtE", "LtE": "Lt Gt", "Gt": "GtE LtE", "GtE": "Gt Lt"}
_COMPUTED = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul", "Mod": "FloorDiv", "Pow": "Mul"}
OPERATORS = (
    *(f"ReplaceComparisonOperator_{a}_{b}" for a, others in _COMPARED.items() for b in others.split()),
    *(f"ReplaceBinaryOperator_{a}_{b}" for a, b in _COMPUTED.items()),
    *("ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr"),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert"),
    *("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("NumberReplacer", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
)

COVERAGE = """\
[run]
source = {sources}
data_file = {folder}/coverage
parallel = true
patch = _exit
# of a process that a test starts (mutants_durations.py); the test itself is pytest-cov's to name
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected,module-not-imported,module-not-measured
"""


@dataclass(frozen=True)
class Options:
    """Which mutants, and where."""

    seed: int = 1
    """Of the draw."""
    num: int = 300
    """Mutants, spread over the files by their places for one."""
    num_workers: int = 2
    """Mutants tried at once."""
    tests: tuple[str, ...] = ("tests",)
    """Tests that may notice."""
    files: str = ""
    """Draw only from files whose path holds this regular expression."""
    budget_seconds: float = 120.0
    """What the tests that a mutant is tried on may have taken under coverage; what is left of them comes at the end, as
    much again at each start, when all mutants were tried, for those still alive."""
    table: Path = Path("docs/results/mutants.md")
    """The table to write."""
    table_only: bool = False
    """Run nothing."""


@dataclass(frozen=True)
class Mutant:
    path: str
    line: int
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line} {self.operator} {self.occurrence}"


@dataclass(frozen=True)
class Row:
    """What came of a mutant."""

    mutant: str
    path: str
    change: str
    outcome: str
    """killed, survived, timeout (of the mutant, or of what a test started), or unreached: no test runs the line."""
    killed_by: str
    num_tests: int
    seconds: float
    num_left_out: int = 0
    """Of the tests that run the line, those that it was not tried on yet: by `budget_seconds`."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    commit = _git("rev-parse", "--short=12", "HEAD")
    folder = Path("build/mutants") / commit
    folder.mkdir(parents=True, exist_ok=True)
    mutants = draw(options.seed, options.num, re.compile(options.files))
    rows_path = folder / f"rows-{options.seed}.jsonl"
    if not options.table_only:
        if _git("status", "--porcelain", *PACKAGES, "tests"):
            sys.exit("mutants are of a commit: commit or stash what is changed first")
        reach = Reach.of(folder, options.tests)
        with suppress(KeyboardInterrupt):
            run(mutants, reach, options, folder, rows_path)
    rows = {row.mutant: row for row in _read(rows_path)}
    text = table([rows[m.name] for m in mutants if m.name in rows], len(mutants), options, commit)
    options.table.write_text(text, encoding="utf-8")
    print(text)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def files() -> list[str]:
    """The files that mutants are drawn from."""
    found = [str(path) for pattern in FILES for path in sorted(Path().glob(pattern))]
    return [path for path in found if not LEFT_OUT.search(path)]


def draw(seed: int, num: int, wanted: re.Pattern[str]) -> list[Mutant]:
    """Files by their number of places, at least a few of each; then places, and one change of each."""
    generator = random.Random(seed)
    places = {path: _places(path) for path in files() if wanted.search(path)}
    total = sum(map(len, places.values()))
    chosen: list[Mutant] = []
    for found in places.values():
        count = min(len(found), max(LEAST_A_FILE, round(num * len(found) / total)))
        for place in generator.sample(sorted(found), count):
            chosen.append(generator.choice(found[place]))
    # rounding and the least a file gives more than asked for
    return generator.sample(chosen, min(num, len(chosen)))


def _places(path: str) -> dict[tuple[int, int], list[Mutant]]:
    """Where a file can be changed, (line, column), and into what."""
    source = Path(path).read_text()
    hidden = list(_hidden(ast.parse(source)))
    tree = cosmic_ray.ast.get_ast(source)
    places: dict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name in OPERATORS:
        operator = cosmic_ray.plugins.get_operator(f"core/{name}")()
        occurrence = 0
        for node in cosmic_ray.ast.ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                if not any(low <= start < high for low, high in hidden):
                    places[start].append(Mutant(path, start[0], name, occurrence))
                occurrence += 1
    return places


def _hidden(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans that no mutant is drawn from: annotations, f-strings, what is raised, asserted or printed.

    `zip(…, strict=True)` and `@dataclass(frozen=True)` assert, and `if TYPE_CHECKING` annotates.
    """
    for node in ast.walk(tree):
        hidden: ast.expr | ast.stmt | None = None
        if isinstance(node, ast.arg | ast.AnnAssign):
            hidden = node.annotation
        elif isinstance(node, ast.FunctionDef):
            hidden = node.returns
            # the star before what is given by name
            if node.args.kwonlyargs and node.args.vararg is None:
                first = node.args.kwonlyargs[0]
                before = [*node.args.args, *node.args.defaults]
                last = max(((n.end_lineno or 0, n.end_col_offset or 0) for n in before), default=(node.lineno, 0))
                yield last, (first.lineno, first.col_offset)
        elif isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert) or _is_print(node):
            hidden = cast(ast.expr | ast.stmt, node)
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "frozen"):
            hidden = node.value
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden = node.test
        if hidden is not None:
            yield (hidden.lineno, hidden.col_offset), (hidden.end_lineno or 0, hidden.end_col_offset or 0)


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("print", "say")


class Reach:
    """Which tests run which line, those of quick files first; found once by running all under coverage."""

    def __init__(self, by_line: dict[str, dict[int, list[str]]], seconds: dict[str, float]):
        self._by_line = by_line
        self._seconds = seconds
        # a file's tests may go on from one another, and were noted in their order
        self._place = {test: place for place, test in enumerate(seconds)}
        # what they share is counted with the one that made it
        self._slowest: dict[str, float] = defaultdict(float)
        for test, took in seconds.items():
            self._slowest[_file_of(test)] = max(self._slowest[_file_of(test)], took)

    @classmethod
    def of(cls, folder: Path, tests: tuple[str, ...]) -> Reach:
        if not (folder / "seconds.json").exists():
            _cover(folder, tests)
        seconds = json.loads((folder / "seconds.json").read_text())
        return cls(_lines(folder / "coverage", set(seconds)), seconds)

    def planned(self, mutant: Mutant, budget_seconds: float, after: int = 0) -> tuple[list[str], float, int]:
        """Tests to be run, the seconds that they took under coverage, and how many more there are.

        after: so many were run before.
        """
        tests = self.tests(mutant)[after:]
        chosen = tests[:1]
        for test in tests[1:]:
            if self.seconds([*chosen, test]) > budget_seconds:
                break
            chosen.append(test)
        return chosen, self.seconds(chosen), len(tests) - len(chosen)

    def seconds(self, tests: list[str]) -> float:
        """What they took under coverage."""
        return sum(self._seconds[test] for test in tests)

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that run the line; of one that runs as the file is imported, all that there are: what it makes, tests
        may look at that run no line of the file.
        """
        if not _is_in_a_function(ast.parse(Path(mutant.path).read_text()), mutant.line):
            found = set(self._seconds)
        else:
            found = set(self._by_line.get(mutant.path, {}).get(mutant.line, ()))
        return sorted(found, key=lambda test: self._order(test, mutant))

    def _order(self, test: str, mutant: Mutant) -> tuple[int, float, str, int]:
        """Quick files first; of the others those that lie nearest to the mutant's. A file's tests stay together."""
        file = _file_of(test)
        near = 0
        if self._slowest[file] > QUICK_SECONDS:
            room, own = mutant.path.removesuffix(".py").split("/"), file.removeprefix("tests/").split("/")
            shared = next((i for i, (a, b) in enumerate(zip(room, own, strict=False)) if a != b), 0)
            near = 1 if room[-1].strip("_") in own[-1] else len(room) + 1 - shared
        return near, self._slowest[file], file, self._place[test]


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _is_in_a_function(tree: ast.Module, line: int) -> bool:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions)


def _cover(folder: Path, tests: tuple[str, ...]) -> None:
    tree = _export(folder / "covered")
    # not coverage.*, which coverage deletes
    config = (folder / "measure.ini").resolve()
    # processes are started in other folders
    sources = ",".join(str(tree.resolve() / name) for name in PACKAGES)
    config.write_text(COVERAGE.format(sources=sources, folder=folder.resolve()))
    report = folder.resolve() / "durations.jsonl"
    report.unlink(missing_ok=True)
    words = ["-m", "not slow", "-p", "mutants_durations", "--cov", f"--cov-config={config}", "--cov-context=test"]
    words += ["--cov-report=", "-n", "2", "--dist", "loadfile", *(f"--ignore={path}" for path in TESTS_LEFT_OUT)]
    # coverage names the test in a process that is started, not in a fork
    told = {"MUTANTS_DURATIONS": str(report), "MUTANTS_COVERAGE": str(config), "ERASEDIFF_TESTS_FRESH": "1"}
    subprocess.run([_pytest(), *words, *tests], cwd=tree, env=_environment(tree) | told)
    seconds: Counter[str] = Counter()
    failed = set()
    for line in report.read_text().splitlines():
        test, took, outcome = json.loads(line)
        seconds[test] += took
        failed |= {test} if outcome == "failed" else set()
    print(f"{len(failed)} tests fail without any mutant and are left out: {', '.join(sorted(failed))}", flush=True)
    if len(failed) > len(seconds) / 100:
        sys.exit("mend them first")
    seconds = Counter({test: took for test, took in seconds.items() if test not in failed})
    (folder / "seconds.json").write_text(json.dumps(seconds))


def _lines(data_file: Path, tests: set[str]) -> dict[str, dict[int, list[str]]]:
    data = CoverageData(str(data_file))
    data.read()
    found: dict[str, dict[int, list[str]]] = {}
    of_file: dict[str, set[str]] = defaultdict(set)
    for test in tests:
        of_file[_file_of(test)].add(test)
    for measured in data.measured_files():
        path = next((path for path in files() if measured.endswith(f"/{path}")), None)
        if path is None:
            continue
        for line, contexts in data.contexts_by_lineno(measured).items():
            known = found.setdefault(path, {}).setdefault(line, [])
            for context in contexts:
                # "a.py::test|run" of pytest-cov, "a.py::test (call)" of a process that the test started
                name, phase = (*re.split(r"\||\s\(", context.rstrip(")"), maxsplit=1), "")[:2]
                # what a fixture has made for a file's tests, any of them may look at
                names = of_file.get(_file_of(name), set()) if phase == "setup" else {name}
                known += sorted(names & tests - set(known))
    return found


def _export(tree: Path) -> Path:
    """The commit's files in a folder of their own, under the import name that the tests know."""
    if not tree.exists():
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        package = tree / "package" / "erasediff"
        package.mkdir(parents=True)
        for name in PACKAGES:
            (package / name).symlink_to(tree.resolve() / name)
    return tree


def _environment(tree: Path) -> dict[str, str]:
    places = [str((tree / "package").resolve()), str(Path("tests/support").resolve())]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def _pytest() -> str:
    return str(Path(sys.executable).with_name("pytest"))


def run(mutants: list[Mutant], reach: Reach, options: Options, folder: Path, rows_path: Path) -> None:
    """Tries those that have no row yet, each in a fork of a process that has imported what takes seconds."""
    # before diffusers finds Triton: without a GPU its kernels run in the interpreter
    os.environ |= {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu"}
    for name in HEAVY:
        importlib.import_module(name)
    known = {row.mutant for row in _read(rows_path)}
    _share([m for m in mutants if m.name not in known], options, folder, _work, reach, rows_path, options)
    alive, argued = {row.mutant: row for row in _read(rows_path)}, _argued()
    survivors = [alive[m.name] for m in mutants if alive[m.name].outcome == "survived" and alive[m.name].num_left_out]
    # of what changes nothing no test would tell
    open_ones = {
        row.mutant for row in survivors if argued.get(row.path, {}).get(row.change, "caught").startswith("caught")
    }
    left = [m for m in mutants if m.name in open_ones]
    _share(left, options, folder, _work_on_the_rest, reach, rows_path, options)


def _argued() -> dict[str, dict[str, str]]:
    """What is said of survivors, by file and change."""
    return json.loads(ARGUED.read_text()) if ARGUED.exists() else {}


def _share(mutants: list[Mutant], options: Options, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Has each worker do `work(its mutants, its tree of files, …)`."""
    context = multiprocessing.get_context("fork")
    workers = []
    for i in range(options.num_workers):
        # the slow and the quick ones lie mixed: taking turns spreads them
        own = mutants[i :: options.num_workers]
        tree = folder / f"worker-{i}"
        shutil.rmtree(tree, ignore_errors=True)  # a mutant may have been left in it
        workers.append(context.Process(target=work, args=(own, _export(tree), *arguments)))
        workers[-1].start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            if worker.is_alive() and worker.pid is not None:
                os.kill(worker.pid, signal.SIGINT)  # as the whole group gets it from a terminal
            worker.join()
        raise


def _work(mutants: list[Mutant], tree: Path, reach: Reach, rows_path: Path, options: Options) -> None:
    clean = Clean(rows_path.with_name("clean.jsonl"), tree)
    for mutant in mutants:
        _put(_try(mutant, *reach.planned(mutant, options.budget_seconds), tree, clean), rows_path)


def _work_on_the_rest(mutants: list[Mutant], tree: Path, reach: Reach, rows_path: Path, options: Options) -> None:
    """Tests that were left out, for mutants that are alive; another row, which counts in place of the first."""
    clean, known = Clean(rows_path.with_name("clean.jsonl"), tree), {row.mutant: row for row in _read(rows_path)}
    for mutant in mutants:
        first = known[mutant.name]
        chosen, seconds, num_left_out = reach.planned(mutant, options.budget_seconds, first.num_tests)
        row = _try(mutant, chosen, seconds, num_left_out, tree, clean)
        found = {"num_tests": first.num_tests + len(chosen), "seconds": round(first.seconds + row.seconds, 1)}
        _put(replace(row, **found), rows_path)


def _put(row: Row, rows_path: Path) -> None:
    with rows_path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    print(f"{row.outcome:<9} {row.seconds:5.0f} s  {row.mutant}  {row.killed_by}", flush=True)


class Clean:
    """Which tests pass without any mutant, run as the mutants' are: a fork has imported more than they may expect."""

    def __init__(self, path: Path, tree: Path):
        self._path = path
        self._tree = tree

    def passes(self, test: str, before: list[str]) -> bool:
        """before: the tests of its file that ran before it."""
        known = self._known()
        if test not in known:
            outcome, _ = _run_tests([*before, test], self._tree, 600)
            if outcome == "timeout":  # of a machine that is busy
                return False
            known[test] = outcome == "survived"
            with self._path.open("a") as file:
                file.write(json.dumps({test: known[test]}) + "\n")
        return known[test]

    def failing(self) -> set[str]:
        return {test for test, passes in self._known().items() if not passes}

    def _known(self) -> dict[str, bool]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {test: passes for line in lines for test, passes in json.loads(line).items()}


def _try(mutant: Mutant, tests: list[str], test_seconds: float, num_left_out: int, tree: Path, clean: Clean) -> Row:
    target = tree / mutant.path
    original = Path(mutant.path).read_text()
    operator = cosmic_ray.plugins.get_operator(f"core/{mutant.operator}")()
    mutated = mutate_code(original, operator, mutant.occurrence)
    changed = difflib.unified_diff(original.splitlines(), str(mutated).splitlines(), n=0, lineterm="")
    change = "\n".join(line for line in changed if line[:3] not in ("---", "+++") and line[:2] != "@@")
    start, failing, left = time.perf_counter(), clean.failing(), tests
    outcome, killed_by = "survived" if tests else "unreached", ""
    while left := [test for test in left if test not in failing]:
        target.write_text(str(mutated))
        try:
            # other mutants' tests run beside these
            outcome, killed_by = _run_tests(left, tree, 4 * test_seconds + 120)
        finally:
            target.write_text(original)
        if outcome != "killed" or killed_by not in left:
            break
        before, left = left[: left.index(killed_by)], left[left.index(killed_by) + 1 :]
        if clean.passes(killed_by, [test for test in before if _file_of(test) == _file_of(killed_by)]):
            break
        # it would fail anyway: what comes after it says more
        outcome, killed_by = "survived", ""
    seconds = round(time.perf_counter() - start, 1)
    return Row(mutant.name, mutant.path, change, outcome, killed_by, len(tests), seconds, num_left_out)


def _run_tests(tests: list[str], tree: Path, timeout_seconds: float) -> tuple[str, str]:
    """(outcome, the test that noticed)."""
    log = tree / "log.txt"
    pid = os.fork()
    if pid == 0:
        _be_pytest(["-x", "-p", "no:cacheprovider", "--tb=no", "-rfE", *tests], tree, log)
    deadline = time.monotonic() + timeout_seconds
    status = None
    try:
        while status is None and time.monotonic() < deadline:
            time.sleep(0.05)
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = code if ended else None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # ranks that a broken launcher left behind, too
    if status is None:
        os.waitpid(pid, 0)
        return "timeout", ""
    if status == 0:
        return "survived", ""
    text = log.read_text(errors="replace")
    seen = re.search(r"^(?:FAILED|ERROR) (.*)", text, re.MULTILINE)
    if seen is None:
        return "killed", "its import"
    # a test that waited too long for a process: of a machine that is busy, it says nothing of the mutant
    test = next((test for test in tests if seen[1] == test or seen[1].startswith(f"{test} - ")), seen[1])
    return "timeout" if "TimeoutExpired" in seen[1] else "killed", test


def _be_pytest(words: list[str], tree: Path, log: Path) -> NoReturn:
    """In the fork: the tests of `tree`, on its code, as its own session so that all it starts can be ended."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    status = 3
    try:
        os.environ |= _environment(tree) | {"COLUMNS": "1000"}
        sys.path[:0] = [str((tree / "package").resolve())]
        os.chdir(tree)
        status = int(pytest.main(words))
    finally:
        sys.stdout.flush()
        os._exit(status)


def _read(rows_path: Path) -> list[Row]:
    lines = rows_path.read_text().splitlines() if rows_path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def table(rows: list[Row], num_drawn: int, options: Options, commit: str) -> str:
    """The counts by file, and every survivor with the argument for it, if there is one."""
    argued = _argued()
    alive = [row for row in rows if row.outcome in ("survived", "unreached")]
    whys = {row.mutant: argued.get(row.path, {}).get(row.change, "open") for row in alive}
    num_excused = sum(not why.startswith(("open", CAUGHT)) for why in whys.values())
    num_caught, hours = len(rows) - len(alive), sum(row.seconds for row in rows) / 3600
    lines = [
        "# Deliberate mistakes, and whether the tests see them",
        "",
        "    make mutants",
        "",
        f"cosmic-ray {version('cosmic-ray')}, seed {options.seed}, commit {commit}, {time.strftime('%Y-%m-%d')}:",
        f"{len(rows)} of {num_drawn} mutants tried on {' '.join(options.tests)}, in {hours:.1f} hours of a core.",
        "",
    ]
    if rows:
        adjusted = num_caught / max(1, len(rows) - num_excused)
        lines.append(f"Caught: **{num_caught} of {len(rows)}, {num_caught / len(rows):.1%}**;")
        lines.append(f"without the {num_excused} argued to change no promise {adjusted:.1%}.")
        num_left = sum(why.startswith(f"{CAUGHT} by what was left out") for why in whys.values())
        num_since = sum(why.startswith(f"{CAUGHT} since") for why in whys.values())
        num_open = sum(why.startswith("open") for why in whys.values())
        lines.append(
            f"Of those alive {num_left} are caught by tests of then that were left out, seen by hand "
            f"({(num_caught + num_left) / len(rows):.1%} with them), {num_since} by tests written since; "
            f"{num_open} are open."
        )
    lines += ["", "| file | drawn | killed | timeout | survived | unreached |", "|---|---|---|---|---|---|"]
    for path in files():
        of_file = Counter(row.outcome for row in rows if row.path == path)
        counts = [of_file[outcome] for outcome in ("killed", "timeout", "survived", "unreached")]
        lines.append(f"| {path} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    lines += ["", "## Survivors", ""]
    for row in alive:
        left_out = f", {row.num_left_out} left out" if row.num_left_out else ""
        lines += [f"- `{row.mutant}` ({row.outcome}, {row.num_tests} tests{left_out}): {whys[row.mutant]}", ""]
        lines += [*(f"      {line}" for line in row.change.splitlines()), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
