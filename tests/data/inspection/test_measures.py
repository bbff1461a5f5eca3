"""Lengths, packing, copies and leaks."""

from hypothesis import given
from hypothesis import strategies as st

from data.formats import Chat, Preference, Prompt, Text
from data.inspection.measures import characters, contradictions, duplicates, lengths_of, packing_of, prompt_key, shares, whole_key
from tests.data.test_verdicts import pair, turns

SIZES = st.lists(st.integers(0, 5_000), max_size=60)


@given(SIZES)
def test_the_bins_of_a_histogram_hold_every_sequence_once_and_touch_without_overlap(sizes: list[int]):
    found = lengths_of(sizes, "tokens")
    assert sum(bin.count for bin in found.bins) == len(sizes) == found.count
    for bin in found.bins:
        assert bin.count == sum(bin.low <= size <= bin.high for size in sizes)
    assert all(after.low == before.high + 1 for before, after in zip(found.bins, found.bins[1:], strict=False))
    assert len(found.bins) <= 14


@given(SIZES.filter(bool))
def test_the_summary_of_lengths_is_ordered_and_the_median_is_one_of_them(sizes: list[int]):
    found = lengths_of(sizes, "tokens")
    assert found.shortest <= found.median <= found.p90 <= found.p99 <= found.longest == max(sizes)
    assert found.median in sizes
    assert found.total == sum(sizes)


def test_a_long_tail_shares_the_last_bin():
    found = lengths_of([10] * 990 + [12] * 9 + [9_000], "tokens")
    assert found.bins[-1].high == 9_000
    assert found.bins[0].high < 20


def test_packing_efficiency_is_what_the_rows_hold_of_their_room():
    found = packing_of([6, 4, 5, 5], 10, cuts=False)
    assert (found.rows, found.efficiency) == (2, 1.0)
    assert found.padding == 1 - 20 / (4 * 6)


def test_long_documents_are_cut_and_long_chats_take_no_part():
    assert packing_of([25], 10, cuts=True).rows == 3
    assert packing_of([25], 10, cuts=False).rows == 0


def test_records_that_differ_in_case_and_punctuation_alone_are_duplicates():
    assert duplicates([Text("Hello, there!"), Text("hello there"), Text("good bye")]) == 1
    assert duplicates([Chat(turns("Q", "A")), Chat(turns("Q", "B"))]) == 0
    assert duplicates([pair("A", "B"), pair("A", "C"), pair("a.", "b")]) == 1


def test_pairs_in_both_directions_contradict_one_another_and_identical_ones_do_not():
    assert contradictions([pair("A", "B"), pair("B", "A"), pair("A", "C"), pair("X", "X")]) == 2
    assert contradictions([pair("A", "B"), pair("B", "A", prompt="another")]) == 0


def test_the_prompt_of_a_chat_is_all_before_its_last_answer():
    assert prompt_key(Chat(turns("Q", "A", "R", "B"))) == prompt_key(Chat(turns("q", "a", "r!", "other")))
    assert prompt_key(Chat(turns("Q", "A"))) == prompt_key(Prompt(turns("Q"))) == prompt_key(Chat(turns("Q")))
    assert whole_key(Chat(turns("Q", "A"))) != whole_key(Chat(turns("Q", "B")))


def test_sizes_without_a_tokenizer_are_characters_of_what_is_said():
    assert characters(Text("abc")) == 3
    assert characters(Preference(turns("ab"), turns("c"), turns("defg"))) == 3
    assert characters(Prompt(turns("ab", "c"))) == 3


def test_shares_of_sources_add_up_with_weights_applied():
    assert shares([10, 10, 20], [0, 0, 1], [3.0, 1.0]) == [0.75, 0.25]
    assert shares([], [], [1.0]) == [0.0]
