"""Tokenizers of multilingual translation models: a SentencePiece model, followed by one token per language.

Each text contains the token of its language. The classes differ in their languages and in the token's
position.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, short_repr
from . import families
from .sentencepiece import CONTROL, UNKNOWN, Piece, SentencePieceModel, decoder_json, model_json, normalizer_json

Json = dict[str, Any]

_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP "
    "nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)
_MBART_50 = _MBART + (
    " af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE "
    "ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
_NLLB = (
    "ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab "
    "ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl "
    "bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn "
    "cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn "
    "est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn "
    "gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn "
    "ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab "
    "kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn "
    "kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn "
    "lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn "
    "mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn "
    "nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn "
    "ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn "
    "sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn "
    "szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn "
    "tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn "
    "vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn"
)
_M2M_100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu "
    "hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt "
    "ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
_WMT_21 = "en ha is ja cs ru zh de"

LANGUAGES = {"MBart": _MBART, "MBart50": _MBART_50, "Nllb": _NLLB}
"""The languages of a class, in the order of their tokens after the vocabulary."""

DEFAULT_SOURCE = {"MBart": "en_XX", "MBart50": "en_XX", "Nllb": "eng_Latn", "M2M100": "en"}
"""The default source language of a class, if tokenizer_config.json has none."""


def kind(config: Json) -> str:
    """The class of a configuration if it is one of these, else ""."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    return name if name in DEFAULT_SOURCE else ""


def languages(config: Json) -> list[str]:
    """The language tokens of a configuration's class."""
    name = kind(config)
    if name != "M2M100":
        return LANGUAGES[name].split()
    lists = {"m2m100": _M2M_100, "wmt21": _WMT_21}
    codes = config.get("language_codes") or "m2m100"
    if not isinstance(codes, str) or codes not in lists:
        raise CheckpointError(
            f"tokenizer_config.json has language_codes {short_repr(codes)}: expected {' or '.join(lists)}"
        )
    return [f"__{code}__" for code in lists[codes].split()]


def source_token(config: Json) -> str:
    """The token of the configured source language."""
    name = kind(config)
    code = str(config.get("src_lang") or DEFAULT_SOURCE[name])
    return f"__{code}__" if name == "M2M100" and not code.startswith("__") else code


def suffixed(config: Json) -> bool:
    """Whether the language follows the text, as in mBART and in the first release of NLLB."""
    return kind(config) == "MBart" or (kind(config) == "Nllb" and bool(config.get("legacy_behaviour")))


def template(config: Json, specials: dict[str, str], id_of: Callable[[str], int | None]) -> Json | None:
    """Arguments of `TemplateProcessing`; None if the vocabulary lacks the language."""
    language, end = source_token(config), specials.get("eos_token", "</s>")
    ids = {text: id_of(text) for text in (language, end)}
    if None in ids.values():
        return None
    before, after = ([], [end, language]) if suffixed(config) else ([language], [end])
    return {
        "single": [*before, "$A", *after],
        "pair": [*before, "$A", "$B", *after],
        "special_tokens": list(ids.items()),
    }


def from_sentencepiece(
    path: Path, model: SentencePieceModel, config: Json, specials: dict[str, str], vocab: Json | None
) -> Json:
    """The tokenizer of one of these classes, from its SentencePiece model (for M2M-100 also the ids of
    vocab.json)."""
    name = kind(config)
    for key, text in {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}.items():
        specials.setdefault(key, text)
    specials.setdefault("unk_token", "<unk>")
    if name == "M2M100":
        return _m2m_100(path, model, vocab, config)
    specials.setdefault("cls_token", "<s>")
    specials.setdefault("mask_token", "<mask>")
    head = [Piece(text, 0.0, CONTROL) for text in ("<s>", "<pad>", "</s>")]
    codes = [Piece(text, 0.0, CONTROL) for text in languages(config)]
    pieces = [*head, Piece("<unk>", 0.0, UNKNOWN), *model.pieces[3:], *codes, Piece("<mask>", 0.0, CONTROL)]
    added = families.control_tokens(pieces)
    for token in added:
        token["lstrip"] = token["content"] == "<mask>"
    steps = [*families.charsmap(model), {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    metaspace = families.METASPACE
    return families.description(
        added_tokens=added,
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=families.WORDS if name == "MBart" else metaspace,
        decoder=metaspace,
        model=model_json(model, pieces, 3),
    )


def _m2m_100(path: Path, model: SentencePieceModel, vocab: Json | None, config: Json) -> Json:
    """Pieces from the SentencePiece model, ids from vocab.json, then one token per language."""
    if vocab is None:
        raise CheckpointError(f"{path} is the model of an M2M100Tokenizer: expected vocab.json with its ids next to it")
    ids = {text: index for text, index in vocab.items() if isinstance(index, int) and 0 <= index < len(vocab)}
    families.require(ids, "<s>", "<pad>", "</s>", "<unk>")
    by_id = {index: text for text, index in ids.items()}
    known = {piece.text: piece for piece in model.pieces}
    empty = Piece("", 0.0, CONTROL)
    pieces = []
    for index in range(len(by_id)):
        text = by_id.get(index, f"\ufdd0{index}")
        found = known.get(text, empty)
        special = text in ("<s>", "<pad>", "</s>", "<unk>") or found is empty
        pieces.append(Piece(text, found.score, CONTROL if special else found.kind))
    places = {text: len(pieces) + index for index, text in enumerate(languages(config))}
    families.require(places, source_token(config))
    control = {text: ids[text] for text in ("<s>", "<pad>", "</s>", "<unk>")}
    return families.description(
        added_tokens=families.added({**control, **places}, True),
        normalizer=normalizer_json(model, prefix=True),
        decoder=decoder_json(model),
        model=model_json(model, pieces, ids["<unk>"]),
    )
