use super::super::gob::golden;
use super::*;

fn wrapped(kind: &str, data: &[u8]) -> Vec<u8> {
    let mut types = Definitions::new();
    let ids = [builtin::STRING, builtin::BYTES];
    let wrapper = types.structure("StorageInfoWrapper", &zip(WRAPPER, ids));
    types.finish(wrapper, true, |e| {
        e.structure(|f| {
            f.bytes(0, kind.as_bytes());
            f.bytes(1, data);
        });
    })
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// What the golden vector G2 holds.
pub(super) fn golden_image() -> OciStorageInfo {
    let layer = golden::layer();
    let checkpoint =
        |compressed_offset, plain_offset| GzipCheckpoint { compressed_offset, plain_offset };
    OciStorageInfo {
        registry_url: "index.docker.io".into(),
        repository: "library/x".into(),
        reference: "sha256:bb".into(),
        layers: vec![layer],
        gzip_checkpoints: [(layer, vec![checkpoint(100, 200), checkpoint(0, 0)])].into(),
        plain_digests: [(layer, golden::plain())].into(),
        image_metadata: Some(ImageMetadata {
            name: "n".into(),
            created: Some("2024-01-02T03:04:05.000000006Z".parse().unwrap()),
            env: texts(&["A=b"]),
            exposed_ports: texts(&["80/tcp"]),
            layers: texts(&[&layer.to_string()]),
            layers_data: vec![LayerMetadata {
                media_type: "m".into(),
                digest: layer.to_string(),
                size: 7,
                ..LayerMetadata::default()
            }],
            ..ImageMetadata::default()
        }),
    }
}

#[test]
fn go_storage_info_decodes() {
    let data = golden::lengthened(&golden::bytes(golden::G2));
    let (storage, special) = decode(&wrapped("oci", &data)).unwrap();
    assert_eq!(storage, StorageInfo::Oci(Box::new(golden_image())));
    assert!(special.is_empty());
}

/// G3 as the Go encoder made it: the digests in it are shortened, which is as far as it goes.
#[test]
fn go_wrapper_decodes() {
    let start = golden::bytes(
        "32ffad0301011253746f72616765496e666f5772617070657201ffae000102010454797065010c0001\
         0444617461010a000000fe04e2ffae01036f636901fe04d6",
    );
    let data = golden::bytes(golden::G2);
    let wrapper = [&start[..], &data, &[0]].concat();
    assert_eq!(wrapper.len(), 1304);
    let error = decode(&wrapper).unwrap_err().to_string();
    assert!(error.contains("\"sha256:aa\" is not a digest"), "{error}");
    let mut d = Decoder::new(&wrapper);
    let id = d.begin().unwrap();
    let plan = d.plan(id, &WRAPPER).unwrap();
    let mut seen = Vec::new();
    d.structure(&plan, |d, field, id| {
        seen.push(if field == 0 { d.string(id)? } else { d.bytes(id)? }.to_vec());
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [b"oci".to_vec(), data]);
}

#[test]
fn go_s3_storage_info_decodes() {
    let (storage, _) = decode(&wrapped("s3", &golden::bytes(golden::G5))).unwrap();
    let object = S3StorageInfo {
        bucket: "b".into(),
        key: "k.clip".into(),
        force_path_style: true,
        ..S3StorageInfo::default()
    };
    assert_eq!(storage, StorageInfo::S3(object.clone()));
    assert_eq!(decode(&encode(&storage, &[])).unwrap().0, storage);
}

#[test]
fn what_we_write_we_read() {
    let mut image = golden_image();
    let metadata = image.image_metadata.as_mut().unwrap();
    metadata.labels = [("a".into(), "b".into())].into();
    metadata.volumes = texts(&["/x", "/y"]);
    metadata.layers_data[0].annotations = [("k".into(), "v".into())].into();
    metadata.stop_signal = "SIGTERM".into();
    let storage = StorageInfo::Oci(Box::new(image));
    assert_eq!(decode(&encode(&storage, &[])).unwrap(), (storage, Vec::new()));
}

#[test]
fn our_types_are_those_of_go() {
    let oci = encode_oci(&golden_image(), &[]);
    golden::assert_go_takes(&oci, golden::G2, &["SpecialNodes"], &["ZstdIdxByLayer"]);
    golden::assert_go_takes(&encode_s3(&S3StorageInfo::default()), golden::G5, &[], &[]);
}

#[test]
fn a_long_time_makes_a_short_error() {
    let mut types = Definitions::new();
    let time = types.gob_encoder("Time");
    let id = types.structure("T", &[("Created", time)]);
    let bytes = types.finish(id, true, |e| e.structure(|f| f.bytes(0, &[1; 10_000])));
    let mut d = Decoder::new(&bytes);
    let id = d.begin().unwrap();
    let plan = d.plan(id, &METADATA).unwrap();
    let error = d.structure(&plan, |d, _, id| decode_time(d, id).map(|_| ())).unwrap_err();
    let expected = "Created: expected a time as Go marshals it, found 10000 bytes: [1, 1, ";
    assert!(error.detail.starts_with(expected) && error.detail.len() < 200, "{error}");
}

/// A nanosecond count that chrono would take for a leap second, and Go's encoder never makes.
#[test]
fn a_time_has_less_than_a_second_of_nanoseconds() {
    let storage = StorageInfo::Oci(Box::new(golden_image()));
    let mut bytes = encode(&storage, &[]);
    let time = hex::decode("010000000edd25742500000006ffff").unwrap();
    let at = bytes.windows(15).position(|w| w == time).unwrap();
    bytes[at + 9..at + 13].copy_from_slice(&1_000_000_000_u32.to_be_bytes());
    let error = decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("ImageMetadata: Created: expected a time"), "{error}");
}

#[test]
fn times_survive_with_their_offsets() {
    for text in [
        "2024-01-02T03:04:05.000000006Z",
        "1969-12-31T23:59:59.999999999-03:30",
        "0001-01-01T00:00:01Z",
        "1900-01-01T00:00:00+00:19",
    ] {
        let mut image = golden_image();
        let time: DateTime<FixedOffset> = text.parse().unwrap();
        image.image_metadata.as_mut().unwrap().created = Some(time);
        let storage = StorageInfo::Oci(Box::new(image));
        assert_eq!(decode(&encode(&storage, &[])).unwrap().0, storage, "{text}");
    }
    let odd = FixedOffset::east_opt(1172).unwrap().timestamp_opt(5, 0).unwrap();
    let bytes = encode_time(&odd);
    assert_eq!((bytes.len(), bytes[0], bytes[15]), (16, 2, 32));
    // The bytes in CONTRACT A.10.
    let utc = "2024-01-02T03:04:05.000000006Z".parse().unwrap();
    assert_eq!(hex::encode(encode_time(&utc)), "010000000edd25742500000006ffff");
}

#[test]
fn damage_is_refused_not_suffered() {
    let data = golden::lengthened(&golden::bytes(golden::G2));
    let whole = wrapped("oci", &data);
    for cut in 0..whole.len() {
        assert!(decode(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..data.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut data = data.clone();
            data[at] ^= flip;
            let _ = decode(&wrapped("oci", &data)); // must not panic; text may change unseen
        }
    }
    let error = decode(&wrapped("ftp", b"")).unwrap_err().to_string();
    assert_eq!(error, "storage info: type \"ftp\" is neither s3 nor oci");
}
