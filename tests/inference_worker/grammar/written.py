"""Texts that a grammar allows, as chance will have them."""

from random import Random

from inference_worker.grammar.characters import Characters
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import EMPTY, Matcher

CHARACTERS_MAX = 2000
QUOTE = ord('"')
ENDS = 0.3
"""How often a string or an answer ends where it may."""


def text_of(grammar: str, random: Random) -> str | None:
    """One that the grammar allows, None where chance does not come to an end."""
    matcher = Matcher(read(grammar))
    stacks, text = matcher.start(), ""
    while len(text) < CHARACTERS_MAX:
        expected = list(matcher.expected(stacks))
        if EMPTY in stacks and (not expected or random.random() < ENDS):
            return text
        quotes = [one for one in expected if one.ranges == ((QUOTE, QUOTE),)]
        chosen = random.choice(quotes if quotes and random.random() < ENDS else expected)
        character = _one_of(chosen, random)
        text += chr(character)
        stacks = matcher.after(stacks, character)
    return None


def _one_of(characters: Characters, random: Random) -> int:
    if characters.is_negated:
        return next(one for one in range(random.randrange(32, 127), 0x3000) if one in characters)
    low, high = random.choice(characters.ranges)
    return random.randint(low, min(high, low + random.choice((5, 100, 100_000))))
