//! Where a command's settings come from: flags, over the environment, over a file, over defaults.
//!
//! Each setting is one argument of the command. Its name in the file is that of its flag, with `_`
//! for `-`. What the file says is handed to clap as flags in front of the real ones, so that there is
//! one parser, one check and one message for all of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use toml::de::{DeTable, DeValue};

/// The flag that names the file.
const FILE: &str = "config";
/// Flags that ask for something and set nothing.
const NO_SETTINGS: [&str; 3] = [FILE, "print_config", "help"];
/// Variables that are ours and no settings: a secret, what tests read, and what Kubernetes makes
/// of a service that is called trialog.
const OTHER_VARIABLES: [&str; 1] = ["TRIALOG_BOOTSTRAP_KEY"];
const OTHER_BEGINNINGS: [&str; 3] = ["TRIALOG_TEST_", "TRIALOG_SERVICE_", "TRIALOG_PORT"];

/// All settings of a command, by name.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, Setting>);

#[derive(Debug, Clone)]
struct Setting {
    /// As it was written; `None` if it isn't set.
    value: Option<String>,
    origin: Origin,
    is_secret: bool,
}

#[derive(Debug, Clone)]
enum Origin {
    Flag(String),
    Variable(String),
    File { path: PathBuf, line: usize },
    Default,
}

impl Settings {
    /// Reads the settings of a command that was called with these flags.
    pub fn load<A: clap::Args>(flags: &[OsString]) -> Result<(A, Self)> {
        let command = A::augment_args(Command::new("trialog").no_binary_name(true));
        let parse = |flags: &[OsString]| {
            let parsed = command.clone().try_get_matches_from(flags);
            parsed.map_err(|error| anyhow!("{}", first_line(&error)))
        };
        let given = parse(flags)?;
        let lines = match given.get_one::<PathBuf>(FILE) {
            Some(path) => read_file(path)?,
            None => Vec::new(),
        };
        let mut all = Vec::new();
        let mut places = BTreeMap::new();
        for line in lines {
            let arg = setting_named(&command, &line.name)
                .with_context(|| line.at(&unknown(&command, &line.name)))?;
            let flag = OsString::from(format!("--{}={}", long(arg), line.value));
            // Also where a flag or a variable says something else: a file is right or it isn't.
            parse(std::slice::from_ref(&flag)).map_err(|error| anyhow!(line.at(&error)))?;
            if !is_given(&given, arg) {
                all.push(flag);
            }
            places.insert(arg.get_id().to_string(), (line.path, line.line));
        }
        all.extend_from_slice(flags);
        let matches = parse(&all)?;
        let args = A::from_arg_matches(&matches).map_err(|error| anyhow!(first_line(&error)))?;
        let settings = settings(&command).map(|arg| {
            let id = arg.get_id().to_string();
            let origin = origin(&given, arg, places.remove(&id));
            let raw = matches.get_raw(&id).and_then(|mut values| values.next());
            let value = raw.map(|value| value.to_string_lossy().into_owned());
            let is_secret = arg.is_hide_env_values_set();
            let setting = Setting {
                value,
                origin,
                is_secret,
            };
            (id, setting)
        });
        Ok((args, Self(settings.collect())))
    }

    /// The names of settings that have another value in `new`.
    pub fn changed(&self, new: &Self) -> Vec<String> {
        let differs = |name: &&String| {
            let value = |of: &Self| of.0.get(*name).and_then(|setting| setting.value.clone());
            value(self) != value(new)
        };
        self.0.keys().filter(differs).cloned().collect()
    }

    /// Takes one over from `new`.
    pub fn take(&mut self, name: &str, new: &Self) {
        if let Some(setting) = new.0.get(name) {
            self.0.insert(name.to_owned(), setting.clone());
        }
    }
}

/// As TOML, with where each came from.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, setting) in &self.0 {
            let origin = &setting.origin;
            match &setting.value {
                None => writeln!(f, "# {name} is not set")?,
                Some(_) if setting.is_secret => {
                    writeln!(f, "# {name} is set, and not shown # {origin}")?;
                }
                Some(value) => writeln!(f, "{name} = {} # {origin}", toml_of(value))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "environment {name}"),
            // A name with a line break in it would end the comment.
            Self::File { path, line } => {
                let path = path.display().to_string();
                write!(f, "file {}:{line}", path.escape_debug())
            }
            Self::Default => f.write_str("default"),
        }
    }
}

/// Refuses variables of ours that no command knows, since one that is misspelt would be no setting.
pub fn check_environment(
    all_commands: &Command,
    names: impl Iterator<Item = OsString>,
) -> Result<()> {
    let mut known = OTHER_VARIABLES.map(str::to_owned).to_vec();
    collect_variables(all_commands, &mut known);
    for name in names {
        let name = name.to_string_lossy();
        let is_other = OTHER_BEGINNINGS.iter().any(|begin| name.starts_with(begin));
        if name.starts_with("TRIALOG_") && !is_other && !known.iter().any(|one| *one == name) {
            let nearest = did_you_mean(&name, known.iter().map(String::as_str));
            bail!("unknown variable {name} in the environment{nearest}");
        }
    }
    Ok(())
}

fn collect_variables(command: &Command, known: &mut Vec<String>) {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    for command in command.get_subcommands() {
        collect_variables(command, known);
    }
}

fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        let is_one = !NO_SETTINGS.contains(&arg.get_id().as_str());
        is_one && !arg.is_hide_set() && arg.get_long().is_some()
    })
}

fn setting_named<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let name = name.replace('-', "_");
    settings(command).find(|arg| arg.get_id().as_str() == name)
}

fn long(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

fn is_given(given: &ArgMatches, arg: &Arg) -> bool {
    let source = given.value_source(arg.get_id().as_str());
    matches!(
        source,
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

fn origin(given: &ArgMatches, arg: &Arg, place: Option<(PathBuf, usize)>) -> Origin {
    match (given.value_source(arg.get_id().as_str()), place) {
        (Some(ValueSource::CommandLine), _) => Origin::Flag(long(arg).to_owned()),
        (Some(ValueSource::EnvVariable), _) => {
            let name = arg.get_env().unwrap_or_default();
            Origin::Variable(name.to_string_lossy().into_owned())
        }
        (_, Some((path, line))) => Origin::File { path, line },
        _ => Origin::Default,
    }
}

/// A setting in a file.
struct Line {
    path: PathBuf,
    line: usize,
    name: String,
    value: String,
}

impl Line {
    fn at(&self, what: &impl fmt::Display) -> String {
        format!("{}:{}: {what}", self.path.display(), self.line)
    }
}

fn read_file(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the settings in {} can't be read", path.display()))?;
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(&text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        anyhow!("{}:{line}: {}", path.display(), error.message())
    })?;
    let mut lines = Vec::new();
    for (name, value) in table.get_ref() {
        let mut line = Line {
            path: path.to_owned(),
            line: line_of(name.span().start),
            name: name.get_ref().to_string(),
            value: String::new(),
        };
        line.value = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(whether) => whether.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => bail!(line.at(&format!(
                "{} must be a text, a number, true or false",
                line.name
            ))),
        };
        lines.push(line);
    }
    Ok(lines)
}

fn unknown(command: &Command, name: &str) -> String {
    let names = settings(command).map(|arg| arg.get_id().as_str());
    let nearest = did_you_mean(&name.replace('-', "_"), names);
    format!("unknown setting {name}{nearest}")
}

/// `: did you mean …?`, if one of the names is near.
fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    let far = |other: &&str| distance(name, other);
    let nearest = names.min_by_key(far);
    let near = nearest.filter(|other| distance(name, other) <= 2.max(name.len() / 3));
    near.map_or(String::new(), |other| format!(": did you mean {other}?"))
}

/// How many characters have to be put in, left out or changed (Levenshtein).
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (at, a) in one.chars().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        let mut next = vec![left];
        for (b, above) in two.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(a != *b))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn toml_of(value: &str) -> String {
    let is_number = value
        .parse::<i64>()
        .is_ok_and(|number| number.to_string() == value);
    match is_number || matches!(value, "true" | "false") {
        true => value.to_owned(),
        // JSON escapes as TOML does, all but one character.
        false => serde_json::Value::from(value)
            .to_string()
            .replace('\u{7f}', "\\u007f"),
    }
}

/// What is wrong, without clap's hints on usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests;
