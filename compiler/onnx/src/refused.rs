//! Operators that onnxc refuses on purpose, with the reason and what to do instead. Others that are missing are merely not there yet.

/// Operators of a domain that are refused for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// `""` for ai.onnx.
    pub domain: &'static str,
    /// ONNX names.
    pub names: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
    /// What the user can do.
    pub help: &'static str,
}

const STRINGS: &str = "strings have no fixed size, and compiled models have no heap";
const OUTSIDE: &str = "do this step before or after the model, and cut it off with onnx.utils.extract_model";
const RANDOM: &str = "a compiled model gives the same outputs for the same inputs";

/// All of them.
pub const REFUSED: &[Refused] = &[
    Refused {
        domain: "",
        names: &["RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"],
        reason: STRINGS,
        help: OUTSIDE,
    },
    Refused { domain: "ai.onnx.ml", names: &["CastMap", "CategoryMapper", "DictVectorizer"], reason: STRINGS, help: OUTSIDE },
    Refused {
        domain: "ai.onnx.ml",
        names: &["ZipMap"],
        reason: "it makes a dictionary for every row, and compiled models have no heap",
        help: "convert the model with zipmap=False: skl2onnx.to_onnx(..., options={\"zipmap\": False})",
    },
    Refused {
        domain: "",
        names: &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"],
        reason: RANDOM,
        help: "make the random numbers an input of the model",
    },
    Refused {
        domain: "",
        names: &["ImageDecoder"],
        reason: "decoding files is a library's work, not a model's",
        help: "decode the image before and pass its pixels",
    },
    Refused {
        domain: "ai.onnx.preview.training",
        names: &["Gradient"],
        reason: "it trains the model, and what is compiled only infers",
        help: "export the model for inference",
    },
];

/// The entry of an operator.
pub(crate) fn find(domain: &str, name: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|r| r.domain == domain && r.names.contains(&name))
}
