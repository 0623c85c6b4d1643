"""The pages of docs/ that lead to an end: every command, in its order, on tiny models and few samples."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from erasediff.launch.cli import COMMANDS, main
from erasediff.shards.dataset import Dataset
from PIL import Image
from tiny import make_pipeline

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = ["church", "dog", "tench", "truck"]
JUDGE = [
    *("--judge.num-forget-samples-per-class", "6", "--judge.num-remain-samples-per-class", "44"),
    *("--judge.sampling.num-inference-steps", "2", "--judge.thresholds", "accuracy_remaining >= 0"),
]
TRAIN = ["--train.max-train-steps", "2", "--train.train-batch-size", "4"]
SHORTER = {
    "erase": [*TRAIN, *JUDGE, "--publish", "within-limits"],
    "evaluate": JUDGE,
    "pretrain": [*TRAIN, "--unet.block-out-channels", "8", "8", "--unet.norm-num-groups", "4"],
    "sample": ["--sampling.num-inference-steps", "2", "--num-images", "2"],
}


def commands(page: str) -> list[list[str]]:
    text = (DOCS / page).read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^ +(erasediff .*)$", text, re.MULTILINE)]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def make_photos(digits: Path, folder: Path, num: int = 200) -> dict[str, str]:
    """Pictures in a folder for each class; the class of each file."""
    data, found = Dataset.open(digits / "data"), {}
    for i in range(num):
        if data.labels[i] < len(NAMES):
            name = NAMES[data.labels[i]]
            path = folder / name / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read_bytes(i))
            found[str(path)] = name
    return found


def make_model(folder: Path, names: list[str]) -> None:
    """With a null class, the eleventh; the model's own file names the others."""
    make_pipeline(folder, num_classes=11)
    said = {"classes": [*names, None], "null_class": 10, "trained_on": None, "forgotten": []}
    (folder / "erasediff.json").write_text(json.dumps({"format": "erasediff-model-1"} | said))


def run_page(page: str) -> list[str]:
    done = []
    for words in commands(page):
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
        given = {word for word in words if word.startswith("--")}
        more = SHORTER.get(name, [])
        # what the page says itself holds
        pairs = [more[i : i + 2] for i in range(0, len(more), 2)] if name != "pretrain" else [more]
        status = main([*words, *(word for pair in pairs if pair[0] not in given for word in pair)])
        # random weights forget nothing: an evaluation that says so has done its work
        assert status == 0 or (name == "evaluate" and status == 3), words
        done.append(name)
    return done


def test_a_class(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "base" / "model", [*NAMES, *"efghij"])
    make_photos(digits, tmp_path / "photos")
    (tmp_path / "request.toml").write_text(blocks("a-class.md", "toml")[0])
    monkeypatch.chdir(tmp_path)
    done = run_page("a-class.md")
    assert done == ["shards build", "erase", "erase", "sample", "evaluate"]
    record = json.loads((tmp_path / "erased" / "record.json").read_text())
    assert record["forgotten_classes"] == ["tench"] and (tmp_path / "erased" / "model").exists()
    assert not (tmp_path / "erased" / "scrub" / "record.json").exists(), "one chain"
    assert record["judge"]["num_remain_samples_per_class"] == 500
    assert Image.open(tmp_path / "after.png").height > 16


def test_a_persons_pictures(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = make_photos(digits, Path("photos"))
    header, first, _ = blocks("a-persons-pictures.md", "csv")[0].splitlines()
    assert header == "path,label,person" and first.endswith(",17")
    rows = [f"{path},{label},{17 if i % 9 == 0 else i % 5}" for i, (path, label) in enumerate(files.items())]
    Path("people.csv").write_text("\n".join([header, *rows]) + "\n")
    theirs = sum(row.endswith(",17") for row in rows)
    Path("request.toml").write_text(blocks("a-persons-pictures.md", "toml")[0])
    unseen = make_photos(digits, Path("all"), 400)
    for path in [path for path in unseen if (Path("photos") / Path(path).relative_to("all")).exists()]:
        Path(path).unlink()
    shutil.move("all", "unseen")
    done = run_page("a-persons-pictures.md")
    expected = ["shards build", "shards split", "shards inspect", "shards build", "pretrain", "erase"]
    assert done == [*expected, "erase", "shards split", "shards verify", "verify-record"]
    record = json.loads(Path("erased/record.json").read_text())
    assert record["forget"]["num_samples"] == theirs == len(Dataset.open("sets/forget"))
    assert record["forgotten_classes"] == [] and "membership_auc" in record["models"]["retrained"]["metrics"]


def test_on_a_cluster(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but what asks a real cluster, which tests/slurm does."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "scrub", "run.toml"]) == 0
    make_model(tmp_path / "base" / "model", [*"0123456789"])
    (tmp_path / "sets").symlink_to(digits / "split")
    words = commands("on-a-cluster.md")
    asked = [" ".join(line[:2]) for line in words if line[:2] in (["launch", "slurm"], ["launch", "doctor"])]
    assert asked == ["launch doctor", *["launch slurm"] * 3]
    for line in words:
        if line[0] in ("init", "plan") or line[:2] == ["launch", "doctor"] or "--dry-run" in line:
            assert main(line) == 0, line
    assert "#SBATCH --nodes=1" in capsys.readouterr().out
    (of_nodes,) = (line for line in words if "$nodes" in line)
    assert main(["2" if word == "$nodes" else word.replace("--wait", "--dry-run") for word in of_nodes]) == 0
    assert "#SBATCH --nodes=2" in capsys.readouterr().out


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\]\(([a-z0-9_./-]+)\)", (DOCS / "README.md").read_text()))
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= named
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([A-Za-z0-9_./-]+)\)", page.read_text()):
            assert (DOCS / link).exists(), (page.name, link)
    for page in DOCS.glob("*.md"):
        for words in commands(page.name):
            assert words[0] in COMMANDS or " ".join(words[:2]) in COMMANDS, (page.name, words)


def test_the_index_of_decisions_has_every_one() -> None:
    index, told = (DOCS / "decisions.md").read_text(), []
    for page in re.findall(r"\]\((decisions/\w+\.md)\)", index):
        told += re.findall(r"^## (.*) \(\d{4}-\d\d\)$", (DOCS / page).read_text(), re.MULTILINE)
    assert re.findall("^- (.*)$", index, re.MULTILINE) == told
    assert len(re.findall(r"decisions/\w+\.md", index)) == len([*(DOCS / "decisions").glob("*.md")])
