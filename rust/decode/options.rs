//! The options of a generation, as Python sends them, under the names of the public interface, or of
//! transformers' `generation_config.json` for options that come only from there.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maximum number of tokens guessed at once.
const MAX_GUESSES: usize = 64;

/// When a beam search stops before its hypotheses can no longer improve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// As soon as the best running beam, at its present length, scores below the worst finished hypothesis.
    #[default]
    Heuristic,
    /// As soon as there are as many finished hypotheses as beams.
    WhenFull,
    /// Only when no running beam can exceed the worst finished hypothesis.
    Never,
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Flag(bool),
            Word(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Flag(false) => Ok(EarlyStopping::Heuristic),
            Raw::Flag(true) => Ok(EarlyStopping::WhenFull),
            Raw::Word(word) if word == "never" => Ok(EarlyStopping::Never),
            Raw::Word(word) => Err(serde::de::Error::custom(format!(
                "early_stopping is {word:?}: expected true, false or \"never\""
            ))),
        }
    }
}

/// Everything that decides what is generated.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Maximum number of new tokens; `None`: up to the model's maximum length.
    pub max_tokens: Option<usize>,
    /// Minimum number of new tokens before an end token.
    pub min_tokens: usize,
    /// Minimum length before an end token, including the prompt.
    pub min_length: usize,
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// 0: all.
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: f64,
    pub typical_p: f64,
    /// Share of the entropy of the hundred most probable tokens that may be drawn from; 0: all.
    pub top_h: f64,
    /// Tokens of a smaller probability are not drawn; 0: off.
    pub epsilon_cutoff: f64,
    /// As `epsilon_cutoff`, less where the distribution is flat.
    pub eta_cutoff: f64,
    pub seed: u64,
    /// Samples per prompt.
    pub samples: usize,
    /// Tokens that end a sequence; they are part of the result.
    pub stop_ids: Vec<u32>,
    /// Tokens that are forbidden below the minimum length; usually the same.
    pub eos_ids: Vec<u32>,
    pub ignore_eos: bool,
    pub repetition_penalty: f64,
    pub encoder_repetition_penalty: f64,
    pub presence_penalty: f64,
    pub frequency_penalty: f64,
    pub no_repeat_ngram_size: usize,
    pub encoder_no_repeat_ngram_size: usize,
    pub logit_bias: BTreeMap<u32, f64>,
    /// Sequences of tokens with a bias for their last one.
    pub sequence_bias: Vec<(Vec<u32>, f64)>,
    pub bad_words_ids: Vec<Vec<u32>>,
    pub suppress_tokens: Vec<u32>,
    pub begin_suppress_tokens: Vec<u32>,
    pub forced_bos_token_id: Option<u32>,
    pub forced_eos_token_ids: Vec<u32>,
    /// The probability of end tokens grows by `factor` per token after `start` new tokens: (start, factor).
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// Not-a-number and infinite logits become finite instead of an error.
    pub remove_invalid_values: bool,
    /// Processed scores of a beam search are normalized again.
    pub renormalize_logits: bool,
    /// Seconds after which no further step is begun.
    pub max_time: Option<f64>,
    /// Whether to return log-probabilities.
    pub logprobs: bool,
    /// How many alternatives to return with them.
    pub top_logprobs: usize,
    pub beams: usize,
    /// Hypotheses per prompt that a beam search returns.
    pub num_hypotheses: usize,
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    /// Tokens to guess from the text itself; 0 guesses none.
    pub prompt_lookup: usize,
    /// Maximum number of last tokens to look up.
    pub lookup_ngram: usize,
    /// Tokens to guess with the draft model.
    pub draft_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_tokens: None,
            min_tokens: 0,
            min_length: 0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_h: 0.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            seed: 0,
            samples: 1,
            stop_ids: Vec::new(),
            eos_ids: Vec::new(),
            ignore_eos: false,
            repetition_penalty: 1.0,
            encoder_repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            sequence_bias: Vec::new(),
            bad_words_ids: Vec::new(),
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            forced_bos_token_id: None,
            forced_eos_token_ids: Vec::new(),
            exponential_decay_length_penalty: None,
            remove_invalid_values: false,
            renormalize_logits: false,
            max_time: None,
            logprobs: false,
            top_logprobs: 0,
            beams: 1,
            num_hypotheses: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            prompt_lookup: 0,
            lookup_ngram: 3,
            draft_tokens: 4,
        }
    }
}

/// Refuses ids outside the vocabulary.
pub(crate) fn in_vocabulary(name: &str, mut ids: impl Iterator<Item = u32>, vocab_size: usize) -> Result<()> {
    match ids.find(|&id| id as usize >= vocab_size) {
        Some(id) => {
            Err(Error::Option(format!("{name} holds {id}: expected ids from 0 to {}", vocab_size - 1)))
        }
        None => Ok(()),
    }
}

fn within(name: &str, value: f64, min: f64, max: f64, expected: &str) -> Result<()> {
    if !(min..=max).contains(&value) {
        return Err(Error::Option(format!("{name}={value} is out of range: expected {expected}")));
    }
    Ok(())
}

impl Options {
    /// Reads and checks options for a vocabulary of `vocab_size`.
    pub fn from_json(text: &str, vocab_size: usize) -> Result<Options> {
        let options: Options =
            serde_json::from_str(text).map_err(|e| Error::Option(format!("bad generation option: {e}")))?;
        options.validate(vocab_size)?;
        Ok(options)
    }

    fn validate(&self, vocab_size: usize) -> Result<()> {
        within("temperature", self.temperature, 0.0, 1e6, "0 (greedy) to 1e6")?;
        within("top_p", self.top_p, f64::MIN_POSITIVE, 1.0, "above 0, at most 1")?;
        within("min_p", self.min_p, 0.0, 1.0, "0 to 1")?;
        within("typical_p", self.typical_p, f64::MIN_POSITIVE, 1.0, "above 0, at most 1")?;
        within("top_h", self.top_h, 0.0, 1.0, "0 to 1")?;
        within("epsilon_cutoff", self.epsilon_cutoff, 0.0, 1.0, "0 to 1")?;
        within("eta_cutoff", self.eta_cutoff, 0.0, 1.0, "0 to 1")?;
        within("max_time", self.max_time.unwrap_or(0.0), 0.0, f64::MAX, "seconds from 0")?;
        within("repetition_penalty", self.repetition_penalty, 1e-3, 1e3, "0.001 to 1000")?;
        within("encoder_repetition_penalty", self.encoder_repetition_penalty, 1e-3, 1e3, "0.001 to 1000")?;
        within("presence_penalty", self.presence_penalty, -100.0, 100.0, "-100 to 100")?;
        within("frequency_penalty", self.frequency_penalty, -100.0, 100.0, "-100 to 100")?;
        within("length_penalty", self.length_penalty, -100.0, 100.0, "-100 to 100")?;
        within("beams", self.beams as f64, 1.0, 256.0, "1 to 256")?;
        within("n", self.samples as f64, 1.0, 1024.0, "1 to 1024")?;
        let max = MAX_GUESSES as f64;
        within("prompt_lookup", self.prompt_lookup as f64, 0.0, max, "0 to 64")?;
        within("lookup_ngram", self.lookup_ngram as f64, 1.0, max, "1 to 64")?;
        within("draft_tokens", self.draft_tokens as f64, 1.0, max, "1 to 64")?;
        within("top_logprobs", self.top_logprobs as f64, 0.0, 1000.0, "0 to 1000")?;
        let max = self.beams as f64;
        within("num_hypotheses", self.num_hypotheses as f64, 1.0, max, "1 to the number of beams")?;
        if self.max_tokens == Some(0) {
            return Err(Error::Option("max_tokens=0: expected at least 1".to_owned()));
        }
        if let Some(max) = self.max_tokens.filter(|&max| self.min_tokens > max) {
            return Err(Error::Option(format!("min_tokens={} is above max_tokens={max}", self.min_tokens)));
        }
        if self.beams > 1 && self.temperature > 0.0 {
            return Err(Error::Option(format!(
                "temperature={} does not go with beams={}: a beam search does not sample; use temperature=0",
                self.temperature, self.beams
            )));
        }
        if self.beams > 1 && self.samples > 1 {
            return Err(Error::Option(format!(
                "n={} does not go with beams={}: use num_hypotheses",
                self.samples, self.beams
            )));
        }
        if self.samples > 1 && self.temperature == 0.0 {
            return Err(Error::Option(format!(
                "n={} does not go with temperature=0: all samples would be equal",
                self.samples
            )));
        }
        let single = [
            ("stop_ids", &self.stop_ids),
            ("eos_ids", &self.eos_ids),
            ("suppress_tokens", &self.suppress_tokens),
            ("begin_suppress_tokens", &self.begin_suppress_tokens),
            ("forced_eos_token_ids", &self.forced_eos_token_ids),
        ];
        for (name, ids) in single {
            in_vocabulary(name, ids.iter().copied(), vocab_size)?;
        }
        in_vocabulary("forced_bos_token_id", self.forced_bos_token_id.into_iter(), vocab_size)?;
        in_vocabulary("logit_bias", self.logit_bias.keys().copied(), vocab_size)?;
        for (name, lists) in [
            ("bad_words_ids", self.bad_words_ids.iter().collect::<Vec<_>>()),
            ("sequence_bias", self.sequence_bias.iter().map(|(ids, _)| ids).collect()),
        ] {
            for ids in lists {
                if ids.is_empty() {
                    return Err(Error::Option(format!("{name} holds an empty sequence")));
                }
                in_vocabulary(name, ids.iter().copied(), vocab_size)?;
            }
        }
        for &bias in self.logit_bias.values().chain(self.sequence_bias.iter().map(|(_, b)| b)) {
            within("logit_bias", bias, -1e9, 1e9, "finite biases")?;
        }
        if let Some((_, factor)) = self.exponential_decay_length_penalty {
            within("exponential_decay_length_penalty", factor, 1e-3, 1e3, "a factor of 0.001 to 1000")?;
        }
        Ok(())
    }

    /// Whether a token ends a sequence.
    pub fn ends(&self, token: u32) -> bool {
        self.stop_ids.contains(&token) && !(self.ignore_eos && self.eos_ids.contains(&token))
    }
}
