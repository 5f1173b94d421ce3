"""Teachers and the candidate table: exact, deterministic, bound to what made it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder
from nbutils.encoder.vectors import embed
from nbutils.mining import methods
from nbutils.mining.candidates import Search, digest, read, search_stored, top_k, write
from nbutils.mining.exclusion import prepare
from nbutils.mining.teachers import (
    BM25Teacher,
    EncoderTeacher,
    RandomTeacher,
    ServerTeacher,
    VectorTeacher,
    load_teacher,
    load_teachers,
    search_candidates,
)

CORPUS = pd.DataFrame(
    {
        "id": ["bread", "steel", "tides", "starter", "moon"],
        "text": [
            "Sourdough bread rises slowly because wild yeast works slowly.",
            "Steel is annealed to make it softer.",
            "Tides follow the pull of the moon.",
            "A sourdough starter is flour and water with wild yeast.",
            "The moon has no bread.",
        ],
    }
)


class Given:
    """A teacher whose scores are given: query text to one score a document."""

    name, floor = "given", None

    def __init__(self, scores):
        self.scores, self.calls = scores, []
        self.fingerprint = digest({k: list(map(float, v)) for k, v in scores.items()})

    def scorer(self, texts):
        def scores(queries):
            self.calls.append(len(queries))
            return np.array([self.scores[query] for query in queries], np.float32)

        return scores


def grid(count, size, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, size))
    if levels:
        scores = np.round(scores * levels) / levels
    corpus = pd.DataFrame({"id": [f"d{n}" for n in range(size)]})
    corpus["text"] = corpus["id"]
    queries = {f"q{n}": f"query {n}" for n in range(count)}
    teacher = Given(dict(zip(queries.values(), scores, strict=True)))
    positives = {name: [f"d{n % size}"] for n, name in enumerate(queries)}
    return teacher, queries, corpus, positives


# -- exact search ----------------------------------------------------------------------


def test_top_k_breaks_ties_by_document_order():
    scores = np.array([[1, 2, 2, 2, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]], np.float32)
    columns, values = top_k(scores, 2)
    assert columns.tolist() == [[1, 2], [0, 1], [0, 1]]
    assert values.tolist() == [[2, 2], [0, 0], [5, 4]]
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(200, 60)).astype(np.float32)
    want = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 7, 60, 99):
        assert (top_k(scores, k)[0] == want[:, :k]).all()


def test_blocks_do_not_change_the_table():
    inputs = grid(30, 50, levels=3)
    whole = search_candidates(*inputs, 10)
    inputs[0].calls.clear()
    blocks = search_candidates(*inputs, 10, budget=4 * 50 * 7)
    assert inputs[0].calls == [7, 7, 7, 7, 2]
    pd.testing.assert_frame_equal(whole.table, blocks.table)
    pd.testing.assert_frame_equal(whole.positives, blocks.positives)
    assert whole.fingerprint == blocks.fingerprint


def test_positives_outside_the_top_are_scored_directly():
    scores = [0.9, 0.8, 0.7, 0.1, -0.3]
    teacher = Given({"ask": scores})
    found = search_candidates(
        teacher, {"q": "ask"}, CORPUS, {"q": ["moon", "bread"]}, depth=2
    )
    assert found.table["document_id"].tolist() == ["bread", "steel"]
    assert found.positives["document_id"].tolist() == ["moon", "bread"]
    assert found.positives["score"].tolist() == [
        pytest.approx(-0.3),
        pytest.approx(0.9),
    ]
    assert found.positives["rank"].tolist() == [5, 1]


def test_a_query_whose_table_lies_above_its_ceiling_is_deepened():
    teacher, queries, corpus, _ = grid(6, 400)
    scores = np.array(list(teacher.scores.values()))
    positives = {q: [f"d{np.argsort(-scores[n])[150]}"] for n, q in enumerate(queries)}
    search = Search(teacher, queries, corpus, positives, depth=20)
    shallow = search.candidates()

    def once(table):
        pool = prepare(table, queries, corpus)
        return methods.mine(pool, method="perc_pos", perc=0.95, k=4)

    assert len(once(shallow).shortfalls) == 6  # what filtering after the cut gives
    mined = methods.mine_until_full(shallow, once, search.deepen)
    assert mined.shortfalls.empty
    for n, (query, own) in enumerate(positives.items()):
        ceiling = 0.95 * scores[n][int(own[0][1:])]
        order = np.argsort(-scores[n], kind="stable")
        want = [f"d{column}" for column in order if scores[n][column] < ceiling][:4]
        rows = mined.negatives[mined.negatives["query_id"] == query]
        assert rows["document_id"].tolist() == want
        ranks = [list(order).index(int(name[1:])) + 1 for name in want]
        assert rows["rank"].tolist() == ranks
    assert not mined.explain().duplicated(["query_id", "document_id"]).any()


def test_deepening_ends_when_the_corpus_has_no_more():
    teacher = Given({"ask": [0.9, 0.8, 0.7, 0.6, 0.1]})
    search = Search(teacher, {"q": "ask"}, CORPUS, {"q": ["starter"]}, depth=2)

    def once(table):
        return methods.mine(prepare(table, {"q": "ask"}, CORPUS), method="abs",
                           threshold=0.5, k=3)  # fmt: skip

    mined = methods.mine_until_full(search.candidates(), once, search.deepen)
    assert mined.negatives["document_id"].tolist() == ["moon"]
    assert mined.shortfalls["found"].tolist() == [1]


# -- teachers --------------------------------------------------------------------------


def test_bm25_on_a_tiny_corpus():
    teacher = BM25Teacher()
    queries = {"q1": "why does sourdough rise with wild yeast", "q2": "zzz unheard of"}
    positives = {"q1": ["bread"], "q2": ["steel"]}
    found = search_candidates(teacher, queries, CORPUS, positives, depth=5)
    assert set(found.table["query_id"]) == {"q1"}  # q2 shares no word with anything
    assert set(found.table["document_id"]) == {"bread", "starter"}
    assert (found.table["score"] > 0).all()
    assert found.positives.set_index("query_id")["score"]["q2"] == 0
    with pytest.raises(LabError, match="no words"):
        search_candidates(
            teacher, {"q": "a"}, pd.DataFrame({"id": ["d"], "text": ["?"]}),
            {"q": ["d"]}, 1,
        )  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    settings = resolve("smoke")
    return settings, load_encoder(settings, "tiny-bert")


def test_encoder_teacher_gives_cosines(tiny):
    settings, model = tiny
    teacher = EncoderTeacher(model, settings, name="tiny-bert")
    found = search_candidates(
        teacher, {"q": CORPUS["text"][2]}, CORPUS, {"q": ["tides"]}, depth=3
    )
    assert len(found.table) == 3
    assert found.positives["score"].tolist() == [pytest.approx(1, abs=1e-3)]
    assert found.table["document_id"].tolist()[0] == "tides"
    assert found.table["score"].is_monotonic_decreasing


def test_a_student_teaches_unpacked_and_a_query_is_embedded_once(monkeypatch):
    settings = resolve("smoke")
    student = build_student(settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    texts = CORPUS["text"].tolist()
    packed = embed(student, texts, settings, cache=None)
    teacher = EncoderTeacher.of_student(student, settings, name="student")
    assert not any(hasattr(p, "quant_state") for p in teacher.model.parameters())
    unpacked = teacher.vectors(texts)
    assert (packed * unpacked).sum(1).min() > 0.9995
    scores, asked = teacher.scorer(texts), []
    monkeypatch.setattr(
        teacher,
        "vectors",
        lambda new, queries: asked.append(new) or np.ones((len(new), 64)),
    )
    first = scores(["a", "b", "a"])
    assert first.shape == (3, len(texts)) and np.array_equal(first, scores(["b"] * 3))
    assert asked == [["a", "b"]]


def test_one_changed_weight_is_another_teacher(tiny):
    settings, model = tiny
    before = EncoderTeacher(model, settings, name="tiny-bert").fingerprint
    prompted = EncoderTeacher(model, settings, name="tiny-bert", query_prompt="ask: ")
    assert prompted.fingerprint != before
    weight = next(model.parameters())
    with torch.no_grad():
        kept = weight.view(-1)[0].item()
        weight.view(-1)[0] += 0.5
        after = EncoderTeacher(model, settings, name="tiny-bert").fingerprint
        weight.view(-1)[0] = kept
    assert after != before


def test_teachers_are_loaded_by_name():
    assert load_teacher("bm25", resolve("smoke")).name == "bm25"
    assert load_teacher("tiny-bert", resolve("smoke")).name == "tiny-bert"
    with pytest.raises(LabError, match="no-such-model"):
        load_teacher("nobody/no-such-model", resolve("smoke"))


# -- the stored table ------------------------------------------------------------------


def test_store_round_trip_and_wrong_fingerprint(tmp_path):
    inputs = grid(5, 20)
    search = Search(*inputs, depth=6)
    found, path = search.candidates(), tmp_path / "candidates.parquet"
    write(path, found)
    back = read(path, search.fingerprint)
    pd.testing.assert_frame_equal(back.table, found.table)
    pd.testing.assert_frame_equal(back.positives, found.positives)
    assert (back.teacher, back.fingerprint) == (found.teacher, found.fingerprint)
    with pytest.raises(LabError, match="another teacher or from other texts"):
        read(path, Search(*inputs, depth=7).fingerprint)
    with pytest.raises(LabError, match="does not exist"):
        read(tmp_path / "none.parquet")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LabError, match="not a whole candidate table"):
        read(path)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(LabError, match="not a whole candidate table"):
        read(path)


def test_anything_that_changes_the_table_changes_the_fingerprint():
    teacher, queries, corpus, positives = grid(3, 9)
    name = Search(teacher, queries, corpus, positives, 4).fingerprint
    others = [
        Search(grid(3, 9, seed=1)[0], queries, corpus, positives, 4),
        Search(teacher, {**queries, "q1": "reworded"}, corpus, positives, 4),
        Search(teacher, queries, corpus.assign(text="other"), positives, 4),
        Search(teacher, queries, corpus, {**positives, "q1": ["d8"]}, 4),
        Search(teacher, queries, corpus, positives, 5),
    ]
    assert len({name, *(other.fingerprint for other in others)}) == 6


def test_a_stored_search_is_not_repeated_but_a_stale_one_is_replaced(tmp_path):
    teacher, queries, corpus, positives = grid(3, 9)
    path = tmp_path / "table.parquet"
    first = search_stored(path, Search(teacher, queries, corpus, positives, 4))
    teacher.calls.clear()
    again = search_stored(path, Search(teacher, queries, corpus, positives, 4))
    assert teacher.calls == []
    pd.testing.assert_frame_equal(first.table, again.table)
    deeper = search_stored(path, Search(teacher, queries, corpus, positives, 5))
    assert teacher.calls == [3] and len(deeper.table) == 15


def test_teachers_of_one_short_name_keep_apart(tmp_path):
    here = [models.tiny_folder("tiny-bert", tmp_path / part) for part in ("a", "b")]
    names = ["bm25", *map(str, here), "tiny-mistral"]
    found = load_teachers(resolve("smoke", {"teachers": names}))
    assert next(iter(found)) == "bm25" and list(found)[3] == "tiny-mistral"
    assert len(found) == 4 and all("/" not in name for name in found)
    for name, folder in zip(list(found)[1:3], here, strict=True):
        assert name == "--".join(folder.parts[1:])
    for name, teacher in found.items():
        assert teacher.name == name
    assert list(load_teachers(resolve("smoke"))) == ["bm25", "tiny-bert"]
    with pytest.raises(LabError, match="twice: name each teacher once"):
        load_teachers(resolve("smoke", {"teachers": [names[1], f"{here[0]}/"]}))


# -- misuse ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": CORPUS[:0]}, "the corpus is empty"),
        ({"corpus": CORPUS.drop(columns="text")}, "lacks the column 'text'"),
        ({"corpus": pd.concat([CORPUS, CORPUS])}, "'bread' stands twice"),
        ({"queries": {}}, "no queries"),
        ({"positives": {"q": []}}, "'q' has no labelled positive"),
        ({"positives": {"q": ["cake"]}}, "positive 'cake' of query 'q' is not in the"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_misuse_is_one_clear_line(change, message):
    inputs = {
        "queries": {"q": "bread"},
        "corpus": CORPUS,
        "positives": {"q": ["bread"]},
        "depth": 3,
        **change,
    }
    with pytest.raises(LabError, match=message) as caught:
        search_candidates(BM25Teacher(), **inputs)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_gives_nan_is_refused():
    teacher = Given({"ask": [0.1, np.nan, 0.2, 0.3, 0.4]})
    with pytest.raises(LabError, match="not numbers"):
        search_candidates(teacher, {"q": "ask"}, CORPUS, {"q": ["bread"]}, 2)


# -- teachers without a model ----------------------------------------------------------


def test_random_scores_depend_on_seed_and_texts_alone():
    texts = [f"text {n}" for n in range(500)]
    scores = RandomTeacher(0).scorer(texts)(["a", "b"])
    back = RandomTeacher(0).scorer(texts[::-1])(["b", "a"])
    np.testing.assert_array_equal(scores, back[::-1, ::-1])
    assert abs(np.corrcoef(scores)[0, 1]) < 0.15
    assert (scores > 0).all() and (scores < 1).all()
    assert (RandomTeacher(1).scorer(texts)(["a"]) != scores[0]).all()
    assert isinstance(load_teacher("random", resolve("smoke")), RandomTeacher)


def test_given_vectors_score_as_the_encoder_that_made_them(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 8)) * 3
    np.save(tmp_path / "d.npy", vectors)
    np.save(tmp_path / "q.npy", vectors[:2])
    texts = CORPUS["text"].tolist()
    files = (tmp_path / "d.npy", texts), (tmp_path / "q.npy", ["one", "two"])
    teacher = VectorTeacher.read(*files)
    scores = teacher.scorer(texts)(["one", "two"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, unit[:2] @ unit.T, atol=1e-6)
    with pytest.raises(LabError, match="no vector of 'three'"):
        teacher.scorer(texts)(["three"])
    with pytest.raises(LabError, match="there are 4 texts"):
        VectorTeacher.read((tmp_path / "d.npy", texts[:4]))
    with pytest.raises(LabError, match="is no"):
        VectorTeacher.read((tmp_path / "none.npy", texts))
    np.save(tmp_path / "d.npy", vectors + 1e-9)
    assert VectorTeacher.read(*files).fingerprint != teacher.fingerprint


class Embeddings(BaseHTTPRequestHandler):
    """OpenAI's embeddings endpoint: a vector of letter counts, in reverse order."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        rows = [
            {"object": "embedding", "index": n, "embedding": letters(text)}
            for n, text in enumerate(body["input"])
        ]
        failed = len(self.server.asked) > self.server.limit
        answer = {"object": "list", "model": body["model"], "data": rows[::-1]}
        answer["usage"] = {"prompt_tokens": 1, "total_tokens": 1}
        self.send_response(400 if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({} if failed else answer).encode())

    def log_message(self, *_):
        pass


def letters(text):
    return [float(text.lower().count(c)) for c in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def server():
    served = ThreadingHTTPServer(("127.0.0.1", 0), Embeddings)
    served.asked, served.limit = [], 99
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def test_a_server_teaches_and_its_vectors_are_paid_for_once(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setattr("nbutils.teachers.SERVER_BATCH", 2)
    texts, server.limit = CORPUS["text"].tolist(), 1
    with pytest.raises(LabError, match="check OPENAI_BASE_URL"):
        ServerTeacher("some/counter", cache=tmp_path).scorer(texts)
    server.limit = 99
    teacher = ServerTeacher("some/counter", prompt="ask: ", cache=tmp_path)
    scores = teacher.scorer(texts)(["moon"])
    wanted = np.array([letters(text) for text in texts])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    asked = np.array(letters("ask: moon"))
    np.testing.assert_allclose(
        scores[0], wanted @ asked / np.linalg.norm(asked), atol=1e-6
    )
    sent = [text for body in server.asked for text in body["input"]]
    assert sent.count(texts[0]) == 1  # the batch before the failure was kept
    assert server.asked[0]["model"] == "some/counter"
    before = len(server.asked)
    again = ServerTeacher("some/counter", prompt="ask: ", cache=tmp_path)
    np.testing.assert_array_equal(again.scorer(texts)(["moon"]), scores)
    assert len(server.asked) == before
    other = ServerTeacher("some/other", cache=tmp_path)
    assert other.fingerprint != teacher.fingerprint
    other.scorer(texts)
    assert len(server.asked) > before
