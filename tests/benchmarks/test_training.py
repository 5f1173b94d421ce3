"""Both sides of the training suite take the same batches."""

from benchmarks import training
from benchmarks.harness import timed_row
from nbutils.core.settings import resolve
from nbutils.training import loop


def test_steps_take_turns_on_the_same_batches(monkeypatch):
    settings = resolve("smoke", {"mini_batch_tokens": 0, "batch_size": 2})
    cut, made = settings.changed(mini_batch_tokens=64), training.batches(settings, 2)
    seen, original = [], loop.backward

    def noted(model, batch, asked):
        seen.append((asked.training.mini_batch_tokens, made.index(batch)))
        return original(model, batch, asked)

    monkeypatch.setattr(loop, "backward", noted)
    ways = (training.our_steps(chosen, made) for chosen in (settings, cut))
    row = timed_row("a", *ways, rounds=3)
    assert row["value"] > 0 and row["ratio"] == row["value"] / row["peer"]
    assert seen == 2 * [(64, 0), (0, 0), (0, 1), (64, 1)]


def test_the_peer_reads_the_batches_as_we_do():
    changes = {"batch_size": 3, "mixing": "hybrid", "retrieved_per_query": 1}
    made = training.batches(training.student_settings(**changes), 2)
    batch = made[1]
    row = training.peer_columns(batch)[0]
    assert [*row] == ["anchor", "positive", "negative_0", "negative_1"]
    places = (0, 3, 4)  # of three positives and two negatives each
    own = [batch.instances[0].query, *(batch.documents[place] for place in places)]
    assert [*row.values()] == own


def test_a_step_beside_the_librarys_trainer(monkeypatch):
    monkeypatch.setattr(training, "ROUNDS", 1)
    row = training.step_row("mine", batch_size=3, max_length=32)
    assert row["name"] == "mine" and row["value"] > 0 and row["peer"] > 0
