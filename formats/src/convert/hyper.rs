//! [`Hyper`]: the hyper-parameters of a checkpoint, read once and typed, as the table says.
//!
//! | name in a cell | what it is |
//! |---|---|
//! | `config.KEY` | of the `config.json` beside the weights |
//! | `config.OBJECT.KEY` | of that object in it: `ssm_cfg`, the options of mamba_ssm |
//! | `config.LIST.2` | the third of that list in it |
//! | `is_null(config.KEY)` | 1 where the key is there and says null, else 0 |
//! | `gguf.KEY` | GGUF's key-value `ARCHITECTURE.KEY` |
//! | `first(TENSOR)`, `second(…)`, `last(…)` | that dimension of a tensor of the first layer with it |
//! | `count(TENSOR)` | the number of its values |
//! | `has(TENSOR, …)` | whether the first layer has one of them |
//! | `has_any(TENSOR, …)` | whether any layer has one of them |
//! | `interval(n)` | `full_attention` for every layer n, `linear_attention` for the others |
//! | `interval(n, word, kind)` | `kind` for every layer n, `word` for the others |
//! | `listed(list, word)` | `full_attention` for the layers of a list, `word` for the others |
//! | `listed(list, word, kind)` | the same with `kind` for the layers of the list |
//! | `repeated(list)` | the words of a list, again and again |
//! | `where(TENSOR, word, …, other)` | for every layer the word behind the first tensor that it has |
//! | `counted(list)` | `full_attention` where the layer's number in a list is not 0, else `conv` |
//! | `bf16(x)` | x rounded to bfloat16 |
//! | `largest(list)` | the largest number of a list |
//! | `integers(TENSOR)` | the whole numbers in a tensor of each layer that has it |
//! | `layers()` | one more than the highest layer that a name mentions |
//! | `true`, `false`, a number | itself |
//! | another name | the hyper-parameter, which stands further up in the table |
//!
//! A size without a cell is bound by the first tensor that shows it. Test: `tests`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::keys::{at, json, limits, number};
use super::place::{Place, first_found};
use super::syntax::{Cell, Expr, formula};
use super::table::{Architecture, Kind, Param};
use crate::FormatError;
use crate::checkpoint::MetaValue;

/// The most layers among which a tensor is looked for.
const MOST_LAYERS: u64 = 4096;
/// The word of layers that attend to every token.
const FULL: &str = "full_attention";
/// The largest size taken for real.
const MAX_SIZE: f64 = 16_777_216.0;

/// Where the length of texts is said that a model was trained on.
const TRAINED: &str =
    "config.context_length | config.max_position_embeddings | gguf.context_length?";

/// The length in the name of a checkpoint of BlinkDL's: `RWKV-x070-World-0.4B-ctx4096.pth`.
fn in_name(name: &str) -> Option<f64> {
    let (_, behind) = name.rsplit_once("ctx")?;
    behind.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether texts may be so long.
fn is_length(n: f64) -> bool {
    (1.0..=MAX_SIZE).contains(&n) && n.fract() == 0.0
}

/// The hyper-parameters that are known.
pub(super) struct Hyper<'a> {
    place: Place<'a>,
    architecture: &'static Architecture,
    numbers: BTreeMap<&'static str, Known>,
    config: Map<String, Value>,
}

/// A number, and the text of the choice that it comes from; of a bound size, the tensor.
struct Known {
    number: f64,
    from: String,
}

impl<'a> Hyper<'a> {
    /// Reads all that the table has cells for.
    pub(super) fn read(
        architecture: &'static Architecture,
        place: Place<'a>,
    ) -> Result<Self, FormatError> {
        let (numbers, config) = (BTreeMap::new(), Map::new());
        let mut hyper = Hyper { place, architecture, numbers, config };
        for param in architecture.hyper.iter().filter(|param| !param.3.is_empty()) {
            hyper.param(param)?;
        }
        hyper.trained();
        hyper.check()?;
        Ok(hyper)
    }

    /// The length of texts that the model was trained on, `n_trained`, where something says it and
    /// the architecture's table does not: nothing depends on it, so that nothing is refused.
    fn trained(&mut self) {
        if self.architecture.hyper.iter().any(|param| param.0 == "n_context") {
            return;
        }
        let said = Cell::parse(TRAINED).ok().and_then(|cell| {
            let choices = first_found(&cell.choices, |choice| {
                let value = self.value(&choice.stack[0], 0)?;
                Ok(value.as_ref().and_then(number).filter(|n| is_length(*n)))
            });
            choices.ok().flatten()
        });
        let name = self.place.checkpoint.path().file_name().and_then(|name| name.to_str());
        let n = said.or_else(|| in_name(name?).filter(|n| is_length(*n)));
        self.config.extend(n.map(|n| ("n_trained".to_owned(), (n as u64).into())));
    }

    fn param(&mut self, param: &'static Param) -> Result<(), FormatError> {
        let &Param(name, label, kind, _) = param;
        let text = param.cell(self.place.layout.column);
        if text.is_empty() {
            return Ok(());
        }
        let cell = Cell::parse(text).map_err(|rest| self.typo(rest))?;
        let found = first_found(&cell.choices, |choice| {
            if !self.holds(choice.guard) {
                return Ok(None);
            }
            Ok(self.value(&choice.stack[0], 0)?.map(|value| (value, choice.text)))
        })?;
        let Some((value, from)) = found else {
            if cell.optional {
                return Ok(());
            }
            let plain = cell.choices.iter().filter(|choice| choice.guard.is_none());
            let choices: Vec<&str> = plain.map(|choice| choice.text).collect();
            let choices = choices.join(" or ");
            let expected = format!(
                "told by {choices} (config: the config.json beside the weights; \
                 shapes do not tell it)"
            );
            return Err(self.place.field(label, expected, "nothing".to_owned()));
        };
        // People mend the key that they wrote, not our name of it.
        let key = from.split(" if ").next().unwrap_or(from);
        let key = key.strip_prefix("config.").or(key.strip_prefix("gguf.")).unwrap_or(label);
        let wrong = |expected: &str| {
            self.place.field(key, format!("{label}, {expected}"), value.to_string())
        };
        let known = |number| Known { number, from: from.to_owned() };
        match kind {
            Kind::Size | Kind::Inner => {
                let least = if kind == Kind::Size { 1.0 } else { 0.0 };
                let whole = |n: &f64| (least..=MAX_SIZE).contains(n) && n.fract() == 0.0;
                let expected = format!("a whole number from {least} to {MAX_SIZE}");
                let n = number(&value).filter(whole).ok_or_else(|| wrong(&expected))?;
                self.numbers.insert(name, known(n));
                if kind == Kind::Size {
                    self.config.insert(name.to_owned(), (n as u64).into());
                }
            }
            Kind::Number | Kind::Factor => {
                let finite = number(&value).filter(|n| n.is_finite());
                let n = finite.ok_or_else(|| wrong("a number"))?;
                self.numbers.insert(name, known(n));
                if kind == Kind::Number {
                    self.config.insert(name.to_owned(), n.into());
                }
            }
            Kind::Flag => {
                let flag = value.as_bool().ok_or_else(|| wrong("true or false"))?;
                self.numbers.insert(name, known(f64::from(u8::from(flag))));
                self.config.insert(name.to_owned(), flag.into());
            }
            Kind::Limits => {
                let limits = limits(&value).ok_or_else(|| wrong("two ascending numbers"))?;
                let is_limit = |n: &f64| *n != 0.0 && n.abs() < f64::from(f32::MAX);
                for (end, limit) in [("min", limits.0), ("max", limits.1)] {
                    if is_limit(&limit) {
                        self.config.insert(format!("{name}_{end}"), limit.into());
                    }
                }
            }
            Kind::Words(words) => {
                let ours = |word: &Value| {
                    let found = words.iter().find(|(theirs, _)| word.as_str() == Some(theirs));
                    found.map(|(_, ours)| Value::from(*ours))
                };
                let n_layer = self.numbers.get("n_layer").map_or(0.0, |known| known.number);
                let list = match &value {
                    Value::String(text) => text.chars().map(|c| c.to_string().into()).collect(),
                    value => value.as_array().cloned().unwrap_or_default(),
                };
                let list = Some(list).filter(|list| list.len() as f64 == n_layer);
                let list: Option<Vec<Value>> =
                    list.and_then(|list| list.iter().map(ours).collect());
                let expected: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
                let expected = format!("one of {} for each layer", expected.join(", "));
                let list = list.ok_or_else(|| wrong(&expected))?;
                self.config.insert(name.to_owned(), list.into());
            }
            Kind::Integers => {
                self.config.insert(name.to_owned(), value);
            }
            Kind::OneOf(words) => {
                let is_one = match &value {
                    Value::Bool(flag) => words.contains(&&*flag.to_string()),
                    value => value.as_str().is_some_and(|word| words.contains(&word)),
                };
                if !is_one {
                    return Err(wrong(&words.join(" or ")));
                }
            }
        }
        Ok(())
    }

    /// Whether a guard's key or hyper-parameter holds its word. An object or a number that is there
    /// counts as true.
    pub(super) fn holds(&self, guard: Option<(&str, &str)>) -> bool {
        let Some((key, word)) = guard else { return true };
        match self.lookup(key) {
            Some(Value::Bool(flag)) => flag.to_string() == word,
            Some(Value::String(text)) => text == word,
            Some(Value::Number(number)) => word == "true" || number.as_f64() == word.parse().ok(),
            Some(Value::Object(_)) => word == "true",
            _ => false,
        }
    }

    /// The word of layer `layer` in the hyper-parameter `name`.
    pub(super) fn word(&self, name: &str, layer: usize) -> Option<&str> {
        self.config.get(name)?.as_array()?.get(layer)?.as_str()
    }

    /// The layer whose transformer layer `layer` shares, those that have one taking turns, and the
    /// number of this layer among all with a transformer.
    pub(super) fn shares(&self, layer: usize) -> (usize, usize) {
        let is = |i: &usize, word: &str| self.word("layer_types", *i) == Some(word);
        let number = (0..layer).filter(|i| is(i, "owner") || is(i, "shared")).count();
        let owners = || (0..=layer).filter(|i| is(i, "owner"));
        let turn = || owners().nth(number % owners().count().max(1)).unwrap_or(layer);
        (if is(&layer, "owner") { layer } else { turn() }, number)
    }

    /// The value of a key, or of a hyper-parameter further up.
    fn lookup(&self, name: &str) -> Option<Value> {
        let checkpoint = self.place.checkpoint;
        if let Some(key) = name.strip_prefix("config.") {
            // Of models that see and hear, too, the text's part has an object of its own.
            let config = checkpoint.config();
            let text = config.and_then(|config| config.get("text_config"));
            let find = |config| at(config, key).filter(|found| !found.is_null()).cloned();
            return config.and_then(find).or_else(|| text.and_then(find));
        }
        if let Some(key) = name.strip_prefix("gguf.") {
            let metadata = checkpoint.metadata();
            let own = metadata.get("general.architecture").and_then(MetaValue::as_str);
            let own = own.unwrap_or(self.architecture.name);
            return metadata.get(&format!("{own}.{key}")).map(json);
        }
        match name {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => self.numbers.get(name).map(|known| known.number.into()),
        }
    }

    /// The value of a formula in layer `layer`; `None` if a key or hyper-parameter is not there.
    fn value(&self, expr: &Expr<'_>, layer: usize) -> Result<Option<Value>, FormatError> {
        let tensor_of = |expr: &Expr<'_>, layer: usize| {
            let Expr::Name(name, _) = expr else { return Err(self.typo("a tensor's name")) };
            self.place.tensor(&self.place.name(Some(layer), name))
        };
        let tensor = |expr: &Expr<'_>| {
            let layers = 1..self.place.n_layer().min(MOST_LAYERS) as usize;
            let mut later = layers.filter_map(|i| tensor_of(expr, i).ok());
            tensor_of(expr, 0).or_else(|error| later.next().ok_or(error))
        };
        let number = |value: Option<Value>| value.as_ref().and_then(number);
        Ok(match expr {
            Expr::Number(n) => Some((*n).into()),
            Expr::Name("layer", _) => Some(layer.into()),
            Expr::Name(name, _) => self.lookup(name),
            Expr::Negative(inner) => number(self.value(inner, layer)?).map(|n| (-n).into()),
            Expr::Two(operator, a, b) => {
                let (a, b) = (self.value(a, layer)?, self.value(b, layer)?);
                number(a).zip(number(b)).map(|(a, b)| operator.apply(a, b).into())
            }
            Expr::Call("interval", of) => {
                let every = number(self.value(&of[0], layer)?).filter(|every| *every >= 1.0);
                let full = |every: f64, i: usize| (i + 1).is_multiple_of(every as usize);
                let kinds = match &of[1..] {
                    [Expr::Name(other, _), Expr::Name(kind, _)] => [*kind, *other],
                    _ => [FULL, "linear_attention"],
                };
                every.and_then(|every| self.kinds(kinds, |i| full(every, i)))
            }
            Expr::Call("listed", of) => self.value(&of[0], layer)?.and_then(|list| {
                let list: Vec<Option<u64>> = list.as_array()?.iter().map(Value::as_u64).collect();
                let Some(Expr::Name(other, _)) = of.get(1) else { return None };
                let kind = match of.get(2) {
                    Some(Expr::Name(kind, _)) => kind,
                    _ => FULL,
                };
                self.kinds([kind, other], |i| list.contains(&Some(i as u64)))
            }),
            Expr::Call("repeated", of) => self.value(&of[0], layer)?.and_then(|list| {
                let n_layer = self.numbers.get("n_layer")?.number as usize;
                let words: Vec<Value> =
                    list.as_array()?.iter().cycle().take(n_layer).cloned().collect();
                Some(words.into())
            }),
            Expr::Call("where", of) => {
                let n_layer = self.numbers.get("n_layer").map_or(0.0, |known| known.number);
                let word = |i| {
                    let mut pairs = of.chunks_exact(2);
                    let found = pairs.find(|pair| tensor_of(&pair[0], i).is_ok());
                    match found.map(|pair| &pair[1]).or(of.last()) {
                        Some(Expr::Name(word, _)) => *word,
                        _ => "",
                    }
                };
                let layers = 0..(n_layer as u64).min(MOST_LAYERS) as usize;
                Some(layers.map(word).collect::<Vec<_>>().into())
            }
            Expr::Call("integers", of) => {
                let n_layer = self.numbers.get("n_layer").map_or(0.0, |known| known.number);
                let of_layer = |i| match tensor_of(&of[0], i) {
                    Ok(tensor) => Ok(tensor.read_integers()?.into()),
                    Err(_) => Ok(Value::Null),
                };
                let layers = 0..(n_layer as u64).min(MOST_LAYERS) as usize;
                Some(layers.map(of_layer).collect::<Result<Vec<_>, FormatError>>()?.into())
            }
            Expr::Call("counted", of) => self.value(&of[0], layer)?.and_then(|list| {
                let list = list.as_array()?;
                self.kinds([FULL, "conv"], |i| {
                    list.get(i).and_then(Value::as_u64).is_some_and(|n| n > 0)
                })
            }),
            Expr::Call("bf16", of) => {
                number(self.value(&of[0], layer)?).map(|n| half::bf16::from_f64(n).to_f64().into())
            }
            Expr::Call("largest", of) => self.value(&of[0], layer)?.and_then(|list| {
                list.as_array()?.iter().filter_map(Value::as_u64).max().map(Value::from)
            }),
            Expr::Call("is_null", of) => {
                let Expr::Name(name, _) = &of[0] else { return Err(self.typo("is_null")) };
                let (config, key) = (self.place.checkpoint.config(), name.strip_prefix("config."));
                let found = config.zip(key).and_then(|(config, key)| at(config, key));
                Some(u8::from(found.is_some_and(Value::is_null)).into())
            }
            Expr::Call("layers", _) => Some(self.place.n_layer().into()),
            Expr::Call("has_any", names) => {
                Some(names.iter().any(|name| tensor(name).is_ok()).into())
            }
            Expr::Call("has", names) => {
                Some(names.iter().any(|name| tensor_of(name, 0).is_ok()).into())
            }
            Expr::Call("first", names) => {
                Some(tensor(&names[0])?.shape.first().copied().unwrap_or(1).into())
            }
            Expr::Call("second", names) => {
                Some(tensor(&names[0])?.shape.get(1).copied().unwrap_or(1).into())
            }
            Expr::Call("last", names) => {
                Some(tensor(&names[0])?.shape.last().copied().unwrap_or(1).into())
            }
            Expr::Call("count", names) => Some(tensor(&names[0])?.numel().into()),
            Expr::Call(..) | Expr::Braces(_) => return Err(self.typo("a formula")),
        })
    }

    /// A word for each layer: `kind` where that holds, `other` elsewhere.
    fn kinds(&self, [kind, other]: [&str; 2], is_it: impl Fn(usize) -> bool) -> Option<Value> {
        let n_layer = self.numbers.get("n_layer")?.number as usize;
        let word = |i| if is_it(i) { kind } else { other };
        Some((0..n_layer).map(word).collect::<Vec<_>>().into())
    }

    /// The number that a formula of hyper-parameters has in layer `layer`, if all are known.
    pub(super) fn number(&self, expr: &Expr<'_>, layer: usize) -> Result<Option<f64>, FormatError> {
        Ok(self.value(expr, layer)?.as_ref().and_then(number))
    }

    /// The size that a formula gives, if all its hyper-parameters are known.
    pub(super) fn size(&self, expr: &Expr<'_>) -> Result<Option<usize>, FormatError> {
        let whole = |n: &f64| *n >= 0.0 && *n < u32::MAX.into() && n.fract() == 0.0;
        Ok(self.number(expr, 0)?.filter(whole).map(|n| n as usize))
    }

    /// The size that the text of a formula gives, if all its hyper-parameters are known.
    pub(super) fn size_of(&self, text: &str) -> Result<Option<usize>, FormatError> {
        self.size(&formula(text).map_err(|rest| self.typo(rest))?)
    }

    /// Whether the dimension that the formula `dim` gives may be `size`, as `tensor` shows it: it
    /// is, or it is a hyper-parameter that was not known, and `size` is not zero.
    pub(super) fn bind(
        &mut self,
        dim: &'static str,
        size: usize,
        tensor: &str,
    ) -> Result<bool, FormatError> {
        if let Some(known) = self.size_of(dim)? {
            return Ok(known == size && size > 0);
        }
        let mut params = self.architecture.hyper.iter();
        let is_free = params.any(|param| param.0 == dim && param.3.is_empty());
        let fits = is_free && size > 0 && size < u32::MAX as usize;
        if fits {
            let known = Known { number: size as f64, from: format!("{tensor:?}") };
            self.numbers.insert(dim, known);
            self.config.insert(dim.to_owned(), size.into());
        }
        Ok(fits)
    }

    /// `dim = 12`, or the formula alone while it is not known.
    pub(super) fn described(&self, dim: &str) -> String {
        match self.size_of(dim) {
            Ok(Some(size)) if dim.contains(char::is_alphabetic) => format!("{dim} = {size}"),
            _ => dim.to_owned(),
        }
    }

    /// Tests the equations whose hyper-parameters are all known.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        for check in self.architecture.checks {
            let sides = check.split_once(" = ").ok_or_else(|| self.typo(check))?;
            let side = |text| formula(text).map_err(|rest| self.typo(rest));
            let (left, right) = (side(sides.0)?, side(sides.1)?);
            let both = self.number(&left, 0)?.zip(self.number(&right, 0)?);
            if both.is_some_and(|(left, right)| left != right) {
                let mut names = Vec::new();
                collect(&left, &mut names);
                collect(&right, &mut names);
                let found = names.iter().filter_map(|name| {
                    let known = self.numbers.get(name)?;
                    Some(format!("{name} = {} ({})", known.number, known.from))
                });
                let found: Vec<String> = found.collect();
                let (expected, found) = ((*check).to_owned(), found.join(", "));
                return Err(self.place.field("the sizes", expected, found));
            }
        }
        Ok(())
    }

    /// The hyper-parameters of the file to be.
    pub(super) fn into_config(self) -> Map<String, Value> {
        self.config
    }

    /// An error of a table, which no checkpoint can cause.
    pub(super) fn typo(&self, rest: &str) -> FormatError {
        let expected = "one that can be read".to_owned();
        self.place.field("a cell of the converter's tables", expected, format!("{rest:?}"))
    }
}

/// The names in a formula, each once.
fn collect<'t>(expr: &Expr<'t>, names: &mut Vec<&'t str>) {
    match expr {
        Expr::Name(name, _) if !names.contains(name) => names.push(name),
        Expr::Negative(inner) => collect(inner, names),
        Expr::Two(_, a, b) => {
            collect(a, names);
            collect(b, names);
        }
        _ => {}
    }
}
