"""Who scores: words, an encoder, a server, given vectors, or nobody."""

import base64
import json
import random
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

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

from benchmarks.llm import HTTP
from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder
from nbutils.encoder.vectors import embed
from nbutils.mining import server, teachers
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
        ("咖啡会让人清醒吗", "咖啡会让人保持清醒。|茶会让人保持平静。|这座桥开通。"),
        ("コーヒー豆の焙煎", "コーヒー豆は焙煎する。|コーヒーは眠れない。|橋。"),
        ("กาแฟทำให้ตื่นไหม", "กาแฟทำให้คนตื่น|ชาทำให้คนสงบ|สะพาน"),
        ("GPU 显存不足", "GPU 显存不足时怎么办|我的 GPU 很好|the moon"),
        ("茶", "绿 茶 好|红 茶 也 不 错 好 好|桥"),
    ],
)
def test_bm25_pairs_the_signs_of_scripts_without_spaces(query, texts):
    scores = BM25Teacher().scorer(texts.split("|"))([query])[0]
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

    both = {"prompts": {"query": "query: ", "passage": "passage: "}}
    return {
        "prompts": (dense, both),
        "default": (dense, {**both, "default_prompt_name": "query"}),
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
    wanted = made.encode_query(texts), made.encode_document(texts)
    wanted = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in wanted]
    for rows, queries in zip(wanted * 2, [True, False] * 2, strict=True):
        found = teacher.vectors(texts, queries=queries)  # made, then read
        np.testing.assert_allclose(found, rows, atol=1e-6)
    queries = dict(zip(CORPUS["id"], texts, strict=True))
    found = search(teacher, queries, {name: [name] for name in queries}, 5)
    scores = np.take_along_axis(wanted[0] @ wanted[1].T, found.documents, axis=1)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


def test_a_prompt_under_another_name_is_found_and_makes_another_teacher(tiny):
    settings, model = tiny
    plain = EncoderTeacher(model, settings, name="tiny-bert")
    model.prompts["web_search_query"] = "find: "
    teacher = EncoderTeacher(model, settings, name="tiny-bert")
    del model.prompts["web_search_query"]
    wanted = embed(model, ["moon"], settings, "find: ", cache=None)
    np.testing.assert_array_equal(teacher.vectors(["moon"], queries=True), wanted)
    assert teacher.fingerprint != plain.fingerprint
    weight = next(model.parameters())
    with torch.no_grad():
        kept = weight.view(-1)[0].item()
        weight.view(-1)[0] += 0.5
        after = EncoderTeacher(model, settings, name="tiny-bert").fingerprint
        weight.view(-1)[0] = kept
    assert after != plain.fingerprint


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
    teacher = EncoderTeacher(student, settings, name="student")
    assert not any(hasattr(p, "quant_state") for p in teacher.model.parameters())
    unpacked = teacher.vectors(texts)
    assert (packed * unpacked).sum(1).min() > 0.9995
    low = EncoderTeacher(student, settings.changed(compute_dtype="bfloat16"), name="x")
    whole = EncoderTeacher(student, settings.changed(compute_dtype="float32"), name="x")
    assert low.fingerprint != whole.fingerprint  # other products, another table


def test_teachers_are_loaded_by_name_and_those_of_one_short_name_keep_apart(tmp_path):
    here = [models.tiny_folder("tiny-bert", tmp_path / part) for part in ("a", "b")]
    names = ["bm25", *map(str, here), "tiny-mistral", "random", "server:e"]
    found = load_teachers(resolve("smoke", {"teachers": names, "encode_batch": 7}))
    apart = ["--".join(folder.parts[1:]) for folder in here]
    assert [*found] == ["bm25", *apart, "tiny-mistral", "random", "server:e"]
    assert [*found] == [teacher.name for teacher in found.values()]
    assert found["server:e"].batch == 7
    assert isinstance(found["random"], RandomTeacher)
    assert list(load_teachers(resolve("smoke"))) == ["bm25", "tiny-bert"]
    assert load_teacher(str(here[0]), resolve("smoke")).name == here[0].name
    with pytest.raises(LabError, match="twice: name each teacher once"):
        load_teachers(resolve("smoke", {"teachers": [names[1], f"{here[0]}/"]}))
    with pytest.raises(LabError, match="no-such-model"):
        load_teacher("nobody/no-such-model", resolve("smoke"))


# -- teachers without a model ----------------------------------------------------------


def test_random_scores_depend_on_seed_and_texts_alone():
    texts = [f"text {n}" for n in range(500)]
    scores = RandomTeacher(0).scorer(texts)(["a", "b"])
    back = RandomTeacher(0).scorer(texts[::-1])(["b", "a"])
    np.testing.assert_array_equal(scores, back[::-1, ::-1])
    assert abs(np.corrcoef(scores)[0, 1]) < 0.15
    assert (scores > 0).all() and (scores < 1).all()
    assert (RandomTeacher(1).scorer(texts)(["a"]) != scores[0]).all()


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
    np.save(tmp_path / "corpus.npy", np.asfortranarray(vectors[::-1]))
    assert VectorTeacher.read(tmp_path).fingerprint == teacher.fingerprint
    for kind in (np.int8, np.float16):  # whose sums would overflow
        large = np.full((5, 4096), 100, kind)
        unit = VectorTeacher({}, {"corpus": large}).rows["corpus"]
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-3)
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
def served(monkeypatch, tmp_path):
    """OpenAI's embeddings endpoint, without a key; `answer` of its texts may change."""

    def reply(request):
        made.asked.append(json.loads(request.content))
        status, said = made.answer(made.asked[-1]["input"])
        return HTTP.Response(status, content=json.dumps(said))

    made = SimpleNamespace(
        asked=[], answer=lambda texts: (200, {"data": rows_of(texts)})
    )
    opened = partial(server.open_sdk, transport=HTTP.MockTransport(reply))
    monkeypatch.setattr(server, "open_sdk", opened)
    monkeypatch.setattr(teachers, "VECTORS", tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # one's own needs none
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost/v1")
    return made


def test_a_server_teaches_and_its_vectors_are_paid_for_once(served):
    texts, whole = CORPUS["text"].tolist(), served.answer

    def cut(given):  # takes two texts at most, and fails after the first two
        if len(given) > 2:
            return 422, {"error": f"batch size {len(given)} > maximum batch size 2"}
        return whole(given) if given[0] == texts[0] else (400, {"error": "no words"})

    served.answer = cut
    with pytest.raises(LabError, match=r"for 'Tides follow.*no words.*check"):
        ServerTeacher("some/counter", batch=4).vectors(texts)
    assert [len(body["input"]) for body in served.asked] == [4, 2, 2, 1]
    served.answer = whole
    teacher = ServerTeacher("some/counter")
    found = search(teacher, {"q": "moon"}, {"q": ["bread"]}, 5)
    wanted = np.array([letters(text) for text in texts])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    asked = np.array(letters("moon"))
    scores = wanted[found.documents[0]] @ asked / np.linalg.norm(asked)
    np.testing.assert_allclose(found.scores[0], scores, atol=1e-6)
    assert [texts[0] in body["input"] for body in served.asked].count(True) == 2
    assert served.asked[0]["model"] == "some/counter"
    before = len(served.asked)
    same = search(ServerTeacher("some/counter"), {"q": "moon"}, {"q": ["bread"]}, 5)
    pd.testing.assert_frame_equal(same.table, found.table)
    assert len(served.asked) == before
    other = ServerTeacher("some/other")
    assert other.fingerprint != teacher.fingerprint
    other.vectors(texts)
    assert len(served.asked) > before


def test_an_answer_of_another_form_is_put_right():
    wanted = np.array([letters("moon"), letters("sea")], np.float32)
    rows = rows_of(["moon", "sea"])
    coded = [
        {"index": n, "embedding": base64.b64encode(row.tobytes()).decode()}
        for n, row in enumerate(wanted)
    ]
    bare = [{"embedding": row["embedding"]} for row in rows[::-1]]
    for form in (rows, coded, bare):
        found = server.read(json.dumps({"data": form}).encode(), ["moon", "sea"])
        np.testing.assert_array_equal(found, wanted)


ODD = {
    "null": [None] * 3, "nan": [float("nan")] * 3, "huge": [1e300] * 3, "empty": [],
    "nested": [[1.0, 2.0]], "text": "no base64", "words": ["a"], "number": 3,
    "absent": None, "object": {"x": 1}, "integer": [10**400],
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ODD, "ragged"])
def test_a_vector_that_is_none_is_refused_by_its_text_and_not_kept(
    kind, served, tmp_path
):
    rows = [{"index": n, "embedding": [1.0, n]} for n in range(3)]
    rows[1]["embedding"] = ODD.get(kind, [1.0])
    served.answer = lambda texts: (200, {"data": rows})
    with pytest.raises(LabError, match=r"vector of 'sea' is no"):
        ServerTeacher("x").vectors(["moon", "sea", "salt"])
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
            found = server.read(said, ["moon", "sea"])
        except LabError as error:
            assert "\n" not in str(error)
        else:
            assert all(v.ndim == 1 and np.isfinite(v).all() for v in found)
