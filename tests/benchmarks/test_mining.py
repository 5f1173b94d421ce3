"""The mining suite's data are what its rows say that they are."""

from benchmarks import mining


def test_the_data_starve_the_peer_and_not_us(tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "in_process", lambda job, *more: job(*more))
    mining.write_vectors(str(tmp_path), 60, 1200, topical=True)
    ours, peer = mining.beside_peer(str(tmp_path), 1)
    assert ours.full == 1.0 and peer.full < 0.1
    assert ours.seconds > 0 and ours.refilter > 0 and peer.seconds > 0


def test_a_scale_has_two_rows(tmp_path):
    mining.write_vectors(str(tmp_path), 60, 1200)
    seconds, memory = mining.scale_rows(str(tmp_path))
    assert seconds["name"] == "search_seconds_1200" and seconds["ratio"] > 0
    assert memory["name"] == "search_memory_1200" and memory["unit"] == "MB"
