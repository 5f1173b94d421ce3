"""Records and their files: whole or absent, and a fault names its file and line."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from pydantic import ValidationError

from nbutils.core import files
from nbutils.core.errors import LabError
from nbutils.core.records import GradedExample, RetrievalItem, Task, split_of, spread
from nbutils.core.settings import DATA

TASK = Task(id="t/1", family="t", group="sts", index=0, text="Find é", split="train")
GRADED = {
    "id": "g/1", "family": "health", "group": "sts", "task_id": "t/1", "task": "a task",
    "query": "q", "positive": "p", "negatives": ("n1", "n2", "n3", "n4"),
    "split": "train",
}  # fmt: skip


# -- records ---------------------------------------------------------------------------


def test_documents_are_named_by_level_and_by_positive():
    documents = GradedExample(**GRADED).documents()
    names = ["g/1/P", "g/1/N1", "g/1/N2", "g/1/N3", "g/1/N4"]
    assert list(documents) == names
    assert documents["g/1/N1"] == "n1"
    item = RetrievalItem(
        id="r", family="f", domain="d", query="q", title="t",
        positives=("a", "b", "c"), split="train",
    )  # fmt: skip
    assert item.documents() == {"r/P0": "a", "r/P1": "b", "r/P2": "c"}


@pytest.mark.parametrize(
    "change",
    [{"query": ""}, {"query": 3}, {"negatives": ("n1", "n2", "n3")}, {"split": "test"},
     {"levels": 4}],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(change):
    with pytest.raises(ValidationError):
        GradedExample(**{**GRADED, **change})


def test_splits_hold_out_the_family_and_the_last_task():
    for task in (0, None):
        assert split_of("industry", task, 2, 0) == "held-out-family"
    assert {split_of("health", 1, 2, n) for n in (0, 5)} == {"held-out-tasks"}
    assert split_of("health", 0, 2, 5) == "dev"
    assert split_of("health", 0, 2, 4) == split_of("health", None, 0, 5) == "train"


def test_a_short_run_holds_every_group_and_split_in_the_rows_order():
    rows = [(g, s, n) for g in "abc" for n in range(4) for s in ("x", "y")][:-1]
    for count in (6, 12, 20):
        chosen = spread(rows, count, lambda row: row[:2])
        assert len(chosen) == count and chosen == sorted(chosen, key=rows.index)
        assert len({row[:2] for row in chosen}) == 6
    assert {row[0] for row in spread(rows, 3, lambda row: row[:2])} == set("abc")
    assert {row[1] for row in spread(rows, 3, lambda row: row[:2])} == set("xy")
    assert spread(rows, 0, len) == spread(rows, 99, len) == rows
    assert spread([], 3, len) == []


# -- files -----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_jsonl(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        files.write_jsonl(path, rows())
    assert path.read_text() == '{"a": 1}\n'
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "b.json", {"a": object()})
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644, "others can read it"


WRITE = """
import resource, signal, sys
from nbutils.core import files
import pandas as pd
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files.write_table(sys.argv[1], pd.DataFrame({"a": range(9999)}))
"""


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "file" / "a.csv", tmp_path / "folder.csv"):
        with pytest.raises(LabError, match=rf"{path} cannot be written \(.*another"):
            files.write_table(path, pd.DataFrame({"a": [1]}))
    # a limit on the size of files makes the writing itself fail, as a full disk does
    command = [sys.executable, "-c", WRITE, str(tmp_path / "full.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("nbutils.core.errors.LabError: ")
    assert "full.csv cannot be written (File too large): make room" in done.stderr
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"file", "folder.csv"}


def test_a_second_run_in_the_same_place_is_noticed(tmp_path):
    with files.alone(tmp_path / "out"), files.alone(tmp_path / "other"):
        with pytest.raises(LabError, match=r"another run is writing .*out: wait"):
            files.alone(tmp_path / "out").__enter__()
        files.alone(tmp_path / "out", asked=False).__enter__()  # of the same launch
    if os.fork() == 0:  # one that dies leaves nothing behind
        files.alone(tmp_path / "out").__enter__()
        os._exit(0)
    os.wait()
    with files.alone(tmp_path / "out"):
        pass


def test_what_is_written_comes_back(tmp_path):
    table = pd.DataFrame({"name": ["a", "b"], "score": [0.1, 0.2], "n": [1, 2]})
    for path in (tmp_path / "a.parquet", tmp_path / "a.csv"):
        files.write_table(path, table)
        pd.testing.assert_frame_equal(files.read_table(path), table)
    files.write_json(tmp_path / "a.json", {"é": [1]})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "é": [\n  1\n ]\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"é": [1]}
    rows = tmp_path / "a.jsonl"
    assert files.write_jsonl(rows, [TASK, TASK]) == 2
    assert files.read_jsonl(rows, Task) == [TASK, TASK]
    assert files.read_jsonl(rows)[0]["text"] == "Find é"
    files.write_jsonl(rows, [GradedExample(**GRADED)])
    assert files.read_jsonl(rows, GradedExample) == [GradedExample(**GRADED)]


def tasks_of(path):
    return files.read_jsonl(path, Task)


GOOD = TASK.model_dump_json().encode()


@pytest.mark.parametrize(
    ("read", "name", "data", "fault"),
    [
        (files.read_table, "a.parquet", b"PAR1 cut", " cannot be read as a table"),
        (files.read_json, "a.json", b'{"a": \xff', " is not JSON"),
        (tasks_of, "a.jsonl", GOOD + b"\n{}", ", line 2: id: Field required"),
        (tasks_of, "a.jsonl", GOOD + b"\n" + GOOD[:-30], ", line 2: record: .*JSON"),
    ],
)
def test_a_damaged_or_missing_file_is_named(read, name, data, fault, tmp_path):
    path = tmp_path / name
    with pytest.raises(LabError, match=f"{path} does not exist$"):
        read(path)
    path.write_bytes(data)
    with pytest.raises(LabError, match=f"{path}{fault}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


# -- sums ------------------------------------------------------------------------------


def test_sums_list_every_file_once_and_a_file_that_is_otherwise_is_named(tmp_path):
    for name in ("b.csv", "README.md", "deep/er/a.txt", ".DS_Store", "deep/.x/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("abc")
    with pytest.raises(LabError, match="SHA256SUMS is missing"):
        files.verify(tmp_path)
    for _ in range(2):
        files.write_sums(str(tmp_path))
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    names = ["README.md", "b.csv", "deep/er/a.txt"]
    text = "".join(f"{known}  {name}\n" for name in names)
    assert (tmp_path / "SHA256SUMS").read_text() == text

    deep, table = tmp_path / "deep", tmp_path / "b.csv"
    for path in (tmp_path, deep, table):
        files.verify(path)
    (deep / "c.txt").write_text("c")
    for path in (tmp_path, deep, deep / "c.txt"):
        with pytest.raises(LabError, match=r"c\.txt is not listed"):
            files.verify(path)
    (deep / "c.txt").unlink()
    table.write_text("ab")
    for check in (files.read_table, files.verify):
        with pytest.raises(
            LabError, match=r"b\.csv is truncated or changed.*git check"
        ):
            check(table)
    files.verify(deep)
    table.unlink()
    for path in (tmp_path, table):
        with pytest.raises(LabError, match=r"b\.csv is missing"):
            files.verify(path)


DATA_FOLDERS = [f for f in sorted(DATA.iterdir()) if f.is_dir() and files.files_of(f)]


@pytest.mark.parametrize("folder", DATA_FOLDERS, ids=lambda folder: folder.name)
def test_the_sums_of_a_data_folder_are_complete_and_right(folder):
    assert sorted(files.read_sums(folder)) == files.files_of(folder)
    files.verify(folder)
