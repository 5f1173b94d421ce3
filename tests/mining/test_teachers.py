"""Who scores: words, an encoder, a server, given vectors, or nobody."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder
from nbutils.encoder.vectors import embed
from nbutils.mining import teachers
from nbutils.mining.candidates import Search
from nbutils.mining.teachers import (
    BM25Teacher,
    EncoderTeacher,
    RandomTeacher,
    ServerTeacher,
    VectorTeacher,
    load_teacher,
    load_teachers,
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


def search(teacher, queries, positives, depth, corpus=CORPUS):
    data = RetrievalSet("loaves", queries, corpus, positives)
    return Search(teacher, data, depth).candidates()


# -- teachers --------------------------------------------------------------------------


def test_bm25_on_a_tiny_corpus():
    teacher = BM25Teacher()
    queries = {"q1": "why does sourdough rise with wild yeast", "q2": "zzz unheard of"}
    positives = {"q1": ["bread"], "q2": ["steel"]}
    found = search(teacher, queries, positives, depth=5)
    assert set(found.table["query_id"]) == {"q1"}  # q2 shares no word with anything
    assert set(found.table["document_id"]) == {"bread", "starter"}
    assert (found.table["score"] > 0).all()
    assert found.positives.set_index("query_id")["score"]["q2"] == 0
    with pytest.raises(LabError, match="no words"):
        search(teacher, {"q": "a"}, {"q": ["bread"]}, 1, CORPUS.assign(text="?"))


@pytest.fixture(scope="module")
def tiny():
    settings = resolve("smoke")
    return settings, load_encoder(settings, "tiny-bert")


def test_encoder_teacher_gives_cosines(tiny):
    settings, model = tiny
    teacher = EncoderTeacher(model, settings, name="tiny-bert")
    found = search(teacher, {"q": CORPUS["text"][2]}, {"q": ["tides"]}, depth=3)
    assert len(found.table) == 3
    assert found.positives["score"].tolist() == [pytest.approx(1, abs=1e-3)]
    assert found.table["document_id"].tolist()[0] == "tides"
    assert found.table["score"].is_monotonic_decreasing


def test_a_student_teaches_unpacked():
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
    np.save(tmp_path / "corpus.npy", vectors[::-1])  # found by id, in any order
    np.save(tmp_path / "queries.npy", vectors[:2].astype(np.float32))
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS["id"][::-1]))
    (tmp_path / "queries.txt").write_text("one\ntwo\n")
    teacher = load_teacher(f"vectors:{tmp_path}", resolve("smoke"))
    asked, own = {"one": "?", "two": "?"}, {"one": ["moon"], "two": ["moon"]}
    found = search(teacher, asked, own, 5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit[:2] @ unit.T
    order = np.argsort(-scores, axis=1)
    assert found.documents.tolist() == order.tolist()
    wanted = np.take_along_axis(scores, order, 1)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    with pytest.raises(LabError, match="no vector in its queries of 'three'"):
        search(teacher, {"three": "?"}, {"three": ["moon"]}, 1)
    np.save(tmp_path / "corpus.npy", vectors[::-1] * [1.01, *[1] * 7])
    assert VectorTeacher.read(tmp_path).fingerprint != teacher.fingerprint
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS["id"][:4]))
    with pytest.raises(LabError, match=r"corpus\.txt 4 ids"):
        VectorTeacher.read(tmp_path)
    (tmp_path / "queries.npy").unlink()
    with pytest.raises(LabError, match=r"needs queries\.npy"):
        VectorTeacher.read(tmp_path)


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
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # one's own needs none
    url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setattr(teachers, "SERVER_BATCH", 2)
    texts, server.limit = CORPUS["text"].tolist(), 1
    with pytest.raises(LabError, match="check OPENAI_BASE_URL"):
        ServerTeacher("some/counter", cache=tmp_path).vectors(texts)
    server.limit = 99
    teacher = ServerTeacher("some/counter", prompt="ask: ", cache=tmp_path)
    found = search(teacher, {"q": "moon"}, {"q": ["bread"]}, 5)
    wanted = np.array([letters(text) for text in texts])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    asked = np.array(letters("ask: moon"))
    scores = wanted[found.documents[0]] @ asked / np.linalg.norm(asked)
    np.testing.assert_allclose(found.scores[0], scores, atol=1e-6)
    sent = [text for body in server.asked for text in body["input"]]
    assert sent.count(texts[0]) == 1  # the batch before the failure was kept
    assert server.asked[0]["model"] == "some/counter"
    before = len(server.asked)
    again = ServerTeacher("some/counter", prompt="ask: ", cache=tmp_path)
    same = search(again, {"q": "moon"}, {"q": ["bread"]}, 5)
    pd.testing.assert_frame_equal(same.table, found.table)
    assert len(server.asked) == before
    other = ServerTeacher("some/other", cache=tmp_path)
    assert other.fingerprint != teacher.fingerprint
    other.vectors(texts)
    assert len(server.asked) > before
