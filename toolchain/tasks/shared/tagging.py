"""From files of tagged words to examples: CoNLL columns, lists of words and tags, and spans of characters in a text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.core import limits
from toolchain.core.registry import suggest
from toolchain.tasks.shared import parquet_file
from toolchain.tasks.shared.examples import text_problem
from toolchain.tasks.shared.reading import FORMATS, RowErrors, check_file, decode, read_table

#: Extensions of files with a word and its tag on each line, and a blank line between sentences.
COLUMNS = (".conll", ".bio", ".iob", ".iob2", ".txt")

#: A scheme's prefixes: what begins an entity, goes on, ends it, and is one of a single word.
SCHEMES = {"iob2": "BI", "iob1": "BI", "bilou": "BILU", "iobes": "BIES"}

OUTSIDE = "O"

#: Words of a text with spans: runs of letters and digits, and every other sign by itself.
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Tagged:
    """One text with a tag for each word.

    Attributes:
        text: The text.
        words: Where each word begins and ends in it, in characters.
        tags: Its tags, as many.
        places: Where each word stands in the file.
    """

    text: str
    words: Sequence[tuple[int, int]]
    tags: Sequence[str]
    places: Sequence[str]


@dataclass
class _Sentence:
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def read_columns(path: Path, encoding: str) -> list[Tagged]:
    """Return the sentences of a file with a word on each line, first column, and its tag, last column.

    Columns are separated by tabs, or else by white space. ``-DOCSTART-`` lines and comments (``# …``) are passed over.

    Raises:
        DataError: The file is missing, empty or of another encoding, or lines of it are broken.
    """
    check_file(path, (*FORMATS, *COLUMNS))
    errors, sentences, width, count = RowErrors(str(path)), [_Sentence()], 0, 0
    for number, line in enumerate(decode(path, encoding).split("\n"), start=1):
        place, line = f"{path}:{number}", line.rstrip("\r")
        if not line.strip():
            sentences += [_Sentence()] if sentences[-1].words else []
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if cells[0] == "-DOCSTART-" or (line.startswith("# ") and len(cells) != width and "\t" not in line):
            continue
        width = width or max(2, len(cells))
        if len(cells) != width:
            errors.add(
                place, f"{len(cells)} column{'s' if len(cells) > 1 else ''} instead of {width}: a word … its tag"
            )
            continue
        if not cells[0].strip():
            errors.add(place, "empty word")
            continue
        if not cells[-1].strip():
            errors.add(place, f"the word {cells[0]!r} has no tag")
            continue
        count += 1
        if count > limits.limit("rows"):
            parquet_file.check_rows(path, count)
        sentences[-1].words.append(cells[0].strip())
        sentences[-1].tags.append(cells[-1].strip())
        sentences[-1].places.append(place)
    errors.check()
    return [joined(each.words, each.tags, each.places) for each in sentences if each.words]


def read_lists(path: Path, tokens: str, tags: str, names: Sequence[str], encoding: str) -> list[Tagged]:
    """Return the sentences of a JSONL or Parquet file that has a list of words and a list of tags in each row.

    Args:
        path: The file.
        tokens: The column of the words.
        tags: The column of the tags: names, or indices into ``names``.
        names: Names of the tags; those that the file itself gives to numbers where there are none.
        encoding: Of JSONL.

    Raises:
        DataError: The file cannot be read, or rows of it are broken.
    """
    table = read_table(path, (tokens, tags), encoding=encoding)
    errors, sentences, names = RowErrors(table.source), list[Tagged](), names or table.classes.get(tags, ())
    for place, words, given in zip(table.places, table.columns[tokens], table.columns[tags], strict=True):
        problem, named = _list_problem(tokens, words, tags, given), list[str]()
        for index, tag in enumerate(given) if not problem else ():
            if isinstance(tag, int) and not isinstance(tag, bool):
                if not 0 <= tag < len(names):
                    known = f"labels names {len(names)} tags" if names else "name them in their order: labels: [O, …]"
                    problem = problem or f"the tag of word {index} is the number {tag}; {known}"
                    continue
                named.append(names[tag])
            elif isinstance(tag, str) and tag.strip():
                named.append(tag.strip())
            else:
                problem = problem or f"the tag of word {index}, {words[index]!r}, is {tag!r}; a name is expected"
        if problem:
            errors.add(place, problem)
            continue
        sentences.append(joined([word.strip() for word in words], named, [place] * len(words)))
    errors.check()
    return sentences


def read_spans(path: Path, text: str, spans: str, scheme: str, encoding: str) -> list[Tagged]:
    """Return the texts of a JSONL or Parquet file with the spans of their entities.

    A span is ``{"start": 0, "end": 5, "label": "person"}`` or ``[0, 5, "person"]``, in characters, the end left out.

    Args:
        path: The file.
        text: The column of the text.
        spans: The column of the list of spans.
        scheme: How entities become tags of words.
        encoding: Of JSONL.

    Raises:
        DataError: The file cannot be read, or rows of it are broken.
    """
    table = read_table(path, (text, spans), encoding=encoding)
    errors, texts = RowErrors(table.source), list[Tagged]()
    for place, own, given in zip(table.places, table.columns[text], table.columns[spans], strict=True):
        problem = text_problem(own, text)
        if not problem and not isinstance(given, (list, tuple)):
            problem = f"{spans!r} is {given!r}; a list of spans is expected"
        if problem:
            errors.add(place, problem)
            continue
        try:
            texts.append(_from_spans(own, sorted(map(_span, given)), scheme, place))
        except ValueError as error:
            errors.add(place, str(error))
    errors.check()
    return texts


def scheme_of(sentences: Iterable[Tagged]) -> str:
    """Return the scheme of tags by the prefixes that occur; IOB1 looks like IOB2 and must be named."""
    prefixes = {tag.partition("-")[0] for each in sentences for tag in each.tags if "-" in tag}
    return "bilou" if prefixes & set("LU") else "iobes" if prefixes & set("ES") else "iob2"


def check_tags(source: str, sentences: Iterable[Tagged], scheme: str) -> None:
    """Check that tags are those of a scheme, and stand where it allows them.

    Raises:
        DataError: They are not, or do not; it names file and line.
    """
    errors = RowErrors(source)
    for sentence in sentences:
        before = OUTSIDE
        for word, (begin, end) in enumerate(sentence.words):
            tag = sentence.tags[word]
            wrong, misplaced = _tag_problem(tag, scheme), _order_problem(before, tag, scheme)
            if misplaced and not wrong and scheme == "iob2":
                errors.hint = "data that begin entities with I- are scheme: iob1"
            if problem := wrong or misplaced:
                errors.add(sentence.places[word], f"word {word}, {sentence.text[begin:end]!r}: {problem}")
            before = tag
        if sentence.tags and (problem := _order_problem(before, OUTSIDE, scheme)):
            errors.add(sentence.places[-1], f"at the end of the sentence: {problem}")
    errors.check()


def tag_names(sentences: Iterable[Tagged], scheme: str) -> tuple[str, ...]:
    """Return every tag that a scheme has for the types of entities that occur: ``O``, and then by type."""
    types = sorted({tag.partition("-")[2] for each in sentences for tag in each.tags if tag != OUTSIDE})
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in SCHEMES[scheme]))


def gold(source: str, sentences: Sequence[Tagged], names: Sequence[str]) -> list[list[tuple[int, int, int]]]:
    """Return gold answers of ``token_classification``.

    Raises:
        DataError: A tag is none of these names; it names file and line.
    """
    index, errors = {name: position for position, name in enumerate(names)}, RowErrors(source)
    for sentence in sentences:
        for place, tag in zip(sentence.places, sentence.tags, strict=True):
            if tag not in index:
                errors.add(place, f"unknown tag {tag!r}; {suggest(tag, names)}")
    errors.check()
    return [
        [(begin, end, index[tag]) for (begin, end), tag in zip(each.words, each.tags, strict=True)]
        for each in sentences
    ]


def joined(words: Sequence[str], tags: Sequence[str], places: Sequence[str]) -> Tagged:
    """Return a sentence with a space between its words."""
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return Tagged(" ".join(words), spans, tags, places)


def _list_problem(tokens: str, words: Any, tags: str, given: Any) -> str:
    for name, value in ((tokens, words), (tags, given)):
        if not isinstance(value, (list, tuple)):
            return f"{name!r} is {value!r}; a list is expected"
    if not len(words):
        return f"{tokens!r} has no words"
    if len(words) != len(given):
        return f"{len(words)} words and {len(given)} tags"
    problems = (text_problem(word, f"{tokens}[{index}]") for index, word in enumerate(words))
    return next(filter(None, problems), "")


def _span(value: Any) -> tuple[int, int, str]:
    """Return a span as a file has it."""
    if isinstance(value, dict):
        parts: Any = (value.get("start"), value.get("end"), value.get("label", value.get("type")))
    else:
        parts = tuple(value) if isinstance(value, (list, tuple)) else ()
    whole = len(parts) == 3 and all(isinstance(part, int) and not isinstance(part, bool) for part in parts[:2])
    if not whole or not isinstance(parts[2], str) or not parts[2].strip():
        raise ValueError(f"the span is {value!r}; expected is {{start: 0, end: 5, label: NAME}} or [0, 5, NAME]")
    return parts[0], parts[1], parts[2].strip()


def _from_spans(text: str, spans: Sequence[tuple[int, int, str]], scheme: str, place: str) -> Tagged:
    last = 0
    for start, end, kind in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"the span {start} to {end} ({kind}) is out of range; the text has {len(text)} characters")
        if start < last:
            raise ValueError(f"the span {start} to {end} ({kind}) overlaps the one before, which ends at {last}")
        if not text[start:end].strip():
            raise ValueError(f"the span {start} to {end} ({kind}) holds white space alone")
        last = end
    edges = sorted({0, len(text), *(edge for start, end, _ in spans for edge in (start, end))})
    words = [
        (begin + match.start(), begin + match.end())
        for begin, end in itertools.pairwise(edges)
        for match in _WORD.finditer(text[begin:end])
    ]
    tags = [OUTSIDE] * len(words)
    for start, end, kind in spans:
        inside = [index for index, (begin, _) in enumerate(words) if start <= begin < end]
        for index in inside:
            tags[index] = f"{_prefix(scheme, index == inside[0], index == inside[-1])}-{kind}"
    return Tagged(text, words, tags, [place] * len(words))


def _prefix(scheme: str, first: bool, last: bool) -> str:
    """Return the prefix of a word of an entity."""
    prefixes = SCHEMES[scheme]
    if len(prefixes) == 4 and last:
        return prefixes[3] if first and scheme == "bilou" else "S" if first else prefixes[2]
    return prefixes[0] if first else prefixes[1]


def _tag_problem(tag: str, scheme: str) -> str:
    prefix, dash, kind = tag.partition("-")
    if tag == OUTSIDE or (dash and kind and prefix in SCHEMES[scheme]):
        return ""
    allowed = ", ".join(f"{each}-TYPE" for each in SCHEMES[scheme])
    return f"the tag {tag!r} is none of {scheme.upper()}; allowed are O, {allowed}"


def _order_problem(before: str, tag: str, scheme: str) -> str:
    """Return why a tag may not stand behind another one, or ''."""
    if scheme == "iob1":
        return ""
    (last, _, kind), (prefix, _, own) = before.partition("-"), tag.partition("-")
    opened = last in "BI" if last else False
    if prefix not in ("O", "B", "U", "S") and not (opened and kind == own):
        return f"{tag} follows {before}; in {scheme.upper()} an entity begins with B-"
    if scheme in ("bilou", "iobes") and opened and (prefix in ("O", "B", "U", "S") or kind != own):
        ends = "L-" if scheme == "bilou" else "E-"
        return f"{tag} follows {before}; in {scheme.upper()} an entity ends with {ends}"
    return ""
