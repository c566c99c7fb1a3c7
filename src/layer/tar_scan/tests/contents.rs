//! However a stream is cut into pieces, the same comes of it.

use proptest::prelude::*;

use super::*;
use crate::clip::node::NodePath;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_make_the_same_entries(piece in 1_usize..3000) {
        let tar = build(|b| {
            file(b, &"long/".repeat(60), &[1; 700]);
            file(b, "f", &[2; 512]);
            file(b, "g", b"");
        });
        prop_assert_eq!(scan_in_pieces(&tar, piece), scan_in_pieces(&tar, tar.len()));
    }
}

#[test]
fn wanted_content_comes_whole_and_in_order() {
    #[derive(Default)]
    struct Taken {
        files: Vec<(String, u64, Vec<u8>)>,
        ended: usize,
    }
    impl Contents for Taken {
        fn begin(&mut self, path: &NodePath, offset: u64, _: u64) -> std::io::Result<bool> {
            let wanted = !path.as_bytes().ends_with(b"skip");
            if wanted {
                self.files.push((path.to_string(), offset, Vec::new()));
            }
            Ok(wanted)
        }
        fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            self.files.last_mut().unwrap().2.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> std::io::Result<()> {
            self.ended += 1;
            Ok(())
        }
    }
    let tar = build(|builder| {
        file(builder, "a", &[1; 700]);
        file(builder, "skip", &[2; 700]);
        file(builder, "empty", b"");
        file(builder, "b", &[3; 512]);
    });
    for piece in [1, 511, 512, 513, tar.len()] {
        let (mut scanner, mut taken) =
            (TarScanner::new(Limits::default(), &MemoryAccount::default()), Taken::default());
        for bytes in tar.chunks(piece) {
            scanner.push(bytes, &mut taken).unwrap();
        }
        scanner.finish().unwrap();
        assert_eq!(taken.ended, 3);
        assert_eq!(
            taken.files,
            [
                ("/a".to_owned(), 512, vec![1; 700]),
                ("/empty".to_owned(), 3584, Vec::new()),
                ("/b".to_owned(), 4096, vec![3; 512]),
            ]
        );
    }
}
