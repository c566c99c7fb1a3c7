#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]

use super::*;

#[test]
fn neighbours_are_fetched_together_and_long_ranges_in_parts() {
    let far = 2 * GAP + 20;
    assert_eq!(parts(&[54..60, 60..100, far..far + 5]), [54..100, far..far + 5]);
    assert_eq!(
        parts(&[54..54 + 2 * PART + 1]),
        [54..54 + PART, 54 + PART..54 + 2 * PART, 54 + 2 * PART..54 + 2 * PART + 1]
    );
    // What fits into the part before goes there, the rest into the next one.
    assert_eq!(
        parts(&[100..100 + PART - 1, 100 + PART..100 + PART + 9]),
        [100..100 + PART, 100 + PART..100 + PART + 9]
    );
    assert_eq!(parts(&[100..200, 150..160, 190..300]), [100..300]);
    // Whatever is wanted is in one part or in parts that follow one another.
    for wanted in [vec![1..PART, PART..3 * PART], vec![7..8, 9..PART + 9, PART + 10..PART + 11]] {
        let parts = parts(&wanted);
        assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "{parts:?}");
        for range in wanted {
            let covered: u64 = parts
                .iter()
                .map(|part| part.end.min(range.end).saturating_sub(part.start.max(range.start)))
                .sum();
            assert_eq!(covered, range.end - range.start, "{parts:?}");
        }
    }
}
