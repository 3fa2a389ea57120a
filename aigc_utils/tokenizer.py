"""Text to integers and back: by character, and by byte-level byte-pair encoding (lesson 02).

Byte-pair encoding (BPE) as in Sennrich, Haddow and Birch, "Neural Machine Translation of Rare
Words with Subword Units" (2016), over bytes and with the word pattern of GPT-2 (Radford and others,
"Language Models are Unsupervised Multitask Learners", 2019). Every string can be encoded, and
decoding gives it back unchanged.
"""

import json
import operator
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

# GPT-2's pattern needs Unicode classes such as \p{L}, which the standard `re` does not know.
import regex

from aigc_utils import files

if TYPE_CHECKING:
    import tokenizers

Pair = tuple[int, int]

# Verbatim from GPT-2. No token crosses the border of such a "word", whose space stands in front.
WORD = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)

# A word seen once is encoded once; beyond this many words the memory is worth more than the time.
_CACHE_WORDS = 2**16


def _printable_bytes() -> list[str]:
    """Give each byte a visible character, as GPT-2 does: its own, or the next one from U+0100."""
    spare = iter(range(256, 512))
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


_BYTE_CHARACTERS = _printable_bytes()


class CharTokenizer:
    """One token for each different character of ``text``; ids follow the order of code points.

    Attributes: ``characters`` (str), the character of id i at index i.
    """

    def __init__(self, text: str) -> None:
        _check_text(text)
        if not text:
            raise ValueError("the text is empty; a tokenizer needs at least one character")
        self.characters = "".join(sorted(set(text)))
        self._ids = {character: i for i, character in enumerate(self.characters)}

    @property
    def vocab_size(self) -> int:
        """Number of different tokens; ids run from 0 to ``vocab_size`` - 1."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Return one id for each character; ValueError names a character not in the vocabulary."""
        _check_text(text)
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
        raise ValueError(
            f"{unknown!r} (U+{ord(unknown):04X}, position {text.index(unknown)}) is not among the "
            f"{self.vocab_size} characters of this tokenizer; replace it, or build the tokenizer "
            f"from a text that has it"
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; ValueError names an id outside the vocabulary."""
        return "".join(self.characters[i] for i in _checked(ids, self.vocab_size))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the tokenizer to ``path`` as JSON."""
        _write(path, "characters", self.characters)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return what ``save`` wrote; ValueError when the file holds something else."""
        characters = _read(path, "characters")
        try:
            tokenizer = cls(characters)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        # Ids are places in this order: another order would give every text other ids.
        if tokenizer.characters != characters:
            raise ValueError(f"{path} is damaged: its characters are not sorted and unique")
        return tokenizer


class BPETokenizer:
    """Byte-level BPE: ids 0 to 255 are the bytes, id 256 + i is the token that merge i makes.

    ``merges`` lists pairs of ids in the order in which they were learned; without any, this is a
    plain byte tokenizer. Attributes: ``merges``; ``vocab``, the bytes that each id stands for.
    Raises ValueError when a merge names an id that does not exist yet or repeats a token.
    """

    def __init__(self, merges: Iterable[Pair] = ()) -> None:
        self.merges: list[Pair] = []
        self.vocab = [bytes([byte]) for byte in range(256)]
        # The id that each pair makes; since ids grow with age, it is the merge's rank as well.
        self._made: dict[Pair, int] = {}
        self._cache: dict[str, list[int]] = {}
        for pair in merges:
            self._add_merge(pair)
        # Training cannot spell a token in two ways, so a list that does was made otherwise.
        if len(set(self.vocab)) < self.vocab_size:
            raise ValueError("two merges make the same token; each must make a new one")

    def _add_merge(self, pair: Pair) -> int:
        """Append a merge and return the id of the token that it makes."""
        left, right = _checked(pair, self.vocab_size)
        new_id = self.vocab_size
        self.merges.append((left, right))
        self.vocab.append(self.vocab[left] + self.vocab[right])
        self._made[left, right] = new_id
        return new_id

    @classmethod
    def train(cls, text: str, vocab_size: int) -> Self:
        """Learn merges until there are ``vocab_size`` tokens: the most frequent pair, each time.

        Among equally frequent pairs the older tokens win, and bytes rank by their GPT-2 character,
        so that the merges are those of the library `tokenizers`. Raises ValueError when
        ``vocab_size`` is below 256 or when ``text`` has too few pairs for it.
        """
        _check_text(text)
        if vocab_size < 256:
            raise ValueError(f"vocab_size is {vocab_size}; it starts at 256, one token per byte")
        tokenizer = cls()
        frequencies = Counter(WORD.findall(text))
        words = [(list(word.encode()), count) for word, count in frequencies.items()]
        # How often each pair occurs, and in which words: a merge then touches only those words.
        counts: defaultdict[Pair, int] = defaultdict(int)
        homes: defaultdict[Pair, set[int]] = defaultdict(set)
        changed: set[Pair] = set()

        def count_pairs(home: int, sign: int) -> None:
            ids, count = words[home]
            for pair in pairwise(ids):
                counts[pair] += sign * count
                homes[pair].add(home)
                changed.add(pair)

        for home in range(len(words)):
            count_pairs(home, +1)
        # The most frequent pair comes first; an entry whose count is out of date is passed over.
        queue: list[tuple[int, Pair, Pair]] = []
        while tokenizer.vocab_size < vocab_size:
            for pair in changed:
                if counts[pair]:
                    heappush(queue, (-counts[pair], _tie_order(pair), pair))
            changed.clear()
            if not queue:
                raise ValueError(
                    f"the text has no pairs left after {tokenizer.vocab_size} tokens, and "
                    f"vocab_size asks for {vocab_size}; ask for fewer, or bring a longer text"
                )
            negative_count, _, best = heappop(queue)
            if -negative_count != counts[best]:
                continue
            new_id = tokenizer._add_merge(best)
            for home in homes.pop(best):
                count_pairs(home, -1)
                ids, _ = words[home]
                ids[:] = merge(ids, best, new_id)
                count_pairs(home, +1)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of different tokens; ids run from 0 to ``vocab_size`` - 1."""
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; ValueError when it holds half a character (a surrogate)."""
        _check_text(text)
        ids: list[int] = []
        for word in WORD.findall(text):
            known = self._cache.get(word)
            if known is None:
                known = self._encode_word(word)
                if len(self._cache) < _CACHE_WORDS:
                    self._cache[word] = known
            ids.extend(known)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        """Apply the merges to one word, always the one that was learned first."""
        ids = list(word.encode())
        while True:
            known = [pair for pair in pairwise(ids) if pair in self._made]
            if not known:
                break
            oldest = min(known, key=self._made.__getitem__)
            ids = merge(ids, oldest, self._made[oldest])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; bytes that are no whole character become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        joined = b"".join(self.vocab[i] for i in _checked(ids, self.vocab_size))
        return joined.decode("utf-8", errors="replace")

    def save(self, path: str | PathLike[str]) -> None:
        """Write the tokenizer to ``path`` as JSON."""
        _write(path, "merges", self.merges)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Return what ``save`` wrote; ValueError when the file holds something else."""
        merges = _read(path, "merges")
        try:
            return cls(merges)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def to_huggingface(self) -> "tokenizers.Tokenizer":
        """Return the same tokenizer for Hugging Face; its ``save`` writes a ``tokenizer.json``."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        names = ["".join(_BYTE_CHARACTERS[byte] for byte in token) for token in self.vocab]
        pairs = [(names[left], names[right]) for left, right in self.merges]
        vocab = {name: i for i, name in enumerate(names)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    @classmethod
    def from_huggingface(cls, tokenizer: "tokenizers.Tokenizer") -> Self:
        """Return a tokenizer with the merges of a byte-level BPE of the library `tokenizers`.

        Ids are numbered anew, bytes first; a split pattern of its own and special tokens stay
        behind. Raises ValueError for another kind of tokenizer.
        """
        model = json.loads(tokenizer.to_str())["model"]
        ids = {character: byte for byte, character in enumerate(_BYTE_CHARACTERS)}
        learned = cls()
        try:
            for left, right in model["merges"]:
                ids[left + right] = learned._add_merge((ids[left], ids[right]))
        except KeyError:
            raise ValueError(
                f"a {model['type']} tokenizer that is not byte-level BPE cannot become one; "
                "take one whose merges are spelled in GPT-2's characters for bytes"
            ) from None
        return cls(learned.merges)


def merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Return ``ids`` with each occurrence of ``pair``, from the left, replaced by ``new_id``."""
    merged: list[int] = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new_id
        else:
            merged.append(i)
    return merged


def _tie_order(pair: Pair) -> Pair:
    """Order tokens as `tokenizers` numbers them: bytes by their character, then merges by age."""
    left, right = (ord(_BYTE_CHARACTERS[i]) if i < 256 else i + 256 for i in pair)
    return left, right


def _check_text(text: str) -> None:
    """Raise one clear error for what is not text or holds half a character."""
    if not isinstance(text, str):
        raise TypeError(f"a tokenizer reads a str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half, position = ord(text[error.start]), error.start
        raise ValueError(
            f"the text holds a lone surrogate (U+{half:04X} at position {position}), half a "
            f"character that UTF-8 cannot write; remove it or read the file again as UTF-8"
        ) from None


def _checked(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Return ``ids`` as Python integers below ``vocab_size``, or raise one clear ValueError."""
    checked = []
    for position, i in enumerate(ids):
        try:
            number = operator.index(i)
        except TypeError:
            raise ValueError(
                f"an id is an integer, and at position {position} stands {i!r}"
            ) from None
        if not 0 <= number < vocab_size:
            raise ValueError(
                f"id {number} at position {position} is not in the vocabulary: ids run from 0 to "
                f"{vocab_size - 1}"
            )
        checked.append(number)
    return checked


def _write(path: str | PathLike[str], key: str, content: object) -> None:
    files.write_whole(path, json.dumps({key: content}))


def _read(path: str | PathLike[str], key: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))[key]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not a saved tokenizer of this kind: it must be JSON with {key!r}"
        ) from None
