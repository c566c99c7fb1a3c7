//! What one line of the builder's output says.

/// What the builder adds to a program's own words.
pub(crate) fn is_noise(text: &str) -> bool {
    text.trim().is_empty()
        || text.starts_with("subprocess exited with status")
        || text.starts_with("--> ")
}

/// `[2/3] STEP 4/5: RUN make` as stage, step and instruction.
pub(crate) fn step_of(text: &str, stages: u32) -> Option<(u32, u32, &str)> {
    let (stage, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (place, rest) = rest.split_once("] ")?;
            (place.split_once('/')?.0.parse().ok()?, rest)
        }
        None => (1, text),
    };
    let (place, instruction) = rest.strip_prefix("STEP ")?.split_once(": ")?;
    let step = place.split_once('/')?.0.parse().ok()?;
    (1..=stages).contains(&stage).then_some((stage, step, instruction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_what_programs_say() {
        for (text, expected) in [
            ("STEP 1/3: FROM scratch", Some((1, 1, "FROM scratch"))),
            ("[2/3] STEP 4/5: RUN a: b", Some((2, 4, "RUN a: b"))),
            ("[4/4] STEP 1/2: RUN x", None),
            ("STEP x/2: RUN x", None),
            ("[1/2] hello", None),
            ("STEP 1", None),
        ] {
            assert_eq!(step_of(text, 3), expected, "{text}");
        }
    }
}
