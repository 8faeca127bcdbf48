import pytest

from inference_worker.grammar.characters import Characters
from inference_worker.grammar.gbnf import ELEMENTS_MAX, GrammarInvalid, read
from inference_worker.grammar.matcher import EMPTY, Matcher

JSON = r"""
root   ::= object # a value, not any
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def is_read(grammar: str, text: str) -> bool:
    """Whether the whole text satisfies the grammar."""
    matcher = Matcher(read(grammar))
    stacks = matcher.start()
    for character in text:
        stacks = matcher.after(stacks, ord(character))
    return EMPTY in stacks


@pytest.mark.parametrize(
    ("body", "good", "bad"),
    [
        ('"a" "bc"', ["abc"], ["ab", "abcd", ""]),
        ('"a" | "b" |', ["a", "b", ""], ["ab"]),
        ('"ab"*', ["", "abab"], ["aba"]),
        ('"ab"{2} "c"?', ["abab", "ababc"], ["ab", "ababab"]),
        ("[a-c]{1,2}", ["a", "cb"], ["", "abc", "d"]),
        ("[a-c]{2,}", ["aa", "abcabc"], ["a"]),
        (r'[^a-c\]]+ "\n"', ["xyz\n"], ["b\n", "]\n"]),
        ('("a" | "b" "c"){2}', ["aa", "bca"], ["b"]),
        ('("a"\n | "b")', ["a", "b"], ["ab"]),
        (".", ["a", "é", "\n"], ["", "ab"]),
        (r'"\x41\u00e9\U0001F600\"\\"', ['Aé😀"\\'], ["A"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("", [""], ["a"]),
        ("[]", [""], ["a"]),
        ('"a"{0} "b"', ["b"], ["ab"]),
    ],
)
def test_a_grammar_means_what_it_means_to_llama_cpp(
    body: str, good: list[str], bad: list[str]
) -> None:
    grammar = f"root ::= {body}\n"
    assert [text for text in good if not is_read(grammar, text)] == []
    assert [text for text in bad if is_read(grammar, text)] == []


def test_the_json_grammar_of_llama_cpp_reads_json() -> None:
    assert is_read(JSON, '{"a": [1, -2.5e3, true, {"x":"\\u00e4"}]}')
    assert not is_read(JSON, '{"a": [1,,2]}')


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        ("", "no rule 'root'"),
        ('boot ::= "a"', "no rule 'root'"),
        ("root ::= b", "'b' is not defined"),
        ('root := "a"', "line 1: expected ::="),
        ('root ::= "a" )', "expected a new line"),
        ('root ::= ("a"', "expected )"),
        ('root ::= "a', "ends within"),
        ("root ::= [a", "ends within"),
        ('root ::= "\\q"', "unknown escape"),
        ('root ::= "\\x4"', "unknown escape"),
        ('root ::= * "a"', "a repetition of nothing"),
        ('root ::= "a"{x}', "expected a number"),
        ('root ::= "a"{1', "expected }"),
        ("root ::= <[5]>", "tokens cannot be named"),
        ('root ::= "a\0b"', "a character that is none"),
        # Some would end the process, some would let it compute for ever.
        ('root ::= "a"{5,2}', "from 5 to 2 times"),
        ('root ::= "a"{1,100000}', "2000 repetitions or more"),
        ('root ::= ("a"{1,100}){1,100}', "2000 repetitions or more"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a root "x" | "y"\na ::= b\nb ::= "" | "z"', "left recursion"),
        ('root ::= ("a"?)*', "what may be empty is repeated"),
        ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "over 64 groups"),
        (
            "root ::= r0\nr5000 ::= [x]\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(5000)),
            "over 4096 rules begin with one another",
        ),
        (
            "root ::= r0\nr30 ::= [x]\n"
            + "".join(f"r{n} ::= r{n + 1} | r{n + 1}\n" for n in range(30)),
            "in too many ways",
        ),
        (
            "root ::= " + " ".join('"abcdefghij"{1900}' for _ in range(4)),
            f"over {ELEMENTS_MAX} elements",
        ),
    ],
)
def test_what_llama_cpp_must_not_get_is_refused(grammar: str, told: str) -> None:
    with pytest.raises(GrammarInvalid, match=told.replace("(", r"\(").replace(")", r"\)")):
        read(grammar)


def test_a_grammar_that_never_ends_is_known() -> None:
    assert not read('root ::= "a" root').is_finite
    assert not read('root ::= "a" b\nb ::= "c" b | "d" root').is_finite
    assert read('root ::= "a" root | "b"').is_finite


@pytest.mark.parametrize(
    ("written", "example"),
    [
        ("[a-z]", "a"),
        ("[^a-z]", " "),
        ("[^ -~\\x7f-\\xff]", "\u0100"),
        ("[^ -\\U0010ffff]", "\0"),
        ("[^\\U00000000-\\U0010ffff]", None),
        ("[^\\U00000000-\\ud7ff\\ue000-\\U0010ffff]", None),
        ("[z-a]", None),
        ("[z-ab]", "b"),
        ("[\\ud800-\\udfff]", None),
        ("[\\ud800-\\ue001]", "\ue000"),
    ],
)
def test_a_class_of_no_characters_lets_no_answer_end(written: str, example: str | None) -> None:
    grammar = read(f"root ::= {written}")
    [[characters]] = grammar.rules[grammar.root]
    assert isinstance(characters, Characters)
    assert characters.example == (None if example is None else ord(example))
    assert grammar.is_finite is (example is not None)
    Matcher(grammar).check()
    assert read(f'root ::= {written} | "a"').is_finite


def test_characters_know_what_is_among_them() -> None:
    some = Characters(((97, 99), (120, 120)))
    assert [chr(one) for one in range(95, 125) if one in some] == ["a", "b", "c", "x"]
    assert 100 in Characters(some.ranges, is_negated=True)
