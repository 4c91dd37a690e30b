"""What every augmentation method promises, and what each one does."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.errors import ConfigError
from llama_factory.data.augment import AUGMENTATIONS, parse_methods
from llama_factory.data.augment.punctuation import Punctuation
from llama_factory.data.augment.random_deletion import RandomDeletion
from llama_factory.data.augment.random_insertion import RandomInsertion
from llama_factory.data.augment.random_swap import RandomSwap
from llama_factory.data.augment.synonym_replacement import SynonymReplacement
from llama_factory.data.augment.typo import Typo, neighbours

OFFLINE = sorted(set(AUGMENTATIONS.parts) - {"paraphrase"})
ENGLISH = "How do I quickly repair a large error in the tax form? Please explain it, step by step."
CHINESE = "请介绍一下北京的历史，并说明为什么这座城市非常重要。我应该如何学习？"
PROTECTED = (
    "看 https://example.com/a?b=1 和 {{name}}，<image> 运行 `pip install x`，花费 3.14 元 at 10:30."
)
KEPT_SPANS = (
    "https://example.com/a?b=1",
    "{{name}}",
    "<image>",
    "`pip install x`",
    "3.14",
    "10:30",
)


def changed(name, text, *, seed=0, **settings):
    return AUGMENTATIONS.parse({"type": name, **settings}).change(text, Random(seed))


def words(text):
    return re.findall(r"\w+", text.lower())


def test_the_methods_are_those_of_the_documentation():
    assert sorted(AUGMENTATIONS.parts) == [
        "paraphrase",
        "punctuation",
        "random_deletion",
        "random_insertion",
        "random_swap",
        "synonym_replacement",
        "typo",
    ]


@pytest.mark.parametrize("name", AUGMENTATIONS.parts)
def test_the_help_of_the_rate_explains_higher_and_lower(name):
    told = AUGMENTATIONS.parts[name].model_fields["rate"].description
    assert "igher" in told


@pytest.mark.variants
@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("name", OFFLINE)
def test_each_method_changes_english_and_chinese(name, text):
    assert changed(name, text) != text


@pytest.mark.variants
@pytest.mark.parametrize("name", OFFLINE)
@given(text=st.text(), seed=st.integers(0, 9))
def test_rate_zero_is_the_identity(name, text, seed):
    assert changed(name, text, seed=seed, rate=0) == text


@pytest.mark.variants
@pytest.mark.parametrize("name", OFFLINE)
@given(
    text=st.one_of(st.text(), st.text("，。！？,.!? 不中国 ab'’-\n<>{}`", min_size=1)),
    rate=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_a_text_never_becomes_empty(name, text, rate, seed):
    result = changed(name, text, seed=seed, rate=rate)
    assert bool(result.strip()) == bool(text.strip())
    assert result == changed(name, text, seed=seed, rate=rate)


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("text", ["", " \n", "？", "7", "Hi", "你好", "I", "不"])
def test_little_texts_stay_texts(name, text):
    result = changed(name, text, rate=1.0)
    assert bool(result.strip()) == bool(text.strip())


@pytest.mark.parametrize("name", OFFLINE)
def test_addresses_code_placeholders_and_numbers_stay(name):
    for seed in range(20):
        result = changed(name, PROTECTED, seed=seed, rate=1.0)
        for span in KEPT_SPANS:
            assert span in result


@pytest.mark.parametrize("name", OFFLINE)
def test_a_higher_rate_changes_more(name):
    text = f"{ENGLISH} {CHINESE} " * 3

    def distance(rate):
        result = changed(name, text, rate=rate)
        before, after = Counter(text.split()), Counter(result.split())
        return (before - after).total()

    assert distance(0.05) < distance(1.0)


@pytest.mark.parametrize("name", OFFLINE)
def test_other_seeds_change_otherwise(name):
    assert len({changed(name, ENGLISH, seed=seed) for seed in range(20)}) > 1


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="rate"):
        Typo(rate=rate)


def test_synonyms_keep_the_case_and_the_article():
    method = SynonymReplacement(rate=1.0)
    results = [method.change("LARGE Error, a large error", Random(i)) for i in range(20)]
    for result in results:
        assert re.fullmatch(r"[A-Z]+ [A-Z][a-z]+, a(n)? \w+ \w+", result)
        article, word = result.split(", ")[1].split()[:2]
        assert (article == "an") == (word[0] in "aeiou")


def test_only_whole_words_have_synonyms(tmp_path):
    (tmp_path / "s.txt").write_text("cat, feline\n猫，猫咪\n")
    method = SynonymReplacement(rate=1.0, synonyms=tmp_path / "s.txt")
    assert method.change("cat category 我喜欢猫", Random(0)) == "feline category 我喜欢猫咪"
    assert method.change("category", Random(0)) == "category"


def test_a_swap_keeps_the_words():
    for seed in range(10):
        result = RandomSwap(rate=0.5).change(ENGLISH, Random(seed))
        assert sorted(words(result)) == sorted(words(ENGLISH))
        assert "".join(sorted(RandomSwap(rate=0.5).change(CHINESE, Random(seed)))) == "".join(
            sorted(CHINESE)
        )


def test_a_deletion_leaves_words_out_and_adds_none():
    result = words(RandomDeletion(rate=0.3).change(ENGLISH, Random(0)))
    assert not Counter(result) - Counter(words(ENGLISH))
    assert len(result) == 18 - 5


@pytest.mark.parametrize("text", ["I do not like it", "我不喜欢这个", "Don't ever do that"])
def test_a_negation_is_never_left_out(text):
    negation = re.search(r"not|不|Don't", text).group()
    for seed in range(20):
        assert negation in RandomDeletion(rate=1.0).change(text, Random(seed))


def test_an_insertion_keeps_all_words_in_order():
    result = iter(words(RandomInsertion(rate=0.3).change(ENGLISH, Random(0))))
    assert all(word in result for word in words(ENGLISH))


def test_an_insertion_repeats_a_word_where_none_has_a_synonym():
    assert RandomInsertion().change("xyzzy", Random(0)) == "xyzzy xyzzy"
    assert RandomInsertion().change("鼎", Random(0)) == "鼎鼎"


def test_keys_have_the_neighbours_of_a_keyboard():
    assert set(neighbours()["g"]) == set("ftyhvb")
    assert set(neighbours()["q"]) == set("wa")


def test_a_chinese_typo_sounds_the_same():
    from pypinyin import lazy_pinyin

    for seed in range(10):
        result = Typo(rate=0.3).change(CHINESE, Random(seed))
        assert len(result) == len(CHINESE)
        same = sum(a == b for a, b in zip(lazy_pinyin(result), lazy_pinyin(CHINESE), strict=True))
        assert same >= len(lazy_pinyin(CHINESE)) - 1  # words around may change a reading


def test_numerals_are_never_mistyped():
    for seed in range(20):
        result = Typo(rate=1.0).change("三百二十个苹果", Random(seed))
        assert result.startswith("三百二十")


def test_punctuation_noise_changes_marks_alone():
    for seed in range(20):
        result = Punctuation(rate=1.0).change(CHINESE, Random(seed))
        assert re.findall(r"\w", result) == re.findall(r"\w", CHINESE)


def test_marks_are_dropped_doubled_and_switched_in_width():
    results = {Punctuation(rate=1.0).change("你好，世界！", Random(seed)) for seed in range(200)}
    assert {"你好世界", "你好，，世界！！", "你好,世界!"} <= results


def test_methods_are_names_settings_or_themselves():
    assert parse_methods(["typo", {"type": "typo", "rate": 0.5}, Typo(rate=0.2)]) == (
        Typo(),
        Typo(rate=0.5),
        Typo(rate=0.2),
    )


def test_the_dictionary_goes_to_methods_without_one_of_their_own(tmp_path):
    given, own = tmp_path / "given.txt", tmp_path / "own.txt"
    for path in (given, own):
        path.write_text("big, large\n")
    asked = ["random_insertion", {"type": "synonym_replacement", "synonyms": own}, "typo"]
    assert parse_methods(asked, given) == (
        RandomInsertion(synonyms=given),
        SynonymReplacement(synonyms=own),
        Typo(),
    )


def test_one_method_instead_of_a_list_is_reported():
    with pytest.raises(ConfigError) as told:
        parse_methods({"type": "typo"})
    assert str(told.value) == 'methods must be a list, as in methods=[{"type": "typo"}].'


def test_a_paraphrase_without_its_endpoint_is_reported():
    with pytest.raises(ConfigError, match="paraphrase: base_url is '', model is '', writer is"):
        parse_methods(["paraphrase"])
