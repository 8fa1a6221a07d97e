"""A text that a grammar makes from a seed: the same on every machine, and nobody's.

Invented words follow each other as in English: subjects and verbs agree in number, some words are
frequent and most are rare, and a paragraph keeps to a few nouns. So a model can learn spelling,
grammar, and, from what it has read, the topic.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SEED = 0
CHARACTERS = 300_000
CONSONANTS, VOWELS = "bdfgklmnprstvw", "aeiou"
NOUNS, VERBS, ADJECTIVES = 400, 150, 100
DETERMINERS = ("the", "a", "every"), ("the", "some", "all")  # before one, before many
PREPOSITIONS, CONJUNCTIONS = ("in", "under", "with", "near", "after"), ("and", "but", "because", "when")
TOPICS, SENTENCES = 6, 8  # nouns that a paragraph keeps to, and its sentences


class Grammar:
    """Random sentences."""

    def __init__(self, seed: int) -> None:
        # Of its methods only this one is promised to give the same numbers in all versions of Python.
        self._random = random.Random(seed).random
        words = dict.fromkeys(self._word() for _ in range(2000))
        every = list(words)[: NOUNS + VERBS + ADJECTIVES]
        self._nouns, self._verbs = every[:NOUNS], every[NOUNS : NOUNS + VERBS]
        self._adjectives = every[NOUNS + VERBS :]
        self._topics: list[str] = []

    def paragraph(self) -> str:
        """Sentences that share a few nouns."""
        self._topics = [self._frequent(self._nouns) for _ in range(TOPICS)]
        return " ".join(self._sentence() for _ in range(SENTENCES))

    def _sentence(self) -> str:
        text = self._clause()
        if self._random() < 0.4:
            text += f" {self._any(CONJUNCTIONS)} {self._clause()}"
        return text[0].upper() + text[1:] + "."

    def _clause(self) -> str:
        many = self._random() < 0.4
        verb = self._frequent(self._verbs) + ("" if many else "s")
        preposition = f"{self._any(PREPOSITIONS)} " if self._random() < 0.4 else ""
        return f"{self._phrase(many)} {verb} {preposition}{self._phrase(self._random() < 0.4)}"

    def _phrase(self, many: bool) -> str:
        adjective = f"{self._frequent(self._adjectives)} " if self._random() < 0.4 else ""
        noun = self._any(self._topics) if self._random() < 0.7 else self._frequent(self._nouns)
        return f"{self._any(DETERMINERS[many])} {adjective}{noun}{'s' if many else ''}"

    def _word(self) -> str:
        syllables = (
            self._any(CONSONANTS)
            + self._any(VOWELS)
            + (self._any("nrlk") if self._random() < 0.3 else "")
            for _ in range(1 + int(self._random() * 3))
        )
        return "".join(syllables)

    def _any(self, items: Sequence[str]) -> str:
        return items[int(self._random() * len(items))]

    def _frequent(self, items: Sequence[str]) -> str:
        """One of these, the first ones most often."""
        share = self._random()
        return items[int(share * share * share * len(items))]


def text(characters: int = CHARACTERS) -> str:
    """The first characters of the text."""
    grammar = Grammar(SEED)
    parts, length = [], 0
    while length < characters:
        parts.append(grammar.paragraph() + "\n")
        length += len(parts[-1])
    return "".join(parts)[:characters]
