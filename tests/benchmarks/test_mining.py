"""The mining suite's data are what its rows say that they are."""

import pytest

from benchmarks import mining


def test_the_data_starve_the_peer_and_not_us(tmp_path):
    mining.write_vectors(str(tmp_path), 60, 1200, topical=True)
    ours, peer = mining.ours(str(tmp_path)), mining.theirs(str(tmp_path))
    assert ours["full"] == 1.0 and peer["full"] < 0.1
    assert ours["seconds"] > 0 and ours["refilter"] > 0


def test_both_find_all_negatives_in_usual_data_and_a_scale_has_two_rows(tmp_path):
    mining.write_vectors(str(tmp_path), 60, 1200)
    assert mining.ours(str(tmp_path))["full"] == 1.0
    assert mining.theirs(str(tmp_path))["full"] == pytest.approx(1.0)
    seconds, memory = mining.scale_rows(str(tmp_path))
    assert seconds["name"] == "search_seconds_1200" and seconds["ratio"] > 0
    assert memory["name"] == "search_memory_1200" and memory["unit"] == "MB"
