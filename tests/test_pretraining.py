"""The pretraining of the tiny decoder: every stage, resuming, losses, errors."""

from __future__ import annotations

import json
import lzma
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from nbutils import (
    anatomy,
    anchors,
    bench,
    bench_decoder,
    corpora,
    decoder,
    distillation,
    encoder,
    lessons,
    objectives,
    pairs,
    pretraining,
    records,
    shipping,
    templates,
    trainer,
)
from nbutils.backbone import make_bidirectional
from nbutils.errors import LabError
from nbutils.ngrams import NGrams
from nbutils.settings import Pretraining, resolve, resolve_pretraining
from nbutils.stages import STAGES

WORDS = [
    "sun", "moon", "river", "stone", "tree", "light", "water", "bird", "house", "road",
    "green", "old", "falls",
]  # fmt: skip
TINY = {
    "vocabulary": 310, "hidden": 32, "layers": 2, "heads": 4, "key_heads": 2,
    "intermediate": 64, "length": 128, "text_length": 128, "places": 256, "shards": 2,
    "shard_tokens": 512, "pair_tokens": 1024, "embeddings": "random",
    "warmup_steps": 1, "words_steps": 2, "words_pairs": 32, "silent_axes": 4,
    "lm_steps": 4, "instruct_steps": 2, "mntp_steps": 2, "contrast_steps": 2,
    "distill_steps": 2, "neighbours_steps": 2, "teacher_texts": 40,
}  # fmt: skip


def silent(text: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with 1,200 made-up pages, of which some are set aside."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("text")
    with lzma.open(folder / "simplewiki.jsonl.xz", "wt", preset=0) as file:
        for number in range(1200):
            lines = [" ".join(draw.choices(WORDS, k=14)) + "." for _ in range(3)]
            title = " ".join(draw.choices(WORDS, k=2))
            row = {"id": str(number), "title": title, "text": "\n".join(lines)}
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The work folder of a run of every stage."""
    out = tmp_path_factory.mktemp("work")
    pretraining.pretrain(text, out, Pretraining(**TINY), threads=2, tell=silent)
    return out


def test_every_stage_leaves_a_model_a_curve_and_a_card(trained):
    for name in STAGES:
        card = json.loads((trained / name / "stage.json").read_text())
        assert card["steps"] == getattr(Pretraining(**TINY), f"{name}_steps")
        assert card["tokens"] > 0
        assert (trained / name / "curve.csv").is_file()
        assert not (trained / name / pretraining.STATE).exists()
    order = [
        json.loads((trained / n / "stage.json").read_text())["from"] for n in STAGES
    ]
    assert order == ["first weights", *list(STAGES)[:-1]]


def test_a_done_stage_is_not_run_again(text, trained):
    told: list[str] = []
    pretraining.pretrain(text, trained, Pretraining(**TINY), tell=told.append)
    assert told == [f"{name}: done before" for name in STAGES]


def test_it_loads_as_a_student(trained):
    folder = trained / "distill" / "model"
    chosen = resolve(
        "smoke",
        {"student": str(folder), "text_format": "inst", "pooling": "ata",
         "quantization": "none", "max_length": 128},
    )  # fmt: skip
    student = encoder.build_student(chosen)
    backbone = student[0]
    assert backbone.bidirectional
    assert backbone.model.config.model_type == "mistral"
    found = encoder.embed(
        student, ["the sun", "an old tree"], chosen, "Match", cache=None
    )
    assert found.shape == (2, 32)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_what_is_trained_is_what_the_encoder_computes(trained):
    folder, texts = trained / "distill" / "model", ["the sun", "an old tree falls"]
    model, tokenizer = decoder.load_decoder(folder, head=False)
    make_bidirectional(model)
    features = templates.tokenize(
        texts, tokenizer, templates.Pieces(tokenizer, "inst", "Match"), "llm2vec", 128
    )
    with torch.no_grad():
        ours = objectives.vectors_of(model, features).numpy()
    student = anatomy.as_encoder(folder, max_length=128)
    theirs = anchors.pooled(student, texts, prompt="Match")["mean"]
    assert ((ours * theirs).sum(1) > 0.999).all()  # bfloat16 products on their side


def test_a_folder_leaves_the_direction_of_attention_open(trained):
    folder = trained / "distill" / "model"
    texts = ["sun moon river", "sun moon stone"]
    for both in (False, True):
        student = anatomy.as_encoder(folder, bidirectional=both, max_length=128)
        features = student.preprocess(texts)
        ids = features["input_ids"]
        first = int((ids[0] != ids[1]).nonzero()[0])  # where the texts differ
        vectors = student[0](features)["token_embeddings"][:, :first]
        assert torch.allclose(vectors[0], vectors[1], atol=1e-6) != both


class Killed(Exception):
    """What stops a run in the middle."""


def test_a_stopped_run_ends_with_the_same_bits(text, tmp_path, monkeypatch):
    settings = Pretraining(**TINY)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretraining.pretrain(text, whole, settings, ["lm"], threads=2, tell=silent)
    monkeypatch.setattr(pretraining, "KEEP_SECONDS", -1.0)
    step = pretraining.Trainer.train_step

    def dies(self, share):
        if self.step == 2:
            raise Killed
        return step(self, share)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Trainer, "train_step", dies)
        with pytest.raises(Killed):
            pretraining.pretrain(text, stopped, settings, ["lm"], tell=silent)
    assert (stopped / "lm" / pretraining.STATE).is_file()
    told: list[str] = []
    pretraining.pretrain(text, stopped, settings, ["lm"], tell=told.append)
    assert "lm: going on after step 2" in told
    one, other = (
        (out / "lm" / "model" / "model.safetensors").read_bytes()
        for out in (whole, stopped)
    )
    assert one == other  # one thread or two, stopped or not


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(text, tmp_path):
    settings = Pretraining(**TINY)
    work = pretraining.prepare(text, tmp_path, settings, silent)
    model = decoder.new_decoder(settings, work.tokenizer)
    stage = STAGES["lm"]
    kept = pretraining.Trainer(stage, model, stage.lesson(work), settings, 1)
    kept.keep(tmp_path)
    other = Pretraining(**{**TINY, "learning_rate": 1e-4})
    kept.settings = other
    with pytest.raises(LabError, match="learning_rate"):
        kept.resume(tmp_path)
    path = tmp_path / pretraining.STATE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LabError, match="damaged"):
        kept.resume(tmp_path)


def test_minutes_end_a_stage_early_and_let_the_rate_fall(text, tmp_path):
    settings = Pretraining(**{**TINY, "lm_steps": 10_000})
    pretraining.pretrain(text, tmp_path, settings, ["lm:0.01"], tell=silent)
    card = json.loads((tmp_path / "lm" / "stage.json").read_text())
    assert 1 <= card["steps"] < 10_000
    shares = [pretraining.rate_share(p / 10, 99, settings) for p in range(11)]
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(shares, reverse=True)


def test_missing_text_unknown_stage_and_small_text_are_told(text, tmp_path):
    with pytest.raises(LabError, match=r"simplewiki\.jsonl\.xz"):
        pretraining.pretrain(tmp_path, tmp_path / "o", Pretraining())
    with pytest.raises(LabError, match="did you mean 'mntp'"):
        pretraining.pretrain(text, tmp_path / "o", Pretraining(), ["mnpt"])
    with pytest.raises(LabError, match="above 0"):
        pretraining.pretrain(text, tmp_path / "o", Pretraining(), ["lm:-1"])
    with pytest.raises(LabError, match="above 0"):
        pretraining.pretrain(text, tmp_path / "o", Pretraining(), ["lm:long"])
    with pytest.raises(LabError, match="set vocabulary lower"):
        pretraining.pretrain(text, tmp_path / "o", Pretraining(), tell=silent)
    (tmp_path / "simplewiki.jsonl.xz").write_bytes(b"not xz")
    with pytest.raises(LabError, match="fetch it again"):
        corpora.read_pages(tmp_path)
    with pytest.raises(LabError, match="unknown setting"):
        resolve_pretraining(["hiden=3"])


def test_a_folder_of_another_tokenizer_or_shape_is_refused(text, trained):
    for name, value in (("vocabulary", 305), ("hidden", 64)):
        settings = Pretraining(**{**TINY, name: value})
        (trained / "distill" / "stage.json").rename(trained / "aside.json")
        try:
            with pytest.raises(LabError, match=f"{name}={value}"):
                pretraining.pretrain(text, trained, settings, ["distill"], tell=silent)
        finally:
            (trained / "aside.json").rename(trained / "distill" / "stage.json")


def test_packed_tokens_are_the_pages_and_none_is_in_both(text, trained):
    pages = corpora.read_pages(text)
    tokenizer = decoder.load_tokenizer(trained / "tokenizer")
    held_out = [page for page in pages if page.held_out]
    assert 0 < len(held_out) < len(pages) / 20
    tokens = corpora.packed(trained / "tokens", "validation")
    decoded = tokenizer.decode(tokens.tolist())
    assert decoded == "".join(f"<s>{page.whole()}</s>" for page in held_out)


def test_chat_template_is_mistral_instructs_and_what_instruct_trains(trained):
    tokenizer = decoder.load_tokenizer(trained / "tokenizer")
    turns = [
        {"role": "user", "content": "sun"},
        {"role": "assistant", "content": "moon"},
    ]
    written = tokenizer.apply_chat_template(turns, tokenize=False)
    assert written == "<s>[INST] sun [/INST] moon</s>"
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    lesson = pairs.Instruct.__new__(pairs.Instruct)
    lesson.tokenizer, lesson.settings = tokenizer, Pretraining(**TINY)
    asked, told = lesson._turns("sun", "moon")
    assert asked + told == ids
    assert tokenizer.decode(told).strip() == "moon</s>"


def test_masked_tokens_are_predicted_from_the_place_before():
    ids = torch.arange(10, 30).view(2, 10)
    real = torch.ones_like(ids)
    drawn = torch.Generator().manual_seed(0)
    inputs, labels = objectives.mask_tokens(ids, real, 0, 0.3, drawn)
    masked = inputs == 0
    assert masked.any()
    assert not masked[:, 0].any()
    assert (labels[masked] == ids[masked]).all()
    assert (labels[~masked] == objectives.IGNORED).all()

    class Echo(torch.nn.Module):
        """A model whose output at token i names token i + 1 of the given row."""

        def model(self, input_ids, attention_mask):
            following = ids.roll(-1, 1)
            hidden = torch.nn.functional.one_hot(following, 64).float() * 50
            return type("Output", (), {"last_hidden_state": hidden})

        def lm_head(self, hidden):
            return hidden

    assert objectives.predict_next(Echo(), inputs, labels) < 1e-6


def test_first_weights_follow_from_the_seed(trained):
    tokenizer = decoder.load_tokenizer(trained / "tokenizer")
    one, two, other = (
        decoder.new_decoder(Pretraining(**{**TINY, "seed": seed}), tokenizer)
        for seed in (0, 0, 1)
    )
    states = [m.state_dict()["lm_head.weight"] for m in (one, two, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    with pytest.raises(LabError, match="divide"):
        decoder.config_of(Pretraining(**{**TINY, "heads": 5}), tokenizer)


def test_buckets_deal_every_text_once_an_epoch():
    draw = np.random.default_rng(0)
    lengths = draw.integers(4, 60, 500)
    groups = draw.integers(0, 2, 500)
    deal = lessons.Buckets(lengths, 256, seed=0, groups=groups)
    dealt = [deal(place) for place in range(deal.least)]
    every = np.sort(np.concatenate(dealt))
    assert len(every) == len(set(every)) >= 495  # a text alone has no negative
    for shard in dealt:
        assert lengths[shard].max() * len(shard) <= 256
        assert len(set(groups[shard])) == 1
    again = lessons.Buckets(lengths, 256, seed=0, groups=groups)
    later = deal.least + 3
    assert np.array_equal(again(later), deal(later))


def test_only_the_stages_that_may_change_the_token_embeddings_do(trained):
    tokenizer = decoder.load_tokenizer(trained / "tokenizer")
    before = decoder.new_decoder(Pretraining(**TINY), tokenizer).state_dict()
    before = {n: w.to(torch.bfloat16).float() for n, w in before.items()}
    for name, stage in STAGES.items():
        after = decoder.load_decoder(trained / name / "model")[0].state_dict()
        shared = [n for n in before if n != "lm_head.weight" or stage.head]
        changed = {n for n in shared if not torch.equal(before[n], after[n])}
        learns = "model.embed_tokens.weight" in changed
        assert learns == (stage.embeddings != "frozen"), name
        assert (changed == {"model.embed_tokens.weight"}) == (name == "words")
        before = after


def test_a_language_model_becomes_an_encoder_that_is_a_bag_of_its_tokens(trained):
    model, tokenizer = decoder.load_decoder(trained / "mntp" / "model", head=False)
    settings = Pretraining(**TINY)
    make_bidirectional(model)
    texts = ["the sun", "an old tree falls"]
    features = templates.tokenize(
        texts, tokenizer, templates.Pieces(tokenizer, "inst"), "text", 128
    )
    bags = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    starts = torch.tensor([0, len(bags[0])])
    with torch.no_grad():
        before = objectives.vectors_of(model, features)
        decoder.become_encoder(model, settings, 0.0)
        after = objectives.vectors_of(model, features)
        table = model.norm(model.embed_tokens.weight)
        wanted = objectives.bag_vectors(
            table, (torch.tensor([*bags[0], *bags[1]]), starts)
        )
    assert torch.allclose(after, wanted, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-2)
    assert (after[:, : settings.silent_axes] == 0).all()


def test_first_embeddings_weigh_frequent_and_special_tokens_less(trained):
    tokenizer = decoder.load_tokenizer(trained / "tokenizer")
    settings = Pretraining(**TINY)
    model = decoder.new_decoder(settings, tokenizer).model
    with torch.no_grad():
        heard = model.norm(model.embed_tokens.weight).norm(dim=-1)
    assert heard.argmax() == len(tokenizer) - 1
    assert (heard[tokenizer.all_special_ids] <= heard.min() * 1.001).all()
    rms = model.embed_tokens.weight.pow(2).mean(-1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), atol=1e-4)
    with pytest.raises(LabError, match="silent_axes"):
        decoder.new_decoder(Pretraining(**{**TINY, "silent_axes": 32}), tokenizer)


def test_bags_of_tokens_are_means_and_equal_texts_no_negatives():
    table = torch.eye(4)
    one = (torch.tensor([0, 0, 1]), torch.tensor([0, 2]))  # texts (0, 0) and (1)
    found = objectives.bag_vectors(table, one)
    assert torch.allclose(found, table[:2])
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert objectives.contrast(found, found, none, 0.05) < 1e-6
    assert objectives.contrast(found, found.flip(0), none, 0.05) > 10
    same = pairs.same_texts(["a", "a", "b"], ["x", "y", "y"])
    assert same.tolist() == [
        [False, True, False], [True, False, True], [False, True, False]
    ]  # fmt: skip
    chain = pairs.same_texts(["a", "b"], ["b", "c"])  # a passage as both sides
    assert chain.tolist() == [[False, False], [True, False]]


def test_clusters_deal_near_texts_together_and_every_text_once():
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(8, 16))
    topic = np.repeat(np.arange(8), 60)
    vectors = topics[topic] + 0.1 * draw.normal(size=(480, 16))
    lengths = draw.integers(10, 20, 480)
    lengths[:24] = 60  # long ones stand alone, so that the others are not padded
    deal = distillation.Clusters(vectors.astype(np.float32), lengths, 400, seed=0)
    dealt = [deal(place) for place in range(deal.least)]
    every = np.sort(np.concatenate(dealt))
    assert len(every) == len(set(every)) == 480
    for shard in dealt:
        assert lengths[shard].max() * len(shard) <= 400 or len(shard) < 4
        assert len(set(lengths[shard] == 60)) == 1
    alike = np.mean([len(set(topic[shard])) == 1 for shard in dealt])
    assert alike > 0.7  # at random it would be none
    again = distillation.Clusters(vectors.astype(np.float32), lengths, 400, seed=0)
    later = deal.least + 1
    assert np.array_equal(again(later), deal(later))
    assert {tuple(s) for s in dealt} != {tuple(deal(p + deal.least)) for p in range(9)}


def test_distillation_is_zero_for_the_teacher_itself():
    draw = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(8, 16, generator=draw), dim=-1)
    assert abs(float(objectives.distil(vectors, vectors, 0.05))) < 1e-5
    assert objectives.distil(vectors.roll(1, 0), vectors, 0.05) > 0.5


def test_principal_axes_keep_cosines():
    draw = torch.Generator().manual_seed(0)
    low = torch.randn(200, 5, generator=draw) @ torch.randn(5, 20, generator=draw)
    axes = decoder.principal_axes(low, 5)
    assert torch.allclose(axes.T @ axes, torch.eye(5), atol=1e-5)
    assert torch.allclose((low @ axes) @ (low @ axes).T, low @ low.T, atol=1e-3)


def test_n_grams_are_probabilities_and_find_a_pattern():
    tokens = np.tile([0, 1, 2, 3], 200)
    model = NGrams(tokens, vocabulary=6)
    contexts = np.array(
        [[a, b, c] for a in range(6) for b in range(6) for c in range(6)]
    )
    chances = np.exp(model.log_probabilities(contexts)).reshape(36, 6)
    assert np.allclose(chances.sum(1), 1)
    assert chances.min() > 0
    assert np.exp(model.log_probabilities(np.array([[0, 1, 2]])))[0, 0] > 0.99
    with pytest.raises(LabError, match="63 bits"):
        NGrams(tokens, vocabulary=2**22)


def test_losses_and_sinks_of_a_folder(trained, text):
    model, tokenizer = decoder.load_decoder(trained / "instruct" / "model")
    train, held = (
        corpora.packed(trained / "tokens", n) for n in ("train", "validation")
    )
    table = anatomy.losses(model, train, held, 32, 20).set_index("model")
    assert table.loss["trigram"] < table.loss["unigram"]
    assert (table.low <= table.loss).all()
    assert anatomy.sample(model, tokenizer, "sun", 5).startswith("sun")
    found = anatomy.sinks(
        trained / "instruct" / "model", ["The old tree.", "A bird, a house."],
        bidirectional=False,
    )  # fmt: skip
    assert set(found["layer"]) == {1, 2}
    assert {"first token", "last token", "word"} <= set(found["class"])


def test_retrieval_scores_by_pooling(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIFACT", str(tmp_path))
    with pytest.raises(LabError, match="BEIR"):
        bench_decoder.scifact()
    texts = {str(i): f"{word} of the {word}" for i, word in enumerate(WORDS)}
    data = anatomy.Collection("made", texts, texts, {i: {i: 1} for i in texts})
    scores = anatomy.retrieval(
        trained / "distill" / "model", data, bidirectional=True, max_length=128
    )
    assert {"last", "mean", "ata"} <= set(scores)
    table = anatomy.against(scores, "mean").set_index("kind")
    assert table.difference["mean"] == 0
    assert table.score.between(0, 1).all()


@pytest.fixture
def small_set(monkeypatch):
    """A retrieval set of thirteen texts in place of the held-out tasks."""
    monkeypatch.delenv("SCIFACT", raising=False)
    texts = {
        str(i): f"{a} {b} road"
        for i, (a, b) in enumerate(zip(WORDS, WORDS[3:], strict=False))
    }
    data = anatomy.Collection(
        "held-out-tasks", texts, texts, {i: {i: 1} for i in texts}
    )
    monkeypatch.setattr(bench_decoder, "held_out", lambda: data)
    monkeypatch.setattr(bench_decoder, "ROWS", 8)


def test_what_is_shipped_says_what_was_done(trained, tmp_path, small_set):
    tables = bench_decoder.measure(trained)
    folder = shipping.ship(trained, tmp_path / "made", tables)
    card = (folder / "README.md").read_text()
    corpus = json.loads((trained / "tokens" / "corpus.json").read_text())
    kept = records.read_table(folder / "retrieval.csv")
    score = kept[(kept.stage == "neighbours") & (kept.kind == "mean both ways")]
    for wanted in (
        corpus["sources"]["simplewiki.jsonl.xz"],
        "CC BY-SA 3.0",
        "Wikipedia contributors",
        records.sha256(folder / "model.safetensors"),
        f"{json.loads((trained / 'lm/stage.json').read_text())['tokens']:,}",
        f"| neighbours | mean both ways | {float(score['score'].iloc[0]):.3f} |",
        " --set hidden=32",
    ):
        assert wanted in card.replace("| held-out-tasks | ", "| "), wanted
    assert "OpenStax" not in card  # it was not read
    curve = records.read_table(folder / "curve.csv")
    assert list(curve["stage"].unique()) == list(STAGES)
    model, _ = decoder.load_decoder(folder, head=False)
    assert model.config.num_key_value_heads == 2
    shipping.ship(trained, folder, tables, model=False)
    assert not (folder / "model.safetensors").exists()
    assert "not beside this card" in (folder / "README.md").read_text()
    assert (folder / "sinks.csv").is_file()


def test_nothing_is_shipped_over_other_files_or_without_a_stage(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(LabError, match="other files"):
        shipping.ship(trained, tmp_path, {})
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(LabError, match="run the pretraining first"):
        shipping.ship(tmp_path, tmp_path / "none", {})


def test_the_suite_measures_every_stage(trained, small_set, capsys):
    rows = bench.bench("decoder", str(trained))
    named = {row["name"]: row for row in rows}
    assert named["loss, trigram of tokens all"]["peer"] > 0
    assert "lm, layer 2, first token" in named
    score = named["held-out-tasks, neighbours, ata causal"]
    assert 0 <= score["value"] <= 1
    assert score["peer"] == named["held-out-tasks, MiniLM, as published"]["value"]
    assert {f"held-out-tasks, {s}, mean causal" in named for s in ("words", "lm")} == {
        True
    }
    assert "SCIFACT is not set" in capsys.readouterr().err
    with pytest.raises(LabError, match="python -m nbutils pretrain"):
        bench.bench("decoder", str(trained / "tokens"))


def test_a_run_that_ended_early_is_measured_too(trained, tmp_path, small_set):
    shutil.copytree(trained / "words", tmp_path / "words")
    found = bench_decoder.measure(tmp_path)
    assert set(found) == {"sinks", "retrieval"}
    assert set(found["sinks"]["stage"]) == {"words"}


def test_every_tensor_of_a_shard_goes_to_the_device(text, trained):
    settings = Pretraining(**TINY)
    work = pretraining.prepare(text, trained, settings, silent)

    def devices(value) -> set[str]:
        if isinstance(value, torch.Tensor):
            return {value.device.type}
        parts = value.values() if isinstance(value, dict) else value
        return set().union(*map(devices, parts))

    for stage in STAGES.values():
        shard = stage.lesson(work).shard(0, 0)
        assert devices(shard) == {"cpu"}
        assert devices(trainer.moved(shard, "meta")) == {"meta"}, stage.name


def test_only_the_step_from_language_model_to_encoder_empties_the_writes(text, trained):
    settings = Pretraining(**TINY)
    work = pretraining.prepare(text, trained, settings, silent)

    def writes(stage: str) -> float:
        model, _ = pretraining.first_model(STAGES[stage], trained, work)
        named = model.named_parameters()
        return sum(
            float(weight.detach().abs().sum())
            for name, weight in named
            if name.endswith(decoder.WRITES)
        )

    found = {stage: writes(stage) for stage in STAGES}
    assert [stage for stage, total in found.items() if total == 0] == ["contrast"]


def test_queries_of_one_task_are_one_unit_of_an_interval():
    task = np.repeat(np.arange(8), 6)
    gain = np.random.default_rng(0).normal(size=8)[task]  # a task's queries are alike
    width = {}
    for kind in ("mgh", "item"):
        names = [f"family/{kind}/{t}/{n}" for n, t in enumerate(task)]
        scores = {name: pd.Series(value, names) for name, value in
                  (("base", np.zeros(48)), ("other", gain))}  # fmt: skip
        row = anatomy.against(scores, "base").set_index("kind").loc["other"]
        width[kind] = row["high"] - row["low"]
    assert width["mgh"] > 1.8 * width["item"]  # about the root of six
