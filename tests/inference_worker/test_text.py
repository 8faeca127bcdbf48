from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inference_worker.text import TextAssembler

TEXTS = st.text(alphabet=st.sampled_from("abc é語🚲\u0301"), max_size=30)
STOPS = st.lists(st.text(alphabet=st.sampled_from("abcé語"), max_size=4), max_size=3)
CUTS = st.lists(st.integers(min_value=0, max_value=150), max_size=12)


def assemble(raw: bytes, cuts: list[int], stops: list[str]) -> tuple[list[str], str]:
    text = TextAssembler(stops)
    borders = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    shown = [text.feed(raw[a:b]) for a, b in pairwise(borders)]
    return [*shown, text.finish()], text.stopping_word


def naive(whole: str, stops: list[str]) -> tuple[str, str]:
    """Character by character: the text before the first stop string that is complete."""
    for end in range(1, len(whole) + 1):
        for stop in sorted(filter(None, stops), key=len, reverse=True):
            if whole[:end].endswith(stop):
                return whole[: end - len(stop)], stop
    return whole, ""


@given(TEXTS, CUTS, STOPS)
def test_any_cut_of_a_text_shows_what_the_whole_would_show(
    whole: str, cuts: list[int], stops: list[str]
) -> None:
    shown, stopping_word = assemble(whole.encode(), cuts, stops)
    assert ("".join(shown), stopping_word) == naive(whole, stops)


@given(st.binary(max_size=40), CUTS, STOPS)
def test_bytes_that_are_not_utf8_become_replacement_characters_however_they_are_cut(
    raw: bytes, cuts: list[int], stops: list[str]
) -> None:
    shown, _ = assemble(raw, cuts, stops)
    assert "".join(shown) == naive(raw.decode("utf-8", "replace"), stops)[0]
    assert all(piece.encode("utf-8").decode() == piece for piece in shown)


@given(TEXTS, CUTS, STOPS)
def test_what_was_shown_is_never_taken_back_and_never_holds_a_stop_string(
    whole: str, cuts: list[int], stops: list[str]
) -> None:
    shown, _ = assemble(whole.encode(), cuts, stops)
    assert whole.startswith("".join(shown))
    assert not any(stop in "".join(shown) for stop in stops if stop)


def test_half_a_code_point_waits_for_the_other_half() -> None:
    text = TextAssembler()
    assert [text.feed(byte.to_bytes()) for byte in "🚲".encode()] == ["", "", "", "🚲"]


def test_a_code_point_that_never_comes_whole_is_replaced_at_the_end() -> None:
    text = TextAssembler()
    assert text.feed("a🚲".encode()[:3]) + text.finish() == "a\ufffd"


def test_the_beginning_of_a_stop_string_is_shown_once_it_turns_out_to_be_none() -> None:
    text = TextAssembler(["END"])
    assert [text.feed(b"an E"), text.feed(b"N"), text.feed(b"T")] == ["an ", "", "ENT"]


def test_nothing_is_shown_after_a_stop_string() -> None:
    text = TextAssembler(["b"])
    assert [text.feed(b"abc"), text.feed(b"d"), text.finish()] == ["a", "", ""]
    assert text.stopping_word == "b"


def block(whole: str, indent: int) -> tuple[str, bool]:
    """Line by line: the text before the first line but the first that goes on too early."""
    shown = ""
    for number, line in enumerate(whole.splitlines(keepends=True)):
        blanks = line[: len(line) - len(line.lstrip(" \t"))]
        if number and len(blanks) < indent and blanks != line:
            return shown + blanks, True
        shown += line
    return shown, False


@given(st.text(alphabet=st.sampled_from("a \t\n\u00e9"), max_size=30), CUTS, st.integers(0, 3))
def test_a_text_ends_at_a_line_that_is_not_indented_enough(
    whole: str, cuts: list[int], indent: int
) -> None:
    raw, text = whole.encode(), TextAssembler(indent=indent)
    borders = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    shown = "".join(text.feed(raw[a:b]) for a, b in pairwise(borders)) + text.finish()
    assert (shown, text.is_dedented) == block(whole, indent)


def test_what_comes_first_ends_a_text_a_stop_string_or_a_line() -> None:
    for stop, shown, word in (("b\n", "a\n ", "b\n"), ("b\nc", "a\n ", "b\nc"), ("cd", None, "")):
        text = TextAssembler([stop], indent=1)
        told = "".join(text.feed(piece) for piece in (b"a\n ", b"b", b"\nc", b"d")) + text.finish()
        assert (told, text.stopping_word) == (shown or "a\n b\n", word)
        assert text.is_dedented is (shown is None)
