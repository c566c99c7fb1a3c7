use proptest::prelude::*;

use super::*;
use crate::oci::Platform;

const NEW: Features = Features { heredocs: true };
const OLD: Features = Features { heredocs: false };

fn externals(
    text: &str,
    target: Option<&str>,
    arguments: &[(&str, &str)],
) -> Result<Vec<String>, String> {
    let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let arguments: BTreeMap<_, _> = arguments.collect();
    let platform: Platform = "linux/arm64".parse().unwrap();
    let scope = Scope { arguments: &arguments, target, platform: &platform };
    let parsed = Dockerfile::parse(text, NEW).map_err(|error| error.to_string())?;
    let found = parsed.externals(&scope).map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|image| format!("{} {}", image.line, image.name)).collect())
}

#[test]
fn every_image_that_something_is_taken_from_is_found_once() {
    let text = "# syntax=x\n\
        ARG TAG=3 BASE=\"debian:${TAG}\"\n\
        FROM --platform=$BUILDPLATFORM ${BASE} AS Build\n\
        COPY --from=tools:1 --chown=1 /x /y\n\
        RUN --mount=type=bind,from=data,target=/d --mount=type=cache,target=/c \\\n\
        # in between\n\
        \n\
        make\n\
        FROM build AS more\n\
        COPY --from=0 /a /b\n\
        COPY --from=tools:1 /x /y\n\
        FROM scratch\n\
        COPY --from=BUILD /y /\n\
        FROM last-$TARGETARCH-${NOTHING:-x}-${TAG:+y}\n";
    let found = externals(text, None, &[("TAG", "4")]).unwrap();
    assert_eq!(found, ["3 debian:4", "4 tools:1", "5 data", "14 last-arm64-x-y"]);
    assert_eq!(externals(text, Some("build"), &[]).unwrap(), ["3 debian:3", "4 tools:1", "5 data"]);
    assert_eq!(externals(text, Some("2"), &[]).unwrap().len(), 3);
    assert!(externals(text, Some("4"), &[]).unwrap_err().contains("no stage \"4\""));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, expected) in [
        ("", "line 1: there is no FROM"),
        ("\n# x\nRUN x\n", "line 3: RUN stands before the first FROM"),
        ("FROM scratch\nRUNN x\n", "line 2: \"RUNN\" is no instruction"),
        ("FROM scratch\n\nENV\n", "line 3: ENV needs an argument"),
        ("FROM a b\n", "line 1: FROM takes an image, and AS with a name"),
        ("ARG A\nFROM ${A}\n", "line 2: FROM needs an image, and ${A} is empty"),
        ("FROM ${A\n", "line 1: \"${A\" has a variable"),
    ] {
        let error = externals(text, None, &[]).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn heredocs_are_passed_over_or_refused() {
    let text = "FROM scratch\nRUN cat <<-EOF <<'B' && echo \"<<C\"\nFROM x\n\tEOF\nnothing\nB\nCOPY <<f /f\nFROM y\nf\nENV A=<<EOF\nCMD x\n";
    let parsed = Dockerfile::parse(text, NEW).unwrap();
    let lines: Vec<_> = parsed.stages[0].instructions.iter().map(|i| i.line).collect();
    assert_eq!((parsed.stages.len(), lines), (1, vec![1, 2, 7, 10, 11]));
    let error = Dockerfile::parse(text, OLD).unwrap_err().to_string();
    assert!(error.contains("line 2: here-documents") && error.contains("1.33"), "{error}");
    // Shifting bits is no here-document, and neither is one that never ends.
    assert!(Dockerfile::parse("FROM scratch\nRUN echo $((1 <<A)) 1<<2\nRUN b\n", OLD).is_ok());
}

fn repeated(times: usize, line: impl Fn(usize) -> String) -> String {
    (0..times).map(line).collect::<Vec<_>>().concat()
}

#[test]
fn a_text_does_not_grow_without_end() {
    let doubling = repeated(60, |n| format!("ARG A{}=$A{n}$A{n}\n", n + 1));
    let doubling = format!("ARG A0=x\n{doubling}FROM $A60\n");
    let wide = repeated(9, |n| format!("ARG A{n}={}\n", "x".repeat(20 << 10)));
    let referring = repeated(60, |n| format!("ARG B{n}=$A0\n"));
    let stages = "FROM scratch\n".repeat(257);
    let images = repeated(257, |n| format!("COPY --from=i{n} /a /b\n"));
    for (text, expected) in [
        (doubling, "line 17: \"$A15$A15\" becomes longer than 32768 bytes"),
        (format!("{wide}{referring}FROM scratch\n"), "are longer than 1048576 bytes"),
        (stages, "line 257: expected at most 256 stages"),
        (format!("FROM scratch\n{images}"), "line 258: expected at most 256 images"),
    ] {
        let error = externals(&text, None, &[]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn many_heredocs_without_an_end_are_passed_over_at_once() {
    let text = format!("FROM scratch\n{}", "RUN x <<A <<B <<-C\n".repeat(13_000));
    let parsed = Dockerfile::parse(&text, OLD).unwrap();
    assert_eq!(parsed.stages[0].instructions.len(), 13_001);
}

#[test]
fn the_escape_character_can_be_another() {
    let parsed =
        Dockerfile::parse("# escape=`\nFROM scratch\nRUN a `\n b\\\nCMD c\n", NEW).unwrap();
    let steps: Vec<_> = (1..=3).map(|step| parsed.instruction(1, step).unwrap()).collect();
    assert_eq!((steps[1].rest.as_str(), steps[2].line), ("a  b\\", 5));
    assert!(parsed.instruction(1, 4).is_none() && parsed.instruction(0, 1).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_parsed_or_refused(text in "(FROM|RUN|ARG|COPY|#|[ $\\\\{}=<A-Za-z:\n\"'-]){0,40}") {
        for features in [OLD, NEW] {
            if let Ok(parsed) = Dockerfile::parse(&text, features) {
                let (arguments, platform) = (BTreeMap::new(), Platform::host());
                let _ = parsed.externals(&Scope { arguments: &arguments, target: None, platform: &platform });
            }
        }
    }
}
