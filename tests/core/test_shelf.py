"""The shelf of rows that answers and vectors are kept on."""

import sqlite3
import threading

import pytest

from nbutils.core.errors import LabError
from nbutils.core.shelf import Damaged, Shelf


def test_the_first_row_of_a_key_stays_and_is_found_by_another_connection(tmp_path):
    shelf = Shelf(tmp_path / "sub" / "s.sqlite", "things", ("text", "size"))
    assert shelf.get(["a"]) == {} and not shelf.path.exists()
    shelf.put([("a", "first", 1), (b"b", b"\0bytes", 2.5)])
    shelf.put([("a", "second", 9)])
    wanted = {"a": ("first", 1), b"b": (b"\0bytes", 2.5)}
    again = Shelf(shelf.path, "things", ("text", "size"))
    for one in (shelf, again):
        assert one.get(["a", b"b", "none"]) == wanted
    mode = sqlite3.connect(shelf.path).execute("PRAGMA journal_mode")
    assert mode.fetchone() == ("wal",)
    shelf.close()
    assert shelf.read("SELECT count(*) FROM things") == [(2,)]


def test_many_keys_and_threads(tmp_path):
    shelf = Shelf(tmp_path / "s.sqlite", "things")
    parts = [range(start, start + 400) for start in range(0, 1600, 200)]
    threads = [
        threading.Thread(target=shelf.put, args=([(k, str(k)) for k in part],))
        for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.get(range(2000)) == {k: (str(k),) for k in range(1800)}


def test_a_damaged_file_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, and long enough to be read as one" * 50)
    with pytest.raises(Damaged, match=r"s\.sqlite .*: ask the owner"):
        Shelf(path, "things", advice="ask the owner").get("a")
    with pytest.raises(LabError, match="cannot be used") as caught:
        Shelf(tmp_path, "things").put([("a", "x")])  # a folder stands there
    assert not isinstance(caught.value, Damaged)
