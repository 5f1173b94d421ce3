"""Who scores: words, an encoder, a server, given vectors, or nobody."""

import base64
import json
import random
import threading
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bm25s
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as modules
from sentence_transformers.base.modules import Router
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, ByT5Tokenizer
from worlds import CORPUS

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder
from nbutils.encoder.vectors import embed
from nbutils.mining import server as serving
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


def search(teacher, queries, positives, depth, corpus=CORPUS):
    data = RetrievalSet("loaves", queries, corpus, positives)
    return Search(teacher, data, depth).candidates()


# -- words -----------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("query", "texts"),
    [  # documents from best to worst; the last shares nothing
        (
            "咖啡会让人清醒吗",
            ["咖啡会让人保持清醒。", "茶会让人保持平静。", "这座桥开通。"],
        ),
        (
            "コーヒー豆の焙煎",
            ["コーヒー豆は焙煎する。", "コーヒーは眠れない。", "橋。"],
        ),
        ("กาแฟทำให้ตื่นไหม", ["กาแฟทำให้คนตื่น", "ชาทำให้คนสงบ", "สะพาน"]),
        ("GPU 显存不足", ["GPU 显存不足时怎么办", "我的 GPU 很好", "the moon"]),
        ("茶", ["绿 茶 好", "红 茶 也 不 错 好 好", "桥"]),
    ],
)
def test_bm25_pairs_the_signs_of_scripts_without_spaces(query, texts):
    scores = BM25Teacher().scorer(texts)([query])[0]
    assert scores[0] > scores[1] > scores[2] == 0


def test_bm25_is_bit_equal_to_the_library_where_there_are_spaces():
    index, texts = bm25s.BM25(method="lucene"), CORPUS["text"].tolist()
    named = {"stopwords": "en", "show_progress": False, "return_ids": False}
    index.index(bm25s.tokenize(texts, **named), show_progress=False)
    wanted = index.get_scores(bm25s.tokenize([texts[3]], **named)[0])
    np.testing.assert_array_equal(BM25Teacher().scorer(texts)([texts[3]])[0], wanted)


# -- encoders --------------------------------------------------------------------------


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


def peoples_models(folder):
    """Modules and prompts as people's own encoders have them, tiny."""
    base = str(models.tiny_folder("tiny-bert", folder))
    words = Tokenizer.from_file(f"{base}/tokenizer.json")

    def dense(path=base):
        return [modules.Transformer(path, max_seq_length=64), modules.Pooling(64)]

    def static():
        return [modules.StaticEmbedding(words, embedding_dim=64)]

    def bytes_():
        path, sizes = str(folder / "bytes"), {"hidden_size": 64, "num_hidden_layers": 1}
        sizes |= {"vocab_size": 400, "num_attention_heads": 4, "intermediate_size": 64}
        ByT5Tokenizer().save_pretrained(path)
        BertModel(BertConfig(**sizes)).save_pretrained(path)
        return dense(path)

    both = {"query": "query: ", "passage": "passage: "}
    return {
        "prompts": (dense, {"prompts": both}),
        "default": (dense, {"prompts": both, "default_prompt_name": "query"}),
        "dense": (lambda: [*dense(), modules.Dense(64, 16)], {}),
        "static": (static, {}),
        "words": (lambda: [modules.BoW(["moon", "yeast", "Steel"])], {}),
        "bytes": (bytes_, {}),
        "routes": (lambda: [Router.for_query_document(static(), dense())], {}),
    }


@pytest.mark.parametrize(
    "kind", ["prompts", "default", "dense", "static", "words", "bytes", "routes"]
)
def test_ones_own_encoder_teaches_as_it_encodes_queries_and_documents(kind, tmp_path):
    parts, named = peoples_models(tmp_path)[kind]
    made = SentenceTransformer(modules=parts(), device="cpu", **named)
    made.save(str(tmp_path / "own"), create_model_card=False)
    settings = resolve("smoke", {"compute_dtype": "float32"})
    teacher = load_teacher(str(tmp_path / "own"), settings)
    texts = CORPUS["text"].tolist()
    for queries, encode in ((True, made.encode_query), (False, made.encode_document)):
        wanted = encode(texts, normalize_embeddings=True)
        for _ in "made", "read":
            found = teacher.vectors(texts, queries=queries)
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_prompt_that_published_encoders_store_under_another_name_is_found(tiny):
    settings, model = tiny
    model.prompts["web_search_query"] = "find: "
    teacher = EncoderTeacher(model, settings, name="tiny-bert")
    del model.prompts["web_search_query"]
    wanted = embed(model, ["moon"], settings, "find: ", cache=None)
    np.testing.assert_array_equal(teacher.vectors(["moon"], queries=True), wanted)


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
    model.prompts["s2p_query"] = "ask: "
    prompted = EncoderTeacher(model, settings, name="tiny-bert")
    del model.prompts["s2p_query"]
    assert prompted.fingerprint != before
    weight = next(model.parameters())
    with torch.no_grad():
        kept = weight.view(-1)[0].item()
        weight.view(-1)[0] += 0.5
        after = EncoderTeacher(model, settings, name="tiny-bert").fingerprint
        weight.view(-1)[0] = kept
    assert after != before


def test_teachers_are_loaded_by_name():
    assert load_teacher("server:e", resolve("smoke", {"encode_batch": 7})).batch == 7
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


# -- an embeddings server --------------------------------------------------------------


def letters(text):
    return [float(text.lower().count(c)) for c in "abcdefghijklmnopqrstuvwxyz"]


def rows_of(texts):
    """An answer's rows, the last text first."""
    rows = [{"index": n, "embedding": letters(text)} for n, text in enumerate(texts)]
    return rows[::-1]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """OpenAI's embeddings endpoint, without a key; `answer` of its texts may change."""

    class Embeddings(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append(body)
            status, said = served.answer(body["input"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(
                said if isinstance(said, bytes) else json.dumps(said).encode()
            )

        def log_message(self, *_):
            pass

    monkeypatch.setattr(teachers, "VECTORS", tmp_path)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Embeddings)
    served.asked, served.answer = [], lambda texts: (200, {"data": rows_of(texts)})
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # one's own needs none
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{served.server_port}/v1")
    yield served
    served.shutdown()
    served.server_close()


def test_a_server_teaches_and_its_vectors_are_paid_for_once(server, tmp_path):
    texts, whole = CORPUS["text"].tolist(), server.answer

    def cut(given):  # takes two texts at most, and fails after the first two
        many = {"error": f"batch size {len(given)} > maximum allowed batch size 2"}
        return (
            (422, many)
            if len(given) > 2
            else (
                whole(given)
                if given[0] == texts[0]
                else (400, {"error": "out of words"})
            )
        )

    server.answer = cut
    with pytest.raises(LabError, match=r"for 'Tides follow.*out of words.*check"):
        ServerTeacher("some/counter", batch=4).vectors(texts)
    assert [len(body["input"]) for body in server.asked] == [4, 2, 2, 1]
    server.answer = whole
    teacher = ServerTeacher("some/counter")
    found = search(teacher, {"q": "moon"}, {"q": ["bread"]}, 5)
    wanted = np.array([letters(text) for text in texts])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    asked = np.array(letters("moon"))
    scores = wanted[found.documents[0]] @ asked / np.linalg.norm(asked)
    np.testing.assert_allclose(found.scores[0], scores, atol=1e-6)
    assert [texts[0] in body["input"] for body in server.asked].count(True) == 2
    assert server.asked[0]["model"] == "some/counter"
    before = len(server.asked)
    again = ServerTeacher("some/counter")
    same = search(again, {"q": "moon"}, {"q": ["bread"]}, 5)
    pd.testing.assert_frame_equal(same.table, found.table)
    assert len(server.asked) == before
    other = ServerTeacher("some/other")
    assert other.fingerprint != teacher.fingerprint
    other.vectors(texts)
    assert len(server.asked) > before


def test_an_answer_of_another_form_is_put_right():
    wanted = np.array([letters("moon"), letters("sea")], np.float32)
    rows = rows_of(["moon", "sea"])
    coded = [
        {"index": n, "embedding": base64.b64encode(row.tobytes()).decode()}
        for n, row in enumerate(wanted)
    ]
    bare = [{"embedding": row["embedding"]} for row in rows[::-1]]
    for form in (rows, coded, bare):
        found = serving.read(json.dumps({"data": form}).encode(), ["moon", "sea"])
        np.testing.assert_array_equal(found, wanted)


ODD = {
    "null": [None] * 3, "nan": [float("nan")] * 3, "huge": [1e300] * 3, "empty": [],
    "nested": [[1.0, 2.0]], "text": "no base64", "words": ["a"], "number": 3,
    "absent": None, "object": {"x": 1}, "integer": [10**400],
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ODD, "ragged"])
def test_a_vector_that_is_none_is_refused_by_its_text_and_not_kept(
    kind, server, tmp_path
):
    def answer(texts):
        rows = [{"index": n, "embedding": [1.0, n]} for n in range(len(texts))]
        rows[1]["embedding"] = ODD.get(kind, [1.0])
        return 200, {"data": rows}

    server.answer, teacher = answer, ServerTeacher("x")
    with pytest.raises(LabError, match=r"vector of 'sea' is no"):
        teacher.vectors(["moon", "sea", "salt"])
    assert not list(tmp_path.iterdir())


def test_fuzzed_answers_give_vectors_or_one_clear_line(count=60):
    draw = random.Random(0)
    junk = [None, True, 0, -1, 1.5, 1e300, float("nan"), "", "AAAA", "x", [], {}, [[]]]
    junk += [[1.0, 2.0], {"data": []}, {"error": {"message": "model is loading"}}]
    for _ in range(count):
        answer = {"data": rows_of(["moon", "sea"]), "model": "m"}
        for _ in range(draw.randint(1, 3)):  # something somewhere is something else
            place = answer
            while isinstance(place, list | dict) and place:
                keys = [*(place if isinstance(place, dict) else range(len(place)))]
                last, key = place, draw.choice(keys)
                place = place[key]
                if draw.random() < 0.3:
                    break
            last[key] = deepcopy(draw.choice(junk))
        said = json.dumps(draw.choice([answer, answer, answer, draw.choice(junk)]))
        said = said.encode()[: draw.choice([None, None, draw.randint(0, 40)])]
        try:
            found = serving.read(said, ["moon", "sea"])
        except LabError as error:
            assert "\n" not in str(error)
        else:
            assert all(v.ndim == 1 and np.isfinite(v).all() for v in found)
