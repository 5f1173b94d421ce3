"""Text formats: the tokens of the joint text, and which of them are pooled."""

import pytest
from tokenizers import Tokenizer, decoders, normalizers, processors, trainers
from tokenizers import models as token_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nbutils.core.errors import LabError
from nbutils.core.settings import DATA
from nbutils.encoder import models, templates
from nbutils.encoder.templates import template_of, tokenize

INSTRUCTION = "Find the law"


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Mistral's kind: SentencePiece BPE with bytes, a space before every text."""
    tokenizer = Tokenizer(token_models.BPE(byte_fallback=True, fuse_unk=True))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(spaces)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, show_progress=False, max_token_length=8
    )
    texts = [path.read_text() for path in sorted((DATA / "prompts").glob("*.txt"))]
    tokenizer.train_from_iterator("\n".join(texts).splitlines(), trainer)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
    ])  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    named = {"unk_token": "<unk>", "bos_token": "<s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "bytes": models.tiny_tokenizer(),
        "wordpiece": AutoTokenizer.from_pretrained(models.minilm_folder()),
        "sentencepiece": mistral_tokenizer(),
    }


def read(tokenizer, text_format, instruction="", rule="llm2vec", text="tax", room=64):
    """(whole text, pooled text) of one text as tokens read again, without spaces."""
    batch = tokenize(
        [text, "a longer one"], tokenizer, text_format, instruction, rule, room
    )
    ids, pooled = batch["input_ids"][0], batch["pooling_mask"][0]
    real = batch["attention_mask"][0].bool()
    assert (pooled <= real).all()
    parts = (tokenizer.decode(ids[keep]) for keep in (real, pooled.bool()))
    return tuple("".join(part.split()) for part in parts)


def test_formats_read_as_the_papers_write_them(tokenizers):
    decoder = tokenizers["bytes"]
    whole = {name: read(decoder, name, INSTRUCTION)[0] for name in templates.FORMATS}
    assert whole == {
        "plain": "<s>Findthelawtax",
        "chat": "<s><|im_start|>userFindthelawtax<|im_end|>",
        "e5": "<s>Instruct:FindthelawQuery:tax",
        "inst": "<s>[INST]Findthelaw;tax[/INST]",
    }
    assert read(decoder, "e5")[0] == "<s>tax"
    assert read(decoder, "inst")[0] == "<s>[INST]tax[/INST]"
    assert read(decoder, "chat", INSTRUCTION, "text")[1] == "tax"  # not its new line


@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "sentencepiece"])
@pytest.mark.parametrize("text_format", templates.FORMATS)
@pytest.mark.parametrize("text", ["Bees dance, don't they?", "«Öl» 日本 5", "x", ""])
def test_the_tokens_are_those_of_the_joint_text(tokenizers, kind, text_format, text):
    tokenizer = tokenizers[kind]
    for asked in (INSTRUCTION, ""):
        template = template_of(text_format, asked)
        batch = tokenize([text], tokenizer, text_format, asked, "all", 200)
        real = batch["attention_mask"][0].bool()
        whole = template.format(instruction=asked, text=text)
        assert batch["input_ids"][0][real].tolist() == tokenizer(whole)["input_ids"]


@pytest.mark.parametrize(
    ("kind", "rule", "inst", "plain"),
    [
        ("bytes", "llm2vec", "tax[/INST]", "<s>tax"),
        ("bytes", "all", "<s>[INST]Findthelaw;tax[/INST]", "<s>tax"),
        ("bytes", "text", "tax", "tax"),
        ("sentencepiece", "llm2vec", "tax[/INST]", "<s>tax"),
        ("sentencepiece", "text", "tax", "tax"),
        ("wordpiece", "llm2vec", "tax[/inst][SEP]", "[CLS]tax[SEP]"),
        ("wordpiece", "text", "tax", "tax"),
    ],
)
def test_rules_pool_what_they_say(tokenizers, kind, rule, inst, plain):
    assert read(tokenizers[kind], "inst", INSTRUCTION, rule)[1] == inst
    assert read(tokenizers[kind], "plain", "", rule)[1] == plain


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_long_text_keeps_its_template(tokenizers, kind):
    given = {"text": "word " * 99, "room": 36}
    whole, pooled = read(tokenizers[kind], "inst", INSTRUCTION, **given)
    assert whole.startswith("<s>[INST]Findthelaw;word")
    assert whole.endswith("[/INST]") and pooled.endswith("[/INST]")
    assert pooled.startswith("word") and "law" not in pooled


def test_an_instruction_that_fills_the_length_is_an_error(tokenizers):
    with pytest.raises(LabError, match=r"fills \d+ of 8 tokens"):
        tokenize(["a"], tokenizers["bytes"], "inst", INSTRUCTION, "all", 8)


@pytest.mark.parametrize(
    ("text_format", "message"),
    [
        ("instt", "did you mean 'inst'"),
        ("{text} {text}", "exactly once"),
        ("ask: {instruction}", "exactly once"),
        ("ask: {text}", "no place for an instruction"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(text_format, message):
    with pytest.raises(LabError, match=message):
        template_of(text_format, INSTRUCTION)
