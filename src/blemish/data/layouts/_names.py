"""What the names of folders and labels say of what lies in them: good samples, defective ones, or neither.

Words are compared folded (case, accents, width), one by one: `bad_parts`, `BadParts` and `BAD-2` say the same. A word
of negation turns the next one round, `-free` and `-frei` the one before: `not_good` is bad, `defect-free` is good.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

GOOD = frozenset(
    "good goods ok okay normal normals pass passed passing io train training accept accepted acceptable conform "
    "conforming correct nominal healthy intact perfect flawless faultless gut gute guter gutes gutteil gutteile bon "
    "bonne bons bonnes conforme conformes bueno buena buenos buenas buono buona buoni buone bom boa goed goede dobry "
    "dobre dobra".split()
)
BAD = frozenset(
    "bad ng nok ko nio nogo nogood notgood notok fail fails failed failing failure failures fault faults faulty "
    "reject rejects rejected rejection scrap scrapped rework broken crack cracks cracked scratch scratches scratched "
    "dent dents dented hole holes blowhole blowholes stain stains stained damage damages damaged rust rusty corrosion "
    "flaw flaws flawed blemishes blemished imperfect error errors erroneous wrong incorrect inacceptable unacceptable "
    "missing misplaced deformed chipped torn invalid outlier outliers suspect suspicious trash garbage junk poor "
    "schlecht ausschuss fehler fehlerhaft fehlerhafte fehlteil fehlteile kaputt riss risse kratzer delle dellen loch "
    "locher bruch gebrochen schaden beschadigt verschmutzt schmutz rost lunker nacharbeit mangel mangelhaft mauvais "
    "mauvaise rebut rebuts defaut defauts malo mala malos malas rechazado rechazados rechazo scarto scarti difetto "
    "difetti difettoso ruim rejeitado defeito defeitos slecht slechte afkeur afgekeurd zly wada wady wadliwy".split()
)
STEMS = ("defect", "defekt", "anomal", "anormal", "abnormal", "contaminat", "schlecht", "ausschuss", "beschadig")
OTHER = frozenset(  # names of folders that never hold good training samples
    "test tests testing testset testimages groundtruth gt mask masks boxmasks annotation annotations label labels "
    "segmentation segmentations".split()
)
NEGATIONS = frozenset("no not non nicht kein keine ohne without sans sin senza sem niet geen".split())
FREE = ("free", "frei")
NEUTRAL = "images|image|imgs|img|pictures|picture|pics|pic|photos|photo|parts|part|pieces|samples|sample|teile|teil|" \
    "bilder|bild|windows|clouds|scans|recordings|products|product|data|set|new|old|only"  # fmt: skip
# of scripts that put no space between words; the bad ones first, since they contain good ones
BAD_SIGNS = ("不良", "不合格", "异常", "異常", "缺陷", "瑕疵", "欠陥", "불량", "결함", "비정상")
GOOD_SIGNS = ("良品", "合格", "正常", "양품", "정상")

OPPOSITES = tuple(
    frozenset(pair.split()) for pair in ("0 1", "positive negative", "pos neg", "true false", "yes no", "p n", "y n")
)


class Meaning(NamedTuple):
    """What a name means; neither good nor bad where it means nothing."""

    good: bool = False
    bad: bool = False
    alone: bool = False  # good and nothing else: no word of the name is left unexplained


@lru_cache(4096)
def meaning_of(name: str) -> Meaning:
    """What a name means for its samples."""
    folded = fold(name)
    if any(sign in folded for sign in BAD_SIGNS):
        return Meaning(bad=True)
    if any(sign in folded for sign in GOOD_SIGNS):
        return Meaning(good=True, alone=True)
    if "".join(_letters(folded)) in OTHER:
        return Meaning(bad=True)
    words = _words(name)
    found: list[int] = []  # 1 good, -1 bad, 0 neither, of each word that counts
    turn, negated = 1, False
    for word in words:
        if word in NEGATIONS:
            turn, negated = -1, True
        elif word in FREE and found and found[-1]:
            found[-1] *= -1
        else:
            value = _value(word)
            if value is not None:
                found.append(turn * value)
            if value:
                turn, negated = 1, False
    good, bad = 1 in found, -1 in found
    return Meaning(good and not bad, bad, good and not bad and 0 not in found and not negated)


def fold(text: str) -> str:
    """Without case, accents and the width of signs."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(c for c in plain if unicodedata.category(c) != "Mn"))


def opposed(names: Iterable[str]) -> bool:
    """Whether these are two names of which one must mean defective, without saying which: 0 and 1, yes and no."""
    ends = {re.sub(r"^(class|label|klasse|target|cls|y)?[\s_.-]*0*(?=\d)", "", fold(name).strip()) for name in names}
    return ends in OPPOSITES


def counted(names: Sequence[str], most: int = 5) -> str:
    """Names in a message: the first few, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _words(name: str) -> list[str]:
    """Folded words. Single letters are put together (n.i.O., N.G.), and so is an n before OK or iO; words in camel case
    are split where they mean nothing as a whole."""
    raw: list[str] = []
    single = False
    for word in _letters(name):
        if len(word) == 1 and single:
            raw[-1] += word
        else:
            raw.append(word)
        single = len(word) == 1
    words: list[str] = []
    for word in raw:
        folded = fold(word)
        if words and words[-1] == "n" and folded in ("ok", "io"):
            words[-1] += folded
        elif _value(folded) or folded in NEGATIONS or folded in FREE:
            words.append(folded)
        else:
            words += [fold(part) for part in re.findall(r"[^\W\d_a-z]*[^\W\d_A-Z]+|[A-Z]+", word)] or [folded]
    return words


def _value(word: str) -> int | None:
    """1 good, -1 bad, 0 something else, None nothing of importance."""
    if re.fullmatch(NEUTRAL, word):
        return None
    match = re.fullmatch(rf"(?:{NEUTRAL})?(.+?)(?:{NEUTRAL})?", word)
    core = match.group(1) if match else word
    for one in (word, core):
        if one in GOOD:
            return 1
        if one in BAD:
            return -1
        if one.endswith(FREE) and _is_bad(one[: -len("free")]):
            return 1
        if one.startswith(STEMS):
            return -1
    return 0


def _is_bad(word: str) -> bool:
    return word in BAD or word.startswith(STEMS)
