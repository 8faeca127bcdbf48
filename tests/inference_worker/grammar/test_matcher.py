import pytest

from inference_worker.grammar.gbnf import GrammarInvalid, read
from inference_worker.grammar.matcher import STACKS_MAX, Matcher


def check(grammar: str) -> None:
    Matcher(read(grammar)).check()


DOUBLES = 'a ::= [ -z] a "y" | "k" a "z" | "."'


@pytest.mark.parametrize(
    "grammar",
    [
        f"root ::= a\n{DOUBLES}",
        f'root ::= "{"q" * 1000}" a\n{DOUBLES}',
        "root ::= " + " | ".join(f'"{n}"' for n in range(STACKS_MAX + 1)),
    ],
    ids=["at once", "behind much else", "by alternatives"],
)
def test_what_can_be_read_in_too_many_ways_is_refused(grammar: str) -> None:
    with pytest.raises(GrammarInvalid, match="too ambiguous"):
        check(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= (expr "=" [0-9]+ "\\n")+\nexpr ::= term ([-+*/] term)*\n'
        'term ::= [a-z]+ | [0-9]+ | "(" expr ")"',
        "root ::= [a-z]{1,1999}",
        'root ::= "(" root ")" | "[" root "]" | ""',
        'root ::= ("a" | "aa" | "ab")* "c"',
    ],
)
def test_grammars_that_people_write_are_not(grammar: str) -> None:
    check(grammar)


def test_it_tells_what_may_begin_an_answer() -> None:
    matcher = Matcher(read('root ::= "<tool>" [a-z]* "</tool>"'))
    assert matcher.is_begun_by("")
    assert matcher.is_begun_by("<tool>ab</to")
    assert not matcher.is_begun_by("<tool>1")
