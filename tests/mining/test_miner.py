"""`python -m nbutils mine`: any BEIR folder, by one process or two."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import free_port
from typer.testing import CliRunner
from worlds import given, world

from nbutils.__main__ import app
from nbutils.core import retrieval
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder import vectors
from nbutils.mining import candidates, miner, rescoring, teachers
from nbutils.mining.ensembles import cross_sample, intra_sample
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine, mine_until_full

WORDS = ["sea", "salt", "tide", "moon", "rock", "fish", "boat", "rain", "wind", "sand"]


SMOKE = ("--split", "dev", "--profile", "smoke")


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """62 documents, 23 queries with one or two positives, one text twice, one empty."""
    rng = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("sets") / "shore"
    (made / "qrels").mkdir(parents=True)
    texts = [" ".join(rng.choice(WORDS, 9)) for _ in range(60)]
    corpus = [
        {"_id": f"d{n}", "title": f"T{n}" if n % 2 and text else "", "text": text}
        for n, text in enumerate([*texts, texts[4], ""])
    ]
    queries = [
        {"_id": f"q{n}", "text": " ".join(texts[2 * n].split()[:4])} for n in range(25)
    ]
    rows = ["query-id\tcorpus-id\tscore", "q24\td3\t0"]
    for n in range(23):
        rows += [f"q{n}\td{2 * n}\t1"] + [f"q{n}\td{2 * n + 1}\t1"] * (n % 2)
    (made / "corpus.jsonl").write_text(lines(corpus))
    (made / "queries.jsonl").write_text(lines(queries))
    (made / "qrels" / "dev.tsv").write_text("\n".join(rows))
    return made


@pytest.fixture(scope="module")
def shore(folder):
    return retrieval.read_set(folder, "dev")


def command(*words, **settings):
    """What `mine` says with settings, and whether it went well."""
    assigned = [f"--set={name}={value}" for name, value in settings.items()]
    done = CliRunner().invoke(app, ["mine", *map(str, words), *assigned])
    return done.output, done.exit_code == 0


@pytest.mark.parametrize("name", ["tiny-bert", "bm25", "random"])
def test_the_command_mines_what_the_page_would(folder, shore, name, tmp_path):
    """The same queries, corpus and recipe, through the page's table of candidates."""
    out, own = tmp_path / "mined.csv", {"perc": 0.99, "candidate_depth": 9}
    said, well = command(folder, *SMOKE, "--teacher", name, "--out", out, **own)
    assert well and "own positive" in said and "of 23 queries, 61 documents" in said
    found, settings = pd.read_csv(out), resolve("smoke", own)
    search = candidates.Search(teachers.load_teacher(name, settings), shore, 9)
    pool = prepare(search.candidates())
    wanted = mine_until_full(pool, search, settings.mining).negatives
    columns = ["query_id", "document_id", "method", "teacher"]
    assert found[columns].equals(wanted[columns].astype(found[columns].dtypes))
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-5)
    assert len(found) > 40


PAIR = """
import sys
from pathlib import Path
from nbutils.__main__ import app
from nbutils.encoder import vectors
from nbutils.mining import miner
cache, out, *words = sys.argv[1:]
miner.SHARD = 8
vectors.VECTORS = Path(cache)
for name in ("tiny-bert", "bm25"):
    own = ["--teacher", name, "--out", f"{out}/{name}.parquet"]
    app([*words, *own], standalone_mode=False)
"""


def test_two_processes_mine_the_identical_tables(folder, tmp_path, monkeypatch):
    (tmp_path / "pair.py").write_text(PAIR)
    words = [folder, *SMOKE, "--set", "candidate_depth=9", "--set", "perc=0.99"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    launch += [tmp_path / "pair.py", tmp_path / "two", tmp_path, "mine", *words]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        launch, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 2  # one process speaks, of each teacher
    monkeypatch.setattr(miner, "SHARD", 8)
    monkeypatch.setattr(vectors, "VECTORS", tmp_path / "one")
    for name in ("tiny-bert", "bm25"):
        out = tmp_path / "one.parquet"
        assert command(*words, "--teacher", name, "--out", out)[1]
        together, alone = map(pd.read_parquet, (tmp_path / f"{name}.parquet", out))
        pd.testing.assert_frame_equal(together, alone, check_exact=True)
        assert len(alone) > 40, name


def test_more_processes_than_queries_leave_nobody_waiting(shore, monkeypatch):
    settings = resolve("smoke")
    teacher = teachers.load_teacher("bm25", settings)
    whole = miner.mine_set(shore, teacher, settings)
    parts = []
    monkeypatch.setattr(miner, "gather", lambda own: [own])
    for number in range(30):
        monkeypatch.setattr(miner, "place", lambda n=number: (n, 30))
        if number < 23:
            parts.append(miner.mine_set(shore, teacher, settings))
        else:
            monkeypatch.setattr(miner, "gather", lambda own: [own, (whole, 1.0)])
            assert miner.mine_set(shore, teacher, settings).equals(whole)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    monkeypatch.setattr(miner, "place", lambda: (0, 1))
    with pytest.raises(LabError, match="there are no queries"):
        miner.mine_set(replace(shore, queries={}), teacher, settings)


@pytest.mark.parametrize("how", ["cross_sample", "intra_sample", "intra_sample_dedup"])
def test_an_ensemble_by_one_setting_is_the_pages_join(folder, how, tmp_path):
    out = tmp_path / "mined.parquet"
    command = ["mine", str(folder), "--split", "dev", "--profile", "smoke"]
    command += ["--set", f"ensemble={how}", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    if how != "cross_sample":  # one of each teacher, and smoke has two
        assert done.exit_code == 1 and "set negatives_per_query=2" in done.output
        assert not out.exists()
    done = CliRunner().invoke(app, [*command, "--set", "negatives_per_query=2"])
    assert "by bm25, tiny-bert" in done.output, done.output
    assert done.exit_code == 0, done.output  # intra-sample's repeats are no fault
    data, settings = retrieval.read_set(folder, "dev"), resolve("smoke")
    settings = settings.changed(negatives_per_query=2)
    lists = {
        name: miner.mine_set(data, teacher, settings)
        for name, teacher in teachers.load_teachers(settings).items()
    }
    texts = data.corpus.set_index("id")["text"].to_dict()
    wanted = {
        "cross_sample": lambda: cross_sample(lists, k=2),
        "intra_sample": lambda: intra_sample(lists, dedup=False, texts=texts),
        "intra_sample_dedup": lambda: intra_sample(lists, texts=texts),
    }[how]()
    found = pd.read_parquet(out)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    assert set(found["teacher"]) == {"bm25", "tiny-bert"}


def test_only_the_teacher_that_mines_is_loaded(folder):
    absent = ["/nowhere/encoder", "bm25"]
    settings = resolve("smoke", {"teachers": absent})
    data = retrieval.read_set(folder, "dev")
    assert set(miner.mine_by_settings(data, settings)["teacher"]) == {"bm25"}
    with pytest.raises(LabError, match="/nowhere/encoder"):
        miner.mine_by_settings(data, settings.changed(ensemble="cross_sample"))


def test_the_command_says_what_an_index_misses(folder, tmp_path):
    words = [folder, *SMOKE, "--teacher", "tiny-bert", "--out", tmp_path / "x.csv"]
    said, well = command(*words, index="Flat")
    assert well and "index Flat: 100.0% of the exact candidates found" in said
    assert "faiss makes no index 'Flut'" in command(*words, index="Flut")[0]


def test_pairs_are_mined_into_a_trainers_format(tmp_path):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.parquet"
    texts = [f"{word} and {other}" for word in WORDS for other in WORDS[:3]]
    rows = [{"question": t.split()[0], "answer": t, "label": 1} for t in texts]
    pairs.write_text(lines(rows))
    words = [pairs, "--profile", "smoke", "--teacher", "tiny-bert", "--out", out]
    said, well = command(*words, "--format", "n-tuple", mining_method="naive")
    assert well and "30 documents" in said
    made = pd.read_parquet(out)
    assert f"as {len(made)} rows of n-tuple" in said
    assert list(made) == ["anchor", "positive", *(f"negative_{n}" for n in range(1, 5))]
    assert made[["anchor", "positive"]].to_numpy().tolist() == [
        [row["question"], row["answer"]] for row in rows
    ]
    own = made.apply(lambda row: set(row[2:]) & set(texts), axis=1)
    assert own.map(len).eq(4).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "train"], "no split 'train' in BEIR's format: it has dev"),
        (["--format", "labeled-list", "--out", "x.csv"], "a csv holds no lists"),
        (["--format", "tripel"], "unknown format 'tripel'; did you mean 'triplet'"),
        (["--scores", "--set", "ensemble=intra_sample"], "teachers do not compare"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    folder, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    said, well = command(folder, *SMOKE, "--teacher=bm25", "--out=x.parquet", *words)
    assert not well and said.startswith("error: ") and said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.iterdir())


# -- a cross-encoder's opinion ---------------------------------------------------------


def test_a_cross_encoder_reorders_candidates_and_moves_the_ceiling():
    texts = {"p": "four", "a": "seventeen letters", "b": "xx", "c": "yyy"}
    rows = {"q": {"a": 0.9, "p": 0.8, "b": 0.7, "c": 0.6}, "r": {"b": 1.0}}
    found = world(rows, {"q": {"p": 0.8}, "r": {"b": 1.0}}, texts=texts)

    def lengths(pairs, **_):
        return [len(document) / 8 for _, document in pairs]

    again = rescoring.Rescorer("lengths", SimpleNamespace(predict=lengths))(found)
    own = again.table[again.table["query_id"] == "q"]
    assert own["document_id"].tolist() == ["a", "p", "c", "b"]
    assert own["rank"].tolist() == [1, 2, 3, 4]
    assert again.positives["score"].tolist() == [0.5, 0.25]
    mined = mine(prepare(again)).negatives
    assert mined["document_id"].tolist() == ["c", "b"]
    assert set(mined["teacher"]) == {"toy + lengths"}
    broken = SimpleNamespace(predict=lambda pairs, **_: np.zeros((len(pairs), 2)))
    with pytest.raises(LabError, match="one finite number a pair"):
        rescoring.Rescorer("broken", broken)(found)


def test_a_rescored_search_is_another_table_and_is_not_searched_deeper():
    search = given(count=5, size=40, depth=6)
    high = SimpleNamespace(predict=lambda pairs, **_: np.ones(len(pairs)))
    again = replace(search, rescorer=rescoring.Rescorer("high", high))
    other = replace(search, rescorer=rescoring.Rescorer("high", high, "other weights"))
    found = search.fingerprint, again.fingerprint, other.fingerprint
    assert len(set(found)) == 3
    mined = mine_until_full(prepare(again.candidates()), again)
    assert len(mined.shortfalls) == 5 and mined.negatives.empty


def test_the_cross_encoder_of_the_settings_is_asked_in_its_own_way(shore, tmp_path):
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"vocab_size": 5 + len(WORDS), "intermediate_size": 8, "num_labels": 1}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    cross = tmp_path / "cross"
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(cross)
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(cross)
    changes = {"rescore_with": str(cross), "mining_method": "naive"}
    settings = resolve("smoke", changes)
    mined = miner.mine_set(shore, teachers.load_teacher("bm25", settings), settings)
    assert set(mined["teacher"]) == {"bm25 + cross"}
    texts = shore.corpus.set_index("id")["text"]
    pairs = mined["query_id"].map(shore.queries), mined["document_id"].map(texts)
    model = rescoring.load_rescorer(settings).model
    wanted = model.predict(list(zip(*pairs, strict=True)), show_progress_bar=False)
    assert mined["score"].to_numpy() == pytest.approx(wanted, abs=1e-5)
    assert rescoring.load_rescorer(resolve("smoke")) is None
    with pytest.raises(LabError, match="model '/none' cannot be loaded"):
        rescoring.load_rescorer(settings.changed(rescore_with="/none"))
