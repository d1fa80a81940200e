"""Language codes of the families of translation models.

A caller names a language in the checkpoint's spelling ("deu_Latn", "de_DE", "__de__"), as a code ("de",
"deu") or in English ("German").
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import OptionError, short_repr

# Two-letter code, three-letter code, English name, FLORES-200 code, mBART code ("-": none).
_TABLE = """
af afr Afrikaans afr_Latn af_ZA
am amh Amharic amh_Ethi -
ar ara Arabic arb_Arab ar_AR
az aze Azerbaijani azj_Latn az_AZ
be bel Belarusian bel_Cyrl -
bg bul Bulgarian bul_Cyrl -
bn ben Bengali ben_Beng bn_IN
bs bos Bosnian bos_Latn -
ca cat Catalan cat_Latn -
cs ces Czech ces_Latn cs_CZ
cy cym Welsh cym_Latn -
da dan Danish dan_Latn -
de deu German deu_Latn de_DE
el ell Greek ell_Grek -
en eng English eng_Latn en_XX
es spa Spanish spa_Latn es_XX
et est Estonian est_Latn et_EE
eu eus Basque eus_Latn -
fa fas Persian pes_Arab fa_IR
fi fin Finnish fin_Latn fi_FI
fr fra French fra_Latn fr_XX
ga gle Irish gle_Latn -
gl glg Galician glg_Latn gl_ES
gu guj Gujarati guj_Gujr gu_IN
he heb Hebrew heb_Hebr he_IL
hi hin Hindi hin_Deva hi_IN
hr hrv Croatian hrv_Latn hr_HR
hu hun Hungarian hun_Latn -
hy hye Armenian hye_Armn -
id ind Indonesian ind_Latn id_ID
is isl Icelandic isl_Latn -
it ita Italian ita_Latn it_IT
ja jpn Japanese jpn_Jpan ja_XX
ka kat Georgian kat_Geor ka_GE
kk kaz Kazakh kaz_Cyrl kk_KZ
km khm Khmer khm_Khmr km_KH
kn kan Kannada kan_Knda -
ko kor Korean kor_Hang ko_KR
lt lit Lithuanian lit_Latn lt_LT
lv lav Latvian lvs_Latn lv_LV
mk mkd Macedonian mkd_Cyrl mk_MK
ml mal Malayalam mal_Mlym ml_IN
mn mon Mongolian khk_Cyrl mn_MN
mr mar Marathi mar_Deva mr_IN
ms msa Malay zsm_Latn -
my mya Burmese mya_Mymr my_MM
ne nep Nepali npi_Deva ne_NP
nl nld Dutch nld_Latn nl_XX
no nor Norwegian nob_Latn -
pa pan Punjabi pan_Guru -
pl pol Polish pol_Latn pl_PL
ps pus Pashto pbt_Arab ps_AF
pt por Portuguese por_Latn pt_XX
ro ron Romanian ron_Latn ro_RO
ru rus Russian rus_Cyrl ru_RU
si sin Sinhala sin_Sinh si_LK
sk slk Slovak slk_Latn -
sl slv Slovenian slv_Latn sl_SI
so som Somali som_Latn -
sq sqi Albanian als_Latn -
sr srp Serbian srp_Cyrl -
sv swe Swedish swe_Latn sv_SE
sw swa Swahili swh_Latn sw_KE
ta tam Tamil tam_Taml ta_IN
te tel Telugu tel_Telu te_IN
th tha Thai tha_Thai th_TH
tl tgl Tagalog tgl_Latn tl_XX
tr tur Turkish tur_Latn tr_TR
uk ukr Ukrainian ukr_Cyrl uk_UA
ur urd Urdu urd_Arab ur_PK
uz uzb Uzbek uzn_Latn -
vi vie Vietnamese vie_Latn vi_VN
xh xho Xhosa xho_Latn xh_ZA
yo yor Yoruba yor_Latn -
zh zho Chinese zho_Hans zh_CN
zu zul Zulu zul_Latn -
"""


@dataclass(frozen=True)
class Language:
    """The names of one language."""

    two: str
    three: str
    name: str
    flores: str
    mbart: str

    def forms(self) -> tuple[str, ...]:
        """All spellings that checkpoints use."""
        forms = (self.two, self.three, self.name, self.flores, self.mbart, f"__{self.two}__")
        return tuple(form for form in forms if form != "-")


LANGUAGES = tuple(Language(*line.split()) for line in _TABLE.split("\n") if line)


def find(text: str) -> Language | None:
    """The language of a name, in any of its forms, case-insensitively."""
    lower = text.lower()
    for language in LANGUAGES:
        if any(form.lower() == lower for form in language.forms()):
            return language
    return None


def code(text: str, known: Sequence[str], what: str) -> str:
    """The checkpoint's spelling of the language ``text``.

    Args:
        text: the checkpoint's code, or any name of the language.
        known: the codes of the checkpoint.
        what: the option, for the message.

    Raises:
        OptionError: the checkpoint lacks the language; the message names the nearest ones.
    """
    by_lower = {own.lower(): own for own in reversed(known)}
    language = find(text)
    forms = (text, f"__{text}__", *(language.forms() if language is not None else ()))
    for form in forms:
        if form.lower() in by_lower:
            return by_lower[form.lower()]
    # A code without script or country, if it is unambiguous: "ceb" for "ceb_Latn".
    begins = [own for own in known if own.lower().split("_")[0] == text.lower().split("_")[0]]
    if len(begins) == 1 and "_" not in text:
        return begins[0]
    names = {name.lower(): own for own in known if (found := find(own)) is not None for name in found.forms()}
    near = difflib.get_close_matches(text.lower(), {**names, **by_lower}, n=8, cutoff=0.5)
    nearest = list(dict.fromkeys([*begins, *(by_lower.get(name) or names[name] for name in near)]))
    meant = f"the nearest are {first_few(nearest)}" if nearest else f"it has {first_few(known)}"
    raise OptionError(f"{what} is {short_repr(text)}, which this checkpoint does not have: {meant}")


def first_few(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(map(repr, names[:8])) + (" ..." if len(names) > 8 else "")


def same(left: str, right: str) -> bool:
    """Whether two names mean the same language."""
    if left.lower() == right.lower():
        return True
    found = find(left)
    return found is not None and found == find(right)
