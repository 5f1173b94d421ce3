"""Text formats in pieces, and which of their tokens are pooled."""

import pytest
from tokenizers.normalizers import Replace
from transformers import AutoTokenizer

from nbutils.core.errors import LabError
from nbutils.encoder import models, templates
from nbutils.encoder.templates import Pieces, tokenize

INSTRUCTION = "Find the law"


@pytest.fixture(scope="module")
def decoder():
    return models.tiny_tokenizer()


@pytest.fixture(scope="module")
def wordpiece():
    return AutoTokenizer.from_pretrained(models.minilm_folder())


def read(tokenizer, text_format, instruction="", rule="llm2vec", text="tax", room=64):
    """(whole text, pooled text) of one text as tokens read again."""
    pieces = Pieces(tokenizer, text_format, instruction)
    batch = tokenize([text, "a longer one"], tokenizer, pieces, rule, room)
    ids, pooled = batch["input_ids"][0], batch["pooling_mask"][0]
    real = batch["attention_mask"][0].bool()
    assert (pooled <= real).all()
    parts = (tokenizer.decode(ids[keep]) for keep in (real, pooled.bool()))
    return tuple("".join(part.split()) for part in parts)


def test_formats_read_as_the_papers_write_them(decoder):
    whole = {name: read(decoder, name, INSTRUCTION)[0] for name in templates.FORMATS}
    assert whole == {
        "plain": "<s>Findthelawtax",
        "chat": "<s><|im_start|>userFindthelawtax<|im_end|>",
        "e5": "<s>Instruct:FindthelawQuery:tax",
        "inst": "<s>[INST]Findthelaw;tax[/INST]",
    }
    assert read(decoder, "e5")[0] == "<s>tax"
    assert read(decoder, "inst")[0] == "<s>[INST]tax[/INST]"


@pytest.mark.parametrize(
    ("rule", "inst", "plain"),
    [
        ("llm2vec", "tax[/INST]", "<s>tax"),
        ("all", "<s>[INST]Findthelaw;tax[/INST]", "<s>tax"),
        ("text", "tax", "tax"),
    ],
)
def test_rules_pool_what_they_say(decoder, rule, inst, plain):
    assert read(decoder, "inst", INSTRUCTION, rule)[1] == inst
    assert read(decoder, "plain", "", rule)[1] == plain


def test_special_tokens_on_both_sides(wordpiece):
    assert read(wordpiece, "plain")[1] == "[CLS]tax[SEP]"
    assert read(wordpiece, "plain", rule="text")[1] == "tax"
    whole, pooled = read(wordpiece, "e5", INSTRUCTION)
    assert whole == "[CLS]instruct:findthelawquery:tax[SEP]"
    assert pooled == "tax[SEP]"


@pytest.mark.parametrize("text_format", templates.FORMATS)
def test_pieces_are_the_tokens_of_the_whole(wordpiece, text_format):
    """With a tokenizer that splits at spaces, piece by piece is the same ids."""
    text = "Bees dance, don't they?"
    pieces = Pieces(wordpiece, text_format, INSTRUCTION + " ")
    batch = tokenize([text], wordpiece, pieces, "all", 64)
    real = batch["attention_mask"][0].bool()
    whole = templates.FORMATS[text_format][0].format(
        instruction=INSTRUCTION + " ", text=text
    )
    assert batch["input_ids"][0][real].tolist() == wordpiece(whole)["input_ids"]


def test_a_long_text_keeps_its_template(decoder):
    whole, pooled = read(decoder, "inst", INSTRUCTION, text="word " * 99, room=32)
    assert whole.startswith("<s>[INST]Findthelaw;word")
    assert whole.endswith("[/INST]") and pooled.endswith("[/INST]")
    assert pooled.startswith("wordword") and "law" not in pooled


def test_both_padding_sides_hold_the_same_rows(decoder):
    pieces, texts = Pieces(decoder, "inst", INSTRUCTION), ["tax", "a much longer one"]
    right = tokenize(texts, decoder, pieces, "llm2vec", 64)
    decoder.padding_side = "left"
    try:
        left = tokenize(texts, decoder, pieces, "llm2vec", 64)
    finally:
        decoder.padding_side = "right"
    for row in range(2):
        keep = [b["attention_mask"][row].bool() for b in (right, left)]
        for name in right:
            assert right[name][row][keep[0]].equal(left[name][row][keep[1]])
    assert (left["attention_mask"][0, 0], right["attention_mask"][0, 0]) == (0, 1)


def test_an_instruction_that_fills_the_length_is_an_error(decoder):
    with pytest.raises(LabError, match=r"fills \d+ of 8 tokens"):
        tokenize(["a"], decoder, Pieces(decoder, "inst", INSTRUCTION), "all", 8)


def test_pieces_that_do_not_add_up_are_refused():
    """A normalizer that changes text across the seam between two pieces."""
    tokenizer = models.tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("; t", "?")
    with pytest.raises(LabError, match="do not add up"):
        Pieces(tokenizer, "inst", INSTRUCTION)
    Pieces(tokenizer, "e5", INSTRUCTION)  # has no such seam
