//! Making an experiment, and changing one: what `PUT /experiment/:slug` does.

use hyper::Response;

use super::form::Form;
use super::respond::redirect;
use super::{Seen, refuse, whole};
use crate::dashboard::layout::Here;
use crate::dashboard::link;
use crate::dashboard::pages::define::{self as view, CONTROL, Fields};
use crate::http::error::{ApiError, ApiResult, Code};
use crate::http::reply::Body;
use crate::http::server::AppState;
use crate::model::{Definition, Retention, Slug, Variant};

/// An empty form.
pub fn new(state: &AppState, seen: &Seen) -> Response<Body> {
    let fields = Fields {
        variants: ["A", "B"].map(|key| (key.to_owned(), String::new())).into(),
        control: Some(0),
        ..Fields::default()
    };
    show(state, seen, &fields, None, None)
}

/// Makes what the form says.
pub async fn create(state: &AppState, mut seen: Seen) -> ApiResult<Response<Body>> {
    let fields = read(state, &mut seen).await?;
    let made = make(state, &seen, &fields).await;
    match made {
        Ok(slug) => Ok(redirect(&link::experiment(&slug))),
        Err(refused) => refuse(state, refused, |message| {
            show(state, &seen, &fields, None, Some(message))
        }),
    }
}

/// A form that holds what is.
pub async fn edit(state: &AppState, seen: &Seen) -> ApiResult<Response<Body>> {
    let slug = seen.slug()?;
    let description = state.store.describe(slug).await?;
    let fields = fields_of(&description.definition);
    Ok(show(state, seen, &fields, Some(slug), None))
}

/// Changes what the form says.
pub async fn save(state: &AppState, mut seen: Seen) -> ApiResult<Response<Body>> {
    let fields = read(state, &mut seen).await?;
    let slug = seen.slug()?.clone();
    let definition = definition_of(&fields);
    let changed = match definition {
        Ok(definition) => state
            .store
            .define(&slug, definition)
            .await
            .map_err(ApiError::from),
        Err(refused) => Err(refused),
    };
    match changed {
        Ok(_) => Ok(redirect(&link::experiment(&slug))),
        Err(refused) => refuse(state, refused, |message| {
            show(state, &seen, &fields, Some(&slug), Some(message))
        }),
    }
}

async fn make(state: &AppState, seen: &Seen, fields: &Fields) -> ApiResult<Slug> {
    let slug = Slug::parse(&fields.slug)
        .map_err(|error| ApiError::new(Code::BadSlug, error.to_string()))?;
    seen.holder
        .principal
        .may(crate::auth::Scope::Admin, Some(&slug))?;
    // Made, and not changed: the form would change what it has never shown.
    if state.store.contains(&slug) {
        let message = "there is an experiment of this name already";
        return Err(ApiError::new(Code::BadDefinition, message));
    }
    state.define(&slug, definition_of(fields)?).await?;
    Ok(slug)
}

fn show(
    state: &AppState,
    seen: &Seen,
    fields: &Fields,
    slug: Option<&Slug>,
    message: Option<&str>,
) -> Response<Body> {
    let title = if slug.is_some() {
        "Edit"
    } else {
        "New experiment"
    };
    let content = view::define(fields, slug.map(Slug::as_str), message);
    whole(state, seen, title, Here::Experiments, content)
}

async fn read(state: &AppState, seen: &mut Seen) -> ApiResult<Fields> {
    let form = seen.take_form(state).await?;
    Ok(fields_in(&form))
}

fn fields_in(form: &Form) -> Fields {
    let (variants, control) = match form.get("variants") {
        "" => variants_in_fields(form),
        lines => variants_in_lines(lines),
    };
    Fields {
        slug: form.get("slug").to_owned(),
        description: form.get("description").to_owned(),
        unit: form.get("unit").to_owned(),
        control,
        variants,
        open_variants: !form.get("open").is_empty(),
        max_age: form.get("max_age").to_owned(),
        max_bytes: form.get("max_bytes").to_owned(),
    }
}

/// Keys and weights, and which of them is the control.
type Variants = (Vec<(String, String)>, Option<usize>);

/// One variant a line: key, weight and whether it is the control, with tabs between them.
fn variants_in_lines(text: &str) -> Variants {
    let mut control = None;
    let mut variants = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut parts = line.split('\t').map(str::trim);
        let mut part = || parts.next().unwrap_or_default();
        let (key, weight, mark) = (part(), part(), part());
        if mark == CONTROL {
            control = Some(variants.len());
        }
        variants.push((key.to_owned(), weight.to_owned()));
    }
    (variants, control)
}

fn variants_in_fields(form: &Form) -> Variants {
    let control: Option<usize> = form.get("control").parse().ok();
    let weights = form.all("weight").map(str::trim);
    let lines = form.all("key").map(str::trim).zip(weights).enumerate();
    // Lines without a key are none; the control's place is among those that are left.
    let lines: Vec<_> = lines
        .filter(|(_, (key, weight))| !(key.is_empty() && weight.is_empty()))
        .collect();
    let control = lines.iter().position(|(place, _)| Some(*place) == control);
    let variants = lines.into_iter();
    let variants = variants.map(|(_, (key, weight))| (key.to_owned(), weight.to_owned()));
    (variants.collect(), control)
}

fn fields_of(definition: &Definition) -> Fields {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let retention = definition.retention.clone().unwrap_or_default();
    let variants = definition.variants.iter();
    Fields {
        slug: String::new(),
        description: text(&definition.description),
        unit: text(&definition.unit),
        control: variants.clone().position(|variant| variant.control),
        variants: variants
            .map(|one| {
                (
                    one.key.to_string(),
                    one.weight
                        .map_or(String::new(), |weight| weight.to_string()),
                )
            })
            .collect(),
        open_variants: definition.open_variants,
        max_age: text(&retention.max_age),
        max_bytes: retention
            .max_bytes
            .map_or(String::new(), |bytes| bytes.to_string()),
    }
}

fn definition_of(fields: &Fields) -> ApiResult<Definition> {
    let bad = |message: String| ApiError::new(Code::BadDefinition, message);
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let variants = fields.variants.iter().enumerate();
    let variants = variants.map(|(place, (key, weight))| {
        let weight = some(weight).map(|weight| weight.parse::<f64>()).transpose();
        Ok(Variant {
            key: key.as_str().into(),
            weight: weight
                .map_err(|_| bad(format!("the weight of variant {key:?} is no number")))?,
            control: fields.control == Some(place),
        })
    });
    let max_bytes = some(&fields.max_bytes)
        .map(|bytes| bytes.parse::<u64>())
        .transpose();
    let retention = Retention {
        max_age: some(&fields.max_age),
        max_bytes: max_bytes.map_err(|_| bad("the bytes to keep are a whole number".into()))?,
    };
    Ok(Definition {
        variants: variants.collect::<ApiResult<_>>()?,
        open_variants: fields.open_variants,
        unit: some(&fields.unit),
        description: some(&fields.description),
        retention: Some(retention).filter(|retention| *retention != Retention::default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_and_sent_again_is_the_same() {
        let variant = |key: &str, weight, control| Variant {
            key: key.into(),
            weight,
            control,
        };
        let definition = Definition {
            variants: vec![
                variant("A", Some(0.1), false),
                variant("b c", Some(3.0), true),
            ],
            open_variants: true,
            unit: Some("context.user".into()),
            description: Some("two\nlines".into()),
            retention: Some(Retention {
                max_age: Some("90d".into()),
                max_bytes: Some(5),
            }),
        };
        assert_eq!(definition_of(&fields_of(&definition)).unwrap(), definition);
        let plain = Definition {
            variants: vec![variant("A", None, false)],
            ..Definition::default()
        };
        assert_eq!(definition_of(&fields_of(&plain)).unwrap(), plain);
    }

    #[test]
    fn lines_are_variants_too() {
        let text = "A\t0.5\r\n\r\nb c\n C \t 2 \t control\n";
        let (variants, control) = variants_in_lines(text);
        let expected = [("A", "0.5"), ("b c", ""), ("C", "2")];
        let expected = expected.map(|(key, weight)| (key.to_owned(), weight.to_owned()));
        assert_eq!((&variants[..], control), (&expected[..], Some(2)));
    }

    #[test]
    fn empty_lines_are_no_variants() {
        let form = Form::of(&[
            ("key", ""),
            ("weight", ""),
            ("key", "A"),
            ("weight", "1"),
            ("key", " B "),
            ("weight", ""),
            ("control", "2"),
        ]);
        let fields = fields_in(&form);
        assert_eq!(
            fields.variants,
            [("A".into(), "1".into()), ("B".into(), String::new())]
        );
        assert_eq!(fields.control, Some(1));
    }
}
