//! What is taken and what is refused, and that the grammar is serde_json's.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::experiment::OverBudget;

fn parse(text: impl AsRef<[u8]>) -> Result<NewEntry, BodyError> {
    parse_entry(Bytes::copy_from_slice(text.as_ref()), NESTING_MAX)
}

fn code(text: impl AsRef<[u8]>) -> &'static str {
    match parse(text) {
        Ok(_) => "ok",
        Err(error) => error.code.as_str(),
    }
}

#[test]
fn the_example_is_taken_as_it_is() {
    let text = r#"{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}"#;
    let entry = parse(text).unwrap();
    assert_eq!(&*entry.variant_key, "A");
    assert_eq!(entry.body, text);
}

#[test]
fn an_entry_is_a_slice_of_the_body() {
    let body = Bytes::from_static(b" \n{\"variantKey\":\"A\"}\r\n ");
    let entry = parse_entry(body.clone(), NESTING_MAX).unwrap();
    assert_eq!(entry.body, "{\"variantKey\":\"A\"}");
    assert_eq!(entry.body.as_ptr(), body[2..].as_ptr());
}

#[test]
fn codes() {
    let deep = |n: usize| {
        format!(
            r#"{{"variantKey":"A","x":{}{}}}"#,
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    for (text, expected) in [
        ("", "body_empty"),
        (" \n", "body_empty"),
        ("\u{feff}{}", "body_bom"),
        ("[]", "not_an_object"),
        ("null", "not_an_object"),
        ("\"x\"", "not_an_object"),
        ("{", "json_syntax"),
        (r#"{"variantKey":"A""#, "json_syntax"),
        (r#"{"variantKey":"A",}"#, "json_syntax"),
        (r#"{"variantKey":"A","x":NaN}"#, "json_syntax"),
        (r#"{"variantKey":"A","x":Infinity}"#, "json_syntax"),
        (r#"{"variantKey":"A","x":01}"#, "json_syntax"),
        (r#"{"variantKey":"A","x":"\x"}"#, "json_syntax"),
        ("{\"variantKey\":\"A\nB\"}", "json_syntax"),
        (r#"{'variantKey':'A'}"#, "json_syntax"),
        (r#"{"variantKey":"A"} x"#, "json_trailing"),
        (r#"{"variantKey":"A"}{}"#, "json_trailing"),
        ("{\"variantKey\":\"A\"}\0", "json_trailing"),
        ("{}", "variant_key_missing"),
        (r#"{"variantKey":null}"#, "variant_key_missing"),
        (r#"{"variantkey":"A"}"#, "variant_key_missing"),
        (r#"{"variantKey":1}"#, "variant_key_type"),
        (r#"{"variantKey":["A"]}"#, "variant_key_type"),
        (r#"{"variantKey":""}"#, "variant_key_empty"),
        (r#"{"variantKey":"A","variantKey":"A"}"#, "duplicate_field"),
        (
            r#"{"variantKey":"A","variant\u004bey":"A"}"#,
            "duplicate_field",
        ),
        (r#"{"variantKey":"A","x":1,"\u0078":1}"#, "duplicate_field"),
        (
            r#"{"variantKey":"A","input":null,"input":null}"#,
            "duplicate_field",
        ),
        (r#"{"variantKey":"A","logId":"x"}"#, "reserved_field"),
        (r#"{"receivedAt":null,"variantKey":"A"}"#, "reserved_field"),
        (
            r#"{"variantKey":"A","\u0065xperiment":{}}"#,
            "reserved_field",
        ),
        (r#"{"variantKey":"A","logid":1,"Experiment":1}"#, "ok"),
        (
            r#"{"variantKey":"A","input":{"logId":1,"experiment":2}}"#,
            "ok",
        ),
        (r#"{"variantKey":"A","metrics":[]}"#, "field_type"),
        (r#"{"variantKey":"A","input":"x"}"#, "field_type"),
        (r#"{"variantKey":"A","output":1}"#, "field_type"),
        (r#"{"variantKey":"A","context":true}"#, "field_type"),
        (r#"{"variantKey":"\ud800"}"#, "json_lone_surrogate"),
        (
            r#"{"variantKey":"A","x":{"y":["\udc00"]}}"#,
            "json_lone_surrogate",
        ),
        (r#"{"variantKey":"A","\ud800":1}"#, "json_lone_surrogate"),
        (
            r#"{"variantKey":"A","x":{"\ud800":1}}"#,
            "json_lone_surrogate",
        ),
        (r#"{"variant\u004bey":"A"}"#, "ok"),
        (r#"{"variantKey":"A","x":{"y":1,"y":2}}"#, "ok"),
        (r#"{"variantKey":"A","input":null,"metrics":{}}"#, "ok"),
        (
            r#"{"variantKey":"A","x":123456789012345678901234567890,"y":1e400,"z":0.10}"#,
            "ok",
        ),
        (deep(127).as_str(), "ok"),
        (deep(128).as_str(), "json_too_deep"),
        (deep(20_000).as_str(), "json_too_deep"),
        ("{\"a\":".repeat(20_000).as_str(), "json_too_deep"),
    ] {
        assert_eq!(code(text), expected, "{}", &text[..text.len().min(80)]);
    }
    assert_eq!(code(b"{\"variantKey\":\"\xff\"}"), "body_not_utf8");
    assert_eq!(code(b"{\"variantKey\":\"\xed\xa0\x80\"}"), "body_not_utf8");
}

#[test]
fn the_length_of_a_key_is_in_unescaped_bytes() {
    let key = |text: &str| format!(r#"{{"variantKey":"{text}"}}"#);
    assert_eq!(code(key(&"x".repeat(128))), "ok");
    assert_eq!(code(key(&"x".repeat(129))), "variant_key_too_long");
    assert_eq!(code(key(&r"\u0041".repeat(128))), "ok");
    assert_eq!(code(key(&"ä".repeat(65))), "variant_key_too_long");
    assert_eq!(
        &*parse(key(r"\u00e4\n\ud83d\ude00")).unwrap().variant_key,
        "ä\n😀"
    );
}

#[test]
fn messages_name_the_place_and_not_the_content() {
    let message = |text: &str| parse(text).unwrap_err().message;
    assert_eq!(
        message("{\"variantKey\":\"A\",\n \"metrics\": \"secret\"}"),
        "metrics must be an object or null (line 2, column 13)"
    );
    assert_eq!(
        message(r#"{"variantKey":"A","input":{},"input":{"secret":1}}"#),
        "input is there twice, the second time here (line 1, column 38)"
    );
    assert_eq!(
        message(r#"{"variantKey":"A"} secret"#),
        "there is something behind the JSON (line 1, column 20)"
    );
    for text in [
        "\"secret\"",
        "{\"variantKey\": secret}",
        "{\"secret\"}",
        "{\"variantKey\":[\"secret\"]}",
    ] {
        assert!(!message(text).contains("secret"), "{text}");
    }
    let doubled = format!(r#"{{"{0}":1,"{0}":1}}"#, "k".repeat(1000));
    assert!(message(&doubled).len() < 150);
}

#[test]
fn many_members_take_no_more_than_their_length() {
    let members: Vec<_> = (0..100_000).map(|i| format!("\"k{i}\":{i}")).collect();
    let text = format!(r#"{{"variantKey":"A",{}}}"#, members.join(","));
    assert_eq!(code(&text), "ok");
    let text = format!(r#"{{"variantKey":"A",{},"k99999":1}}"#, members.join(","));
    assert_eq!(code(&text), "duplicate_field");
}

fn batch(text: &str, shape: Option<Shape>) -> Result<Batch, BodyError> {
    parse_batch(
        Bytes::copy_from_slice(text.as_bytes()),
        shape,
        NESTING_MAX,
        &mut |_| Ok(()),
    )
}

fn keys(batch: &Batch) -> Vec<&str> {
    batch
        .entries
        .iter()
        .map(|entry| &*entry.variant_key)
        .collect()
}

#[test]
fn a_batch_of_lines() {
    let text = "\r\n{\"variantKey\":\"A\"}\r\n\n  {\"variantKey\":\"B\"}  \n{\"variantKey\":\"C\"}";
    let whole = batch(text, None).unwrap();
    assert_eq!(keys(&whole), ["A", "B", "C"]);
    assert_eq!(whole.entries[1].body, "{\"variantKey\":\"B\"}");
    assert_eq!(whole.places().name(1), "line 4");
    let error = batch(
        "{\"variantKey\":\"A\"}\n\n{\"variantKey\":7}\n",
        Some(Shape::Lines),
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        "line 3: variantKey must be a string (line 3, column 15)"
    );
    for text in ["", "\n", " \r\n\n"] {
        assert_eq!(batch(text, None).unwrap_err().code, Code::BatchEmpty);
    }
    assert_eq!(
        batch("[]", Some(Shape::Lines)).unwrap_err().code,
        Code::NotAnObject
    );
}

#[test]
fn a_form_feed_is_no_white_space() {
    for text in [
        "{\"variantKey\":\"A\"}\x0c\n",
        "{\"variantKey\":\"A\"}\n\x0c\n{\"variantKey\":\"B\"}",
        "\x0c{\"variantKey\":\"A\"}",
    ] {
        assert!(batch(text, Some(Shape::Lines)).is_err(), "{text:?}");
    }
    let text = "\x0c[{\"variantKey\":\"A\"}]";
    assert_eq!(batch(text, None).unwrap_err().code, Code::NotAnObject);
    assert_eq!(code("\x0c"), "not_an_object");
}

#[test]
fn a_batch_as_an_array() {
    let text = "[ {\"variantKey\":\"A\"} ,\n{\"variantKey\":\"B\"}]\n";
    let whole = batch(text, None).unwrap();
    assert_eq!(keys(&whole), ["A", "B"]);
    assert_eq!(whole.entries[1].body, "{\"variantKey\":\"B\"}");
    assert_eq!(whole.places().name(1), "element 2");
    for (text, code, message) in [
        (
            "[]",
            "batch_empty",
            "the batch has no entry (line 1, column 1)",
        ),
        (
            "{}",
            "not_an_array",
            "a JSON array is expected (one entry on each line is application/x-ndjson) (line 1, column 1)",
        ),
        (
            "[{\"variantKey\":\"A\"},7]",
            "not_an_object",
            "element 2: a JSON object is expected (line 1, column 21)",
        ),
        (
            "[{\"variantKey\":\"A\"}",
            "json_syntax",
            "element 2: EOF while parsing a list (line 1, column 19)",
        ),
        (
            "[{\"variantKey\":\"A\"}]]",
            "json_trailing",
            "there is something behind the JSON (line 1, column 21)",
        ),
    ] {
        let error = batch(text, Some(Shape::Array)).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            (code, message)
        );
    }
}

#[test]
fn many_small_entries_ask_for_memory() {
    let text = "{\"variantKey\":\"A\"}\n".repeat(3000);
    let mut asked = 0;
    let whole = parse_batch(text.clone().into(), None, NESTING_MAX, &mut |bytes| {
        asked += bytes;
        Ok(())
    });
    assert_eq!(whole.unwrap().entries.len(), 3000);
    assert_eq!(asked, 2048 * ENTRY_BYTES);
    let refused = parse_batch(text.into(), None, NESTING_MAX, &mut |_| Err(OverBudget));
    assert_eq!(refused.unwrap_err().code, Code::Overloaded);
}

/// JSON of any kind, not nested deeply.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Whether this code speaks of the grammar of JSON (and its text) alone.
fn is_of_the_grammar(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        BodyEmpty | BodyNotUtf8 | BodyBom | JsonSyntax | JsonTrailing | JsonLoneSurrogate
    )
}

proptest! {
    #[test]
    fn valid_entries_come_through(key in "\\PC{1,32}", input in any_json(), x in any_json()) {
        let value = serde_json::json!({ "variantKey": key, "input": { "v": input }, "x": x });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let entry = parse(&text).unwrap();
            prop_assert_eq!(&*entry.variant_key, key.as_str());
            prop_assert_eq!(entry.body, text);
        }
    }

    /// Broken in one place, a body is refused for its grammar exactly when serde_json refuses it.
    #[test]
    fn the_grammar_is_serde_jsons(
        x in any_json(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"{}[]\",:\\u0d8eE.+-1 tfn\n\x00\x1f\x80\xff".to_vec()),
        cut in any::<bool>(),
    ) {
        let value = serde_json::json!({ "variantKey": "A\u{e4}", "x": x });
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        let theirs = serde_json::from_slice::<Value>(&text);
        match (parse(&text), theirs) {
            (Ok(entry), Ok(theirs)) => {
                prop_assert_eq!(&*entry.variant_key, theirs["variantKey"].as_str().unwrap());
            }
            (Err(error), Ok(_)) => prop_assert!(!is_of_the_grammar(error.code), "{:?}", error),
            // What they can't hold is no fault of the text.
            (Ok(_), Err(theirs)) => {
                prop_assert!(theirs.to_string().contains("out of range"), "{}", theirs);
            }
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = parse_batch(bytes.into(), None, NESTING_MAX, &mut |_| Ok(()));
    }
}
