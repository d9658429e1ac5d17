//! Tests of where settings come from.

use std::path::PathBuf;

use super::*;

#[derive(Debug, clap::Args)]
struct Args {
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long, default_value = "64")]
    max_body: u32,
    #[arg(long, env = "PATH")]
    from_path: Option<String>,
    #[arg(long, hide_env_values = true, default_value = "hush")]
    password: String,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, hide = true)]
    child: bool,
}

/// Loads with a file that says this.
fn load(text: &str, flags: &[&str]) -> Result<(Args, Settings), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let mut all = vec![OsString::from("--config"), path.clone().into()];
    all.extend(flags.iter().map(OsString::from));
    let place = format!("{}/", dir.path().display());
    let said = |error: anyhow::Error| format!("{error:#}").replace(&place, "");
    Settings::load(&all).map_err(said)
}

#[test]
fn flags_go_over_the_environment_over_the_file_over_defaults() {
    let (args, settings) = load("max_body = 7\nfrom-path = 'file'\nname = \"n\"", &[]).unwrap();
    assert_eq!(args.max_body, 7);
    assert_ne!(
        args.from_path.as_deref(),
        Some("file"),
        "the environment has PATH"
    );
    assert_eq!(args.name.as_deref(), Some("n"));
    let printed = settings.to_string();
    assert!(printed.contains("max_body = 7 # file "), "{printed}");
    assert!(printed.contains("c.toml:1\n"), "{printed}");
    assert!(printed.contains("# environment PATH\n"), "{printed}");
    let flags = ["--max-body", "9", "--from-path=flag"];
    let (args, settings) = load("max_body = 7", &flags).unwrap();
    assert_eq!(
        (args.max_body, args.from_path.as_deref()),
        (9, Some("flag"))
    );
    let printed = settings.to_string();
    assert!(
        printed.contains("max_body = 9 # flag --max-body\n"),
        "{printed}"
    );
    let (args, settings) = load("", &[]).unwrap();
    assert_eq!((args.max_body, args.name, args.child), (64, None, false));
    let printed = settings.to_string();
    assert!(printed.contains("max_body = 64 # default\n"), "{printed}");
    assert!(printed.contains("# name is not set\n"), "{printed}");
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same_and_no_secret() {
    for name in ["a\"b\\c\nd\u{7f}é", "true", "007", "5", ""] {
        let flags = [
            "--max-body=5",
            "--password=sesame",
            &format!("--name={name}"),
        ];
        let (_, settings) = load("", &flags).unwrap();
        let printed = settings.to_string();
        assert!(
            !printed.contains("sesame") && !printed.contains("config"),
            "{printed}"
        );
        let (args, read) = load(&printed, &[]).unwrap();
        assert_eq!((args.max_body, args.name.as_deref()), (5, Some(name)));
        assert_eq!(settings.changed(&read), ["password"]);
    }
}

#[test]
fn a_file_with_a_mistake_is_refused_with_its_line() {
    for (text, words) in [
        (
            "\nmax_bdy = 1",
            "c.toml:2: unknown setting max_bdy: did you mean max_body?",
        ),
        ("zzzzzzzz = 1", "c.toml:1: unknown setting zzzzzzzz"),
        ("child = true", "c.toml:1: unknown setting child"),
        ("config = 'x'", "c.toml:1: unknown setting config"),
        (
            "name = 'x'\nmax_body = 'x'",
            "c.toml:2: invalid value 'x' for '--max-body",
        ),
        (
            "[max_body]\nx = 1",
            "c.toml:1: max_body must be a text, a number, true or false",
        ),
        ("name = ['x']", "c.toml:1: name must be"),
        ("max_body = 1\nmax_body = 2", "c.toml:2: duplicate key"),
        ("max_body = ", "c.toml:1: "),
    ] {
        let said = load(text, &["--max-body=1"]).unwrap_err();
        assert!(said.starts_with(words), "{text:?}: {said}");
    }
    let none = [OsString::from("--config=/none/c.toml")];
    let said = format!("{:#}", Settings::load::<Args>(&none).unwrap_err());
    assert!(
        said.contains("/none/c.toml can't be read: No such file"),
        "{said}"
    );
}

#[test]
fn what_has_changed_is_named_and_taken_over_one_by_one() {
    let (_, mut old) = load("max_body = 1\nname = 'a'", &[]).unwrap();
    let (_, new) = load("max_body = 2\nname = 'b'", &[]).unwrap();
    assert_eq!(old.changed(&new), ["max_body", "name"]);
    old.take("max_body", &new);
    assert_eq!(old.changed(&new), ["name"]);
    assert!(old.to_string().contains("max_body = 2"));
}

#[test]
fn variables_that_are_no_settings_are_refused_with_the_nearest_name() {
    let known = clap::Command::new("t").subcommand(
        clap::Command::new("s").arg(clap::Arg::new("a").long("a").env("TRIALOG_MAX_BODY")),
    );
    let check = |name: &str| {
        let names = std::iter::once(OsString::from(name));
        check_environment(&known, names).map_err(|error| error.to_string())
    };
    for name in [
        "TRIALOG_MAX_BODY",
        "TRIALOG_BOOTSTRAP_KEY",
        "TRIALOG_TEST_SEED",
        "TRIALOG_SERVICE_HOST",
        "TRIALOG_PORT_7171_TCP",
        "PATH",
    ] {
        assert_eq!(check(name), Ok(()), "{name}");
    }
    let words =
        "unknown variable TRIALOG_MAX_BDY in the environment: did you mean TRIALOG_MAX_BODY?";
    assert_eq!(check("TRIALOG_MAX_BDY"), Err(words.into()));
    let words = "unknown variable TRIALOG_X_Y_Z_0_1_2_3 in the environment";
    assert_eq!(check("TRIALOG_X_Y_Z_0_1_2_3"), Err(words.into()));
}
