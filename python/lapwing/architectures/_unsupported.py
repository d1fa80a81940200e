"""Models that are not supported, by kind: what each is, and what would serve instead.

A ``model_type`` that becomes supported is removed here; `tests/test_unsupported.py` checks that none is in both places.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of models.

    Attributes:
        what: its name.
        instead: what would serve.
        types: values of ``model_type``.
        classes: ends of the names of classes in config.json's ``architectures``, for types that are not listed.
    """

    what: str
    instead: str
    types: str
    classes: tuple[str, ...] = ()


KINDS = (
    Kind(
        "speech recognition",
        "transcribe with another program and give the text to a model of text",
        "whisper wav2vec2 wav2vec2-bert wav2vec2-conformer hubert wavlm unispeech unispeech-sat sew sew-d data2vec-audio "
        "speech_to_text speecht5 moonshine moonshine_streaming seamless_m4t seamless_m4t_v2 parakeet_ctc parakeet_tdt "
        "parakeet_rnnt lasr_ctc kyutai_speech_to_text granite_speech voxtral voxtral_realtime canary cohere_asr qwen3_asr "
        "speech-encoder-decoder glmasr vibevoice_asr nemotron_asr_streaming",
        ("ForSpeechSeq2Seq", "ForCTC", "ForRNNT", "ForTDT"),
    ),
    Kind(
        "models of sounds",
        "only text is read",
        "audio-spectrogram-transformer clap encodec dac mimi univnet qwen2_audio audioflamingo3 musicflamingo moshi",
        ("ForAudioClassification", "ForXVector", "ForAudioFrameClassification"),
    ),
    Kind(
        "speech and music synthesis",
        "only text is written",
        "bark vits musicgen musicgen_melody csm dia fastspeech2_conformer fastspeech2_conformer_with_hifigan vibevoice "
        "higgs_audio_v2 qwen2_5_omni qwen3_omni_moe pop2piano parler_tts kokoro",
        ("ForTextToWaveform", "ForTextToSpectrogram"),
    ),
    Kind(
        "joint embeddings of images and texts",
        "only text is read; for texts alone an embedding model such as bge, e5 or all-MiniLM",
        "clip chinese_clip altclip align siglip siglip2 clipseg metaclip_2 xclip clip_text_model clip_vision_model "
        "siglip_text_model siglip_vision_model blip-2 blip colpali colqwen2 colmodernvbert flava groupvit bridgetower",
        ("ForZeroShotImageClassification",),
    ),
    Kind(
        "language models that read images",
        "of this family only models of text alone are read: look for its text model (llama, qwen3, gemma3_text ...), or "
        "take gemma3 or mistral3, whose language model is read",
        "llava llava_next llava_next_video llava_onevision qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe "
        "paligemma idefics idefics2 idefics3 smolvlm mllama llama4 internvl gemma3n gemma4 phi4_multimodal phi3_v pixtral "
        "aya_vision aria chameleon deepseek_vl deepseek_vl_v2 deepseek_vl_hybrid florence2 fuyu git glm4v glm4v_moe "
        "instructblip instructblipvideo janus kosmos-2 kosmos-2.5 lfm2_vl molmo molmo2 ovis2 video_llava vipllava "
        "minicpmv moondream1 cohere2_vision ernie4_5_vl_moe video_llama_3 fast_vlm shieldgemma2 emu3 kimi_k25 mistral4",
        ("ForImageTextToText", "ForVision2Seq"),
    ),
    Kind(
        "reading of documents as images",
        "only text is read: extract it with another program",
        "layoutlm layoutlmv2 layoutlmv3 lilt markuplm udop donut-swin nougat trocr pix2struct got_ocr2 "
        "vision-encoder-decoder deepseek_ocr2 paddleocr_vl lighton_ocr glm_ocr bros",
        ("ForDocumentQuestionAnswering",),
    ),
    Kind(
        "vision",
        "only text is read",
        "vit vit_mae vit_msn deit beit swin swinv2 convnext convnextv2 dinov2 dinov2_with_registers dinov3_vit "
        "dinov3_convnext resnet efficientnet mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 segformer detr rt_detr rt_detr_v2 "
        "d_fine yolos owlvit owlv2 grounding-dino sam sam2 sam3 sam_hq mask2former maskformer oneformer depth_anything "
        "depth_pro dpt glpn zoedepth videomae vivit timesformer vjepa2 timm_wrapper data2vec-vision hiera ijepa levit "
        "focalnet pvt pvt_v2 poolformer regnet cvt bit dinat superpoint superglue vitpose imagegpt perceiver vilt",
        ("ForImageClassification", "ForObjectDetection", "ForSemanticSegmentation", "ForDepthEstimation"),
    ),
    Kind(
        "image generation",
        "only text is written",
        "stable-diffusion stable_diffusion stable_diffusion_xl flux unet sdxl kandinsky pixart glm_image diffusion_gemma",
        ("UNet2DConditionModel", "AutoencoderKL", "Transformer2DModel"),
    ),
    Kind(
        "forecasts of time series and decisions",
        "only text is read",
        "timesfm timesfm2_5 patchtst patchtsmixer informer autoformer time_series_transformer chronos moirai "
        "decision_transformer",
        ("ForTimeSeriesPrediction", "ForPrediction"),
    ),
    Kind(
        "answers from tables",
        "write the table as text, for a decoder such as qwen3 or llama",
        "tapas tapex table-transformer",
        ("ForTableQuestionAnswering",),
    ),
    Kind(
        "decoders with state-space or linear-attention layers",
        "a decoder with attention or short convolutions serves: qwen3, llama, smollm3, lfm2",
        "mamba mamba2 falcon_mamba jamba bamba zamba zamba2 falcon_h1 granitemoehybrid nemotron_h recurrent_gemma rwkv "
        "rwkv5 rwkv6 xlstm qwen3_next kimi_linear minimax olmo_hybrid bailing_hybrid plamo2",
    ),
    Kind(
        "mixtures of experts of this design",
        "mixtral and qwen3_moe are read, and decoders without experts: qwen3, llama",
        "gpt_oss deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 qwen2_moe olmoe phimoe dbrx granitemoe granitemoeshared "
        "ernie4_5_moe glm4_moe glm4_moe_lite glm_moe_dsa dots1 hunyuan_v1_moe lfm2_moe minimax_m2 flex_olmo jetmoe "
        "longcat_flash exaone_moe afmoe arctic grok-1 solar_open switch_transformers nllb-moe step3p5 kimi_k2 llama4_text",
    ),
    Kind(
        "decoders of this design",
        "a decoder of a supported family serves: qwen3, llama, gemma3_text, phi3, smollm3",
        "apertus bitnet blt biogpt cpmant ctrl cwm diffllama doge exaone gemma3n_text gemma4_text gpt-sw3 "
        "gpt_neox_japanese internlm internlm2 internlm3 jais2 minicpm minicpm3 nanochat openai-gpt xglm xlnet youtu "
        "baichuan chatglm qwen openelm stablelm_epoch plamo refinedweb refinedwebmodel bert-generation "
        "modernbert-decoder qwen3_5_text hyperclovax",
    ),
    Kind(
        "encoders of this design",
        "an encoder of a supported family serves: bert, roberta, deberta-v2, modernbert (also for long texts), xlm-roberta",
        "longformer big_bird bigbird_pegasus nystromformer reformer yoso fnet funnel convbert mobilebert squeezebert "
        "flaubert xlm luke mluke mra ibert canine rembert roberta-prelayernorm roc_bert ernie ernie_m xmod splinter "
        "layoutxlm lxmert visual_bert nezha qdqbert realm dpr modernvbert embedding_gemma2 esmc "
        "openai_privacy_filter",
    ),
    Kind(
        "encoder-decoders of this design",
        "one of a supported family serves: t5, bart, pegasus, marian, m2m_100 (NLLB), mbart",
        "led longt5 pegasus_x prophetnet xlm-prophetnet fsmt mvp plbart encoder-decoder t5gemma t5gemma2 rag",
    ),
)

BY_TYPE: dict[str, Kind] = {name: kind for kind in KINDS for name in kind.types.split()}
"""The kind of each ``model_type``."""


def explain(model_type: str, classes: Collection[str], supported: Collection[str]) -> str:
    """Why a model is not supported, and what would serve.

    Args:
        model_type: that of config.json; "" if it has none.
        classes: its ``architectures``.
        supported: every supported ``model_type``.
    """
    kind = BY_TYPE.get(model_type)
    if kind is None:
        kind = next((k for k in KINDS if any(name.endswith(end) for name in classes for end in k.classes)), None)
    if kind is not None:
        return f"model_type {model_type!r} is not supported: {kind.what}; {kind.instead}"
    near = difflib.get_close_matches(model_type, supported, n=3, cutoff=0.8)
    if near:
        return f"model_type {model_type!r} is not supported: the nearest supported ones are {', '.join(near)}"
    of = f", of the class {', '.join(classes)}," if classes else ""
    return (
        f"model_type {model_type!r}{of} is unknown here, so it is not supported: docs/models.md lists the families that "
        "are, and so does lapwing info"
    )
