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
from nbutils.core.files import write_table
from nbutils.core.settings import resolve
from nbutils.encoder import vectors
from nbutils.mining import candidates, miner, rescoring, teachers
from nbutils.mining.ensembles import cross_sample, intra_sample
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine, mine_until_full

WORDS = ["sea", "salt", "tide", "moon", "rock", "fish", "boat", "rain", "wind", "sand"]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """61 documents, 23 queries with one or two positives, one text twice, one empty."""
    rng = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("sets") / "shore"
    (made / "qrels").mkdir(parents=True)
    texts = [" ".join(rng.choice(WORDS, 9)) for _ in range(60)]
    corpus = [
        {"_id": f"d{n}", "title": f"T{n}" if n % 2 else "", "text": text}
        for n, text in enumerate([*texts, texts[4]])
    ]
    corpus.append({"_id": "empty", "title": "", "text": ""})
    queries = [
        {"_id": f"q{n}", "text": " ".join(texts[2 * n].split()[:4])} for n in range(25)
    ]
    rows = [("query-id", "corpus-id", "score"), ("q24", "d3", 0)]
    for n in range(23):
        rows += [(f"q{n}", f"d{2 * n}", 1)] + [(f"q{n}", f"d{2 * n + 1}", 1)] * (n % 2)
    (made / "corpus.jsonl").write_text(lines(corpus))
    (made / "queries.jsonl").write_text(lines(queries))
    table = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (made / "qrels" / "dev.tsv").write_text(table)
    return made


@pytest.mark.parametrize("name", ["tiny-bert", "bm25", "random"])
def test_the_command_mines_what_the_page_would(folder, name, tmp_path):
    """The same queries, corpus and recipe, through the page's table of candidates."""
    out = tmp_path / "mined.csv"
    command = ["mine", str(folder), "--split", "dev", "--profile", "smoke"]
    command += ["--set", "perc=0.99", "--set", "candidate_depth=9"]
    done = CliRunner().invoke(app, [*command, "--teacher", name, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (
        "own positive" in done.output and "of 23 queries, 61 documents" in done.output
    )
    found = pd.read_csv(out)
    data = retrieval.read_set(folder, "dev")
    settings = resolve("smoke", {"perc": 0.99, "candidate_depth": 9})
    teacher = teachers.load_teacher(name, settings)
    search = candidates.Search(teacher, data, 9)
    pool = prepare(search.candidates())
    wanted = mine_until_full(pool, search, settings.mining).negatives
    columns = ["query_id", "document_id", "method", "teacher"]
    assert found[columns].equals(wanted[columns].astype(found[columns].dtypes))
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-5)
    assert len(found) > 40


PAIR = """
import sys
from nbutils.encoder import vectors
from nbutils.mining import miner
from nbutils.__main__ import app
from pathlib import Path
folder, name, out, cache = sys.argv[1:]
miner.SHARD = 8
vectors.VECTORS = Path(cache)
app(["mine", folder, "--split", "dev", "--profile", "smoke", "--teacher", name,
     "--set", "perc=0.99", "--set", "candidate_depth=9", "--out", out])
"""


@pytest.mark.parametrize("name", ["tiny-bert", "bm25"])
def test_two_processes_mine_the_identical_table(folder, name, tmp_path, monkeypatch):
    script = tmp_path / "pair.py"
    script.write_text(PAIR)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--master-addr", "127.0.0.1",
        "--master-port", free_port(), "--nproc-per-node", "2", str(script), str(folder),
        name, str(tmp_path / "two.parquet"), str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1  # one process speaks
    together = pd.read_parquet(tmp_path / "two.parquet")
    monkeypatch.setattr(miner, "SHARD", 8)
    monkeypatch.setattr(vectors, "VECTORS", tmp_path / "one")
    data = retrieval.read_set(folder, "dev")
    settings = resolve("smoke", {"perc": 0.99, "candidate_depth": 9})
    teacher = teachers.load_teacher(name, settings)
    alone = miner.mine_set(data, teacher, settings)
    write_table(tmp_path / "one.parquet", alone)
    alone = pd.read_parquet(tmp_path / "one.parquet")
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    assert len(alone) > 40


def test_more_processes_than_queries_leave_nobody_waiting(folder, monkeypatch):
    data = retrieval.read_set(folder, "dev")
    settings = resolve("smoke")
    teacher = teachers.load_teacher("bm25", settings)
    whole = miner.mine_set(data, teacher, settings)
    parts = []
    monkeypatch.setattr(miner, "gather", lambda own: [own])
    for number in range(30):
        monkeypatch.setattr(miner, "place", lambda n=number: (n, 30))
        if number < 23:
            parts.append(miner.mine_set(data, teacher, settings))
        else:
            monkeypatch.setattr(miner, "gather", lambda own: [own, (whole, 1.0)])
            assert miner.mine_set(data, teacher, settings).equals(whole)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


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
    data, settings = retrieval.read_set(folder, "dev"), resolve("smoke")
    settings = settings.changed(negatives_per_query=2)
    lists = {
        name: miner.mine_set(data, teacher, settings)
        for name, teacher in teachers.load_teachers(settings).items()
    }
    texts = data.corpus.set_index("id")["text"].to_dict()
    wanted = {
        "cross_sample": lambda: cross_sample(lists, seed=0),
        "intra_sample": lambda: intra_sample(lists, dedup=False, texts=texts),
        "intra_sample_dedup": lambda: intra_sample(lists, texts=texts),
    }[how]()
    found = pd.read_parquet(out)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    assert set(found["teacher"]) == {"bm25", "tiny-bert"}


def test_the_command_says_what_an_index_misses(folder, tmp_path):
    command = ["mine", str(folder), "--split", "dev", "--profile", "smoke"]
    command += ["--teacher", "tiny-bert", "--out", str(tmp_path / "x.csv")]
    done = CliRunner().invoke(app, [*command, "--set", "index=Flat"])
    assert done.exit_code == 0, done.output
    assert "index Flat: 100.0% of the exact candidates found" in done.output
    done = CliRunner().invoke(app, [*command, "--set", "index=Flut"])
    assert "faiss knows no index 'Flut'" in done.output


def test_bad_input_is_one_clear_line_and_nothing_is_written(folder, tmp_path):
    command = ["mine", str(folder), "--profile", "smoke", "--teacher", "bm25"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "x.parquet")])
    assert done.exit_code == 1
    assert done.output.startswith("error: ") and done.output.count("\n") == 1
    assert "no split 'train' in BEIR's format: it has dev" in done.output
    assert not (tmp_path / "x.parquet").exists()


def test_pairs_are_mined_into_a_trainers_format(tmp_path):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.parquet"
    texts = [f"{word} and {other}" for word in WORDS for other in WORDS[:3]]
    rows = [{"question": t.split()[0], "answer": t, "label": 1} for t in texts]
    pairs.write_text(lines(rows))
    command = ["mine", str(pairs), "--profile", "smoke", "--teacher", "tiny-bert"]
    command += ["--set", "mining_method=naive", "--format"]
    done = CliRunner().invoke(app, [*command, "n-tuple", "--out", str(out)])
    assert done.exit_code == 0 and "30 documents" in done.output, done.output
    made = pd.read_parquet(out)
    assert list(made) == ["anchor", "positive", *(f"negative_{n}" for n in range(1, 5))]
    assert made[["anchor", "positive"]].to_numpy().tolist() == [
        [row["question"], row["answer"]] for row in rows
    ]
    own = made.apply(lambda row: set(row[2:]) & set(texts), axis=1)
    assert own.map(len).eq(4).all()
    for form, name, said in (
        ("labeled-list", "x.csv", "a csv holds no lists"),
        ("tripel", "x.parquet", "unknown format 'tripel'; did you mean 'triplet'"),
    ):
        done = CliRunner().invoke(app, [*command, form, "--out", str(tmp_path / name)])
        assert done.exit_code == 1 and said in done.output
        assert not (tmp_path / name).exists()


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
    assert again.fingerprint != search.fingerprint
    mined = mine_until_full(prepare(again.candidates()), again)
    assert len(mined.shortfalls) == 5 and mined.negatives.empty


def test_the_cross_encoder_of_the_settings_is_asked_in_its_own_way(folder, tmp_path):
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=8, num_labels=1,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertForSequenceClassification(config).save_pretrained(tmp_path / "cross")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "cross")
    changes = {"rescore_with": str(tmp_path / "cross"), "mining_method": "naive"}
    settings = resolve("smoke", changes)
    data = retrieval.read_set(folder, "dev")
    mined = miner.mine_set(data, teachers.load_teacher("bm25", settings), settings)
    assert set(mined["teacher"]) == {"bm25 + cross"}
    texts = data.corpus.set_index("id")["text"]
    pairs = mined["query_id"].map(data.queries), mined["document_id"].map(texts)
    model = rescoring.load_rescorer(settings).model
    wanted = model.predict(list(zip(*pairs, strict=True)), show_progress_bar=False)
    assert mined["score"].to_numpy() == pytest.approx(wanted, abs=1e-5)
    assert rescoring.load_rescorer(resolve("smoke")) is None
    with pytest.raises(LabError, match="cross-encoder '/none' cannot be loaded"):
        rescoring.load_rescorer(settings.changed(rescore_with="/none"))
