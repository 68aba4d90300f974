#!/usr/bin/env python3
"""Makes tests/golden/tokenizer: strings, small tokenizers, and the ids others give the strings.

  make_tokenizer_golden.py WORK tests/golden/tokenizer --tiny models/tiny [--gguf GEMMA.gguf]

WORK is the folder of tools/train_tiny.py (step `text`). The oracles are the `tokenizers` package,
and for the vocabulary of a Gemma 3 GGUF file `sentencepiece`. Formats: tests/golden/README.md.

Needs tokenizers, numpy, xxhash; with --gguf also gguf, sentencepiece, protobuf.
"""

import argparse
import json
import random
import struct
import unicodedata
from pathlib import Path

import xxhash
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from train_tiny import chapters

STRINGS, INVALID = 10_000, 500
FULL = 500  # ids in full; the rest as hashes
GGUF_FULL = 200
SPACE = "\u2581"  # what SentencePiece writes for a space

# fmt: off
WORDS = """the quick brown fox jumps over lazy dog and in of to a I you we it's don't we'll they've
I'm he'd you're LORD saith unto behold KV-cache tensor pipeline naïve café Zürich façade Straße
résumé coöperate Ångström œuvre e.g. i.e. U.S.A. 3.14 1,000,000 x86_64 C++20 GPT-2 foo_bar fooBar
HTTP/1.1 user@example.org https://example.org/a?b=c&d=e#f 50% $9.99 €5 £3 #tag @name ~/.bashrc
--flag -v""".split()
CODE = [
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\n",
    "if __name__ == \"__main__\":\n\tmain()\n", "SELECT * FROM t WHERE a >= 10 AND b != 'x';",
    "#include <vector>\r\n\r\nint main() {\r\n\treturn 0;\r\n}\r\n",
    "{\"a\": [1, 2.5e-3, null, true]}",
    "std::unordered_map<std::string, std::vector<int64_t>> m;", "<div class=\"x\">&nbsp;</div>\n",
    "x = y if z else -1;;  //TODO:fix\n\n\n", "\\frac{a}{b} \\cdot \\sum_{i=0}^{n} x_i",
    "a<-b->c=>d<=e", "$ grep -rn 'foo' . | awk '{print $1}' > out.txt 2>&1",
    "@@ -1,3 +1,4 @@\n-old\n+new\n \n",
]
SCRIPTS = [  # first and last code point of letters in use
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA),
    (0x620, 0x64A), (0x904, 0x939), (0xE01, 0xE30), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FBF), (0xAC00, 0xD7A3), (0x1E00, 0x1EFF),
    (0xFF21, 0xFF5A), (0x10400, 0x1044F), (0x1D400, 0x1D454), (0x20000, 0x2A6D6),
    (0x30000, 0x3134A),
]
SPACES = [" ", " ", " ", "\t", "\n", "\r", "\r\n", "\n\n", "\x0b", "\x0c", "\x85", "\xa0", "\u1680",
          "\u2002", "\u2009", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff"]
DIGITS = "0123456789" * 3 + "٠١٢٣۴۵०१२३²³¹¼½¾ⅧⅫ①②㉈〇一二三𝟘𝟙𝟚０１２"
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵🇫", "1️⃣", "❤️", "☺", "🧑🏿‍🚀", "🤷‍♀️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
         "👩🏻‍❤️‍💋‍👨🏾", "🫠", "\u200d", "\ufe0f", "🏽", "🦄"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'VE", "'m", "'M", "'ll",
                "'LL", "'lL", "'d", "'D", "'x", "’s", "’t", "''s", "'\u017f",
                "'", "\"'", "'sa", "'lla", "'ver", "' s"]
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<s>", "</s>", "<unk>"]
ODD = ["<0x41>", "<0x0A>", SPACE, SPACE * 2, "a" + SPACE + "b", "Ġ", "Ċ", "Ġthe", "<|", "|>",
       "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\x00", "a\x00b", "\x7f", "\x80",
       "\x9f", "\xad", "\u034f", "\u061c", "\u202e"]
# fmt: on


def known(code: int) -> bool:
    """Whether Unicode 14 knows the code point or no version ever will (planes 4 to 13).

    Regex engines of different age disagree on code points assigned in between."""
    if 0xD800 <= code <= 0xDFFF:
        return False
    return unicodedata.category(chr(code)) != "Cn" or 0x40000 <= code < 0xE0000


def any_character(rng: random.Random) -> str:
    while True:
        plane = rng.choice((0, 0, 0, 0, 1, 1, 2, 3, *range(4, 17)))
        code = plane * 0x10000 + rng.randrange(0x10000)
        if known(code):
            return chr(code)


def letter(rng: random.Random, script: tuple[int, int]) -> str:
    while True:
        code = rng.randint(*script)
        if known(code):
            return chr(code)


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 14))]
    return "".join(
        w + rng.choice((" ", " ", " ", " ", ", ", ". ", "  ", "; ", "\n")) for w in words
    )


def planes(rng):
    return "".join(any_character(rng) for _ in range(rng.randint(1, 16)))


def combining(rng):
    out = ""
    for _ in range(rng.randint(1, 8)):
        out += letter(rng, rng.choice(SCRIPTS[:6]))
        for _ in range(rng.randint(0, 4)):
            out += chr(
                rng.choice(
                    (
                        rng.randint(0x300, 0x36F),
                        rng.randint(0x1AB0, 0x1ABE),
                        rng.randint(0x20D0, 0x20F0),
                        0x93C,
                        0x94D,
                        0xE49,
                    )
                )
            )
    return out if rng.random() < 0.8 else unicodedata.normalize(rng.choice(("NFC", "NFD")), out)


def emoji(rng):
    return "".join(rng.choice(EMOJI + [" ", "a"]) for _ in range(rng.randint(1, 8)))


def whitespace(rng):
    out = ""
    for _ in range(rng.randint(1, 6)):
        out += rng.choice(SPACES) * rng.randint(1, 5) + rng.choice(("", "a", "The", ".", "9", "é"))
    return out


def digits(rng):
    return "".join(rng.choice(DIGITS + "  .,-a") for _ in range(rng.randint(1, 24)))


def run(rng):
    unit = rng.choice(
        (
            "a",
            " ",
            "\n",
            "\t",
            "=",
            "-",
            "0",
            "!",
            "é",
            "字",
            "😀",
            SPACE,
            "ab",
            "\x00",
            "\u0301",
            any_character(rng),
            letter(rng, rng.choice(SCRIPTS)),
        )
    )
    return rng.choice(("", "", "x ")) + unit * rng.randint(2, 150) + rng.choice(("", "", " y", "."))


def code(rng):
    return "".join(rng.choice(CODE) for _ in range(rng.randint(1, 2)))


def script(rng):
    out = ""
    for _ in range(rng.randint(1, 4)):
        chosen = rng.choice(SCRIPTS)
        out += "".join(letter(rng, chosen) for _ in range(rng.randint(1, 8)))
        out += rng.choice(("", " ", "、", "。", "、", "!", "٬", "·", "-"))
    return out


def control(rng):
    return "".join(
        chr(rng.choice((rng.randrange(32), rng.randint(127, 159), 97, 32)))
        for _ in range(rng.randint(1, 12))
    )


def contraction(rng):
    return "".join(
        rng.choice(("he", "HE", " it", "we ", "字", "9", "", "."))
        + rng.choice(CONTRACTIONS)
        + rng.choice(("", " ", "\n"))
        for _ in range(rng.randint(1, 5))
    )


def odd(rng):
    return "".join(rng.choice(ODD + ["a", " ", "the "]) for _ in range(rng.randint(1, 5)))


def special(rng):
    return "".join(rng.choice(SPECIALS + ["a", " ", "the", "\n"]) for _ in range(rng.randint(1, 6)))


KINDS = [
    (sentence, 20),
    (planes, 14),
    (combining, 7),
    (emoji, 7),
    (whitespace, 10),
    (digits, 7),
    (run, 6),
    (code, 4),
    (script, 11),
    (control, 5),
    (contraction, 7),
    (odd, 4),
    (special, 1),
]


def verse(rng, text):
    at = rng.randrange(len(text))
    return text[at : at + rng.randint(1, 80)]


def mixed(rng):
    kinds = [kind for kind, _ in KINDS[:-1]]
    return "".join(rng.choice(kinds)(rng) for _ in range(rng.randint(2, 3)))[:200]


def valid_strings(rng: random.Random, bible: str) -> list[str]:
    strings = [
        "",
        *(chr(c) for c in range(256)),
        "a" * 20_000,
        " " * 5_000,
        "字" * 2_000,
        "ab" * 2_500,
        "\n" * 2_000,
        "9" * 2_001,
        "=" * 2_000,
    ]
    kinds, weights = zip(*KINDS, (mixed, 8), (lambda rng: verse(rng, bible), 16))
    seen = set(strings)
    while len(strings) < STRINGS:
        made = rng.choices(kinds, weights)[0](rng)
        if made not in seen:
            seen.add(made)
            strings.append(made)
    rng.shuffle(strings)
    return strings


def invalid_strings(rng: random.Random) -> list[bytes]:
    """Valid text with bytes flipped, cut or inserted, and the classic ill-formed sequences."""
    # fmt: off
    classic = [b"\x80", b"\xff", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98",
               b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80",
               b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe2\x28\xa1",
               b"\xf0\x9f\x98a", b"\xf0\x28\x8c\xbc", b"\xfe\xfe\xff\xff"]
    # fmt: on
    out = [*classic, *(b"a" + c + b" b" for c in classic)]
    while len(out) < INVALID:
        data = bytearray(rng.choice((planes, script, emoji, sentence))(rng)[:40].encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            change = rng.randrange(4)
            if change == 0:
                data[at : at + 1] = bytes([rng.randrange(128, 256)])
            elif change == 1:
                data[at:at] = rng.choice(classic)
            elif change == 2:
                del data[at:]
            else:
                del data[at : at + 1]
        made = bytes(data)
        if made not in out and made.decode("utf-8", "replace").encode() != made:
            out.append(made)
    return out


def save_compactly(tokenizer: Tokenizer, path: Path) -> None:
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
    assert Tokenizer.from_file(str(path)).to_str() == tokenizer.to_str()


def train_gpt2(texts: list[str], path: Path) -> None:
    """GPT-2: the byte-level pre-tokenizer with its own expression, no Split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1500,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    save_compactly(tokenizer, path)


def train_llama2(texts: list[str], path: Path) -> None:
    """Llama 2 and Mistral: SentencePiece BPE as their tokenizer.json expresses it."""
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    # Only while training, as SentencePiece does: no piece reaches over a space, but a run of
    # spaces may become one.
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}*[^{SPACE}]+|{SPACE}+"), "isolated")
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1100, limit_alphabet=300, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        *sorted(model["vocab"], key=model["vocab"].get),
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[tuple(m) for m in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    assert tokenizer.token_to_id("</s>") == 2 and tokenizer.get_vocab_size() == len(pieces)
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    save_compactly(tokenizer, path)


def write_ids(path: Path, ids: list[list[int]], decoded: list[str], full: int) -> None:
    out = bytearray(struct.pack("<II", len(ids), full))
    for row, text in zip(ids, decoded):
        packed = struct.pack(f"<{len(row)}i", *row)
        out += struct.pack(
            "<QI",
            xxhash.xxh64_intdigest(packed),
            xxhash.xxh64_intdigest(text.encode()) & 0xFFFFFFFF,
        )
    for row in ids[:full]:
        out += struct.pack(f"<I{len(row)}i", len(row), *row)
    path.write_bytes(out)


def answer(tokenizer: Tokenizer, texts: list[str], path: Path, name: str) -> None:
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    decoded = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
    write_ids(path, ids, decoded, FULL)
    same = sum(a == b for a, b in zip(texts, decoded))
    used = len(set().union(*ids))
    print(
        f"{name}: {sum(map(len, ids))} tokens, {used} of {tokenizer.get_vocab_size()} ids occur, "
        f"{same} of {len(texts)} strings come back unchanged"
    )


def gguf_processor(path: Path):
    """The SentencePiece model whose pieces, scores and types a GGUF file carries."""
    import sentencepiece
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2 as proto

    fields = GGUFReader(path).fields
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    assert value("model") == "llama"
    model = proto.ModelProto()
    for piece, score, kind in zip(value("tokens"), value("scores"), value("token_type")):
        # The converter to GGUF writes user-defined pieces with plain spaces, all others with marks.
        if kind == proto.ModelProto.SentencePiece.USER_DEFINED:
            piece = piece.replace(" ", SPACE)
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = True
    for name, key in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        at = value(key + "_token_id")
        setattr(model.trainer_spec, name + "_id", at)
        setattr(model.trainer_spec, name + "_piece", model.pieces[at].piece)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(
        value("add_space_prefix") if "tokenizer.ggml.add_space_prefix" in fields else True
    )
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    assert not model.normalizer_spec.add_dummy_prefix, "Gemma adds no space in front"
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", type=Path, default=Path("models/tiny"))
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    bible = chapters(args.work)
    valid = valid_strings(rng, "".join(bible))
    data = [*(s.encode() for s in valid), *invalid_strings(rng)]
    assert {ord(c) >> 16 for s in valid for c in s} == set(range(17)), "all planes"
    (args.out / "strings.bin").write_bytes(
        struct.pack("<I", len(data)) + b"".join(struct.pack("<I", len(d)) + d for d in data)
    )
    texts = [d.decode("utf-8", "replace") for d in data]

    training = bible[:120] + [s for s in valid[:3000] if len(s) < 1000]
    train_gpt2(training, args.out / "gpt2.json")
    train_llama2(training, args.out / "llama2.json")
    for name, file in (
        ("tiny", args.tiny / "tokenizer.json"),
        ("gpt2", args.out / "gpt2.json"),
        ("llama2", args.out / "llama2.json"),
    ):
        answer(Tokenizer.from_file(str(file)), texts, args.out / f"{name}.ids", name)

    if args.gguf:
        processor = gguf_processor(args.gguf)
        ids = processor.encode(texts)
        decoded = processor.decode(ids)
        write_ids(args.out / "gemma3.ids", ids, decoded, GGUF_FULL)
        same = sum(a == b for a, b in zip(texts, decoded))
        total = sum(map(len, ids))
        print(f"gemma3: {total} tokens, {same} of {len(texts)} strings come back unchanged")
    size = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"{args.out}: {size} bytes")
    assert size <= 1_600_000


if __name__ == "__main__":
    main()
