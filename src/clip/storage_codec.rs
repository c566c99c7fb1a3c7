//! Storage info to and from gob: a wrapper with a type name, and inside it a second complete
//! stream (CONTRACT A.9).

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, Offset as _, TimeZone as _, Utc};

use super::error::ClipError;
use super::gob::{Decoder, Definitions, Encoder, GobError, TypeId, builtin};
use super::index_codec::{NodeDecoder, define_node, encode_node, zip};
use super::node::Node;
use super::storage_info::{
    GzipCheckpoint, ImageMetadata, LayerMetadata, OciStorageInfo, S3StorageInfo, StorageInfo,
};
use crate::digest::Digest;

static WRAPPER: [&str; 2] = ["Type", "Data"];
static S3: [&str; 5] = ["Bucket", "Region", "Key", "Endpoint", "ForcePathStyle"];
/// Without `ZstdIdxByLayer`: upstream never fills it nor reads it. A Go decoder holds the type of
/// every *defined* field against its own, sent or not, so it is left out rather than defined as
/// something else.
static OCI: [&str; 8] = [
    "RegistryURL",
    "Repository",
    "Reference",
    "Layers",
    "GzipIdxByLayer",
    "DecompressedHashByLayer",
    "ImageMetadata",
    // An extra field: nodes that upstream's index can't show.
    "SpecialNodes",
];
static GZIP_INDEX: [&str; 2] = ["LayerDigest", "Checkpoints"];
static CHECKPOINT: [&str; 2] = ["COff", "UOff"];
static METADATA: [&str; 20] = [
    "Name",
    "Digest",
    "RepoTags",
    "Created",
    "DockerVersion",
    "Labels",
    "Architecture",
    "Os",
    "Variant",
    "Author",
    "Env",
    "Cmd",
    "Entrypoint",
    "User",
    "WorkingDir",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Layers",
    "LayersData",
];
static LAYER: [&str; 4] = ["MIMEType", "Digest", "Size", "Annotations"];

/// The wrapper's type name, which the header repeats; nothing for local archives.
pub(super) fn type_name(storage: &StorageInfo) -> &'static str {
    match storage {
        StorageInfo::Local => "",
        StorageInfo::S3(_) => "s3",
        StorageInfo::Oci(_) => "oci",
    }
}

/// The storage info as it stands in the file; nothing for local archives.
pub(super) fn encode(storage: &StorageInfo, special: &[&Node]) -> Vec<u8> {
    let data = match storage {
        StorageInfo::Local => return Vec::new(),
        StorageInfo::S3(object) => encode_s3(object),
        StorageInfo::Oci(image) => encode_oci(image, special),
    };
    let mut types = Definitions::new();
    let wrapper =
        types.structure("StorageInfoWrapper", &zip(WRAPPER, [builtin::STRING, builtin::BYTES]));
    types.finish(wrapper, true, |e| {
        e.structure(|f| {
            f.bytes(0, type_name(storage).as_bytes());
            f.bytes(1, &data);
        });
    })
}

fn encode_s3(object: &S3StorageInfo) -> Vec<u8> {
    let mut types = Definitions::new();
    let string = builtin::STRING;
    let ids = [string, string, string, string, builtin::BOOL];
    let id = types.structure("S3StorageInfo", &zip(S3, ids));
    types.finish(id, true, |e| {
        e.structure(|f| {
            f.bytes(0, object.bucket.as_bytes());
            f.bytes(1, object.region.as_bytes());
            f.bytes(2, object.key.as_bytes());
            f.bytes(3, object.endpoint.as_bytes());
            f.uint(4, object.force_path_style.into());
        });
    })
}

fn encode_oci(image: &OciStorageInfo, special: &[&Node]) -> Vec<u8> {
    let mut types = Definitions::new();
    let (string, int) = (builtin::STRING, builtin::INT);
    let strings = types.slice("[]string", string);
    let checkpoint = types.structure("GzipCheckpoint", &zip(CHECKPOINT, [int, int]));
    let checkpoints = types.slice("[]common.GzipCheckpoint", checkpoint);
    let gzip_index = types.structure("GzipIndex", &zip(GZIP_INDEX, [string, checkpoints]));
    let gzip_indexes = types.map("map[string]*common.GzipIndex", string, gzip_index);
    let text_map = types.map("map[string]string", string, string);
    let time = types.gob_encoder("Time");
    let empty = types.structure("", &[]);
    let set = types.map("map[string]struct {}", string, empty);
    let layer = types.structure("LayerMetadata", &zip(LAYER, [string, string, int, text_map]));
    let layers = types.slice("[]common.LayerMetadata", layer);
    let metadata = types.structure(
        "ImageMetadata",
        &zip(
            METADATA,
            [
                string, string, strings, time, string, text_map, string, string, string, string,
                strings, strings, strings, string, string, set, set, string, strings, layers,
            ],
        ),
    );
    let node = define_node(&mut types);
    let nodes = types.slice("[]*common.ClipNode", node);
    let ids = [string, string, string, strings, gzip_indexes, text_map, metadata, nodes];
    let id = types.structure("OCIStorageInfo", &zip(OCI, ids));
    types.finish(id, true, |e| {
        e.structure(|f| {
            f.bytes(0, image.registry_url.as_bytes());
            f.bytes(1, image.repository.as_bytes());
            f.bytes(2, image.reference.as_bytes());
            f.strings(3, &image.layers.iter().map(Digest::to_string).collect::<Vec<_>>());
            // Go's reader looks a layer's index up and does without where there is none.
            if !image.gzip_checkpoints.is_empty() {
                f.field(4).slice(image.gzip_checkpoints.iter(), |e, (layer, checkpoints)| {
                    let layer = layer.to_string();
                    e.bytes(layer.as_bytes());
                    e.structure(|f| {
                        f.bytes(0, layer.as_bytes());
                        if !checkpoints.is_empty() {
                            f.field(1).slice(checkpoints.iter(), |e, checkpoint| {
                                e.structure(|f| {
                                    f.int(0, checkpoint.compressed_offset);
                                    f.int(1, checkpoint.plain_offset);
                                });
                            });
                        }
                    });
                });
            }
            f.field(5).slice(image.plain_digests.iter(), |e, (layer, plain)| {
                e.bytes(layer.to_string().as_bytes());
                e.bytes(plain.hex().as_bytes());
            });
            if let Some(metadata) = &image.image_metadata {
                encode_metadata(f.field(6), metadata);
            }
            if !special.is_empty() {
                f.field(7).slice(special.iter(), |e, node| encode_node(e, node));
            }
        });
    })
}

fn encode_metadata(encoder: &mut Encoder, metadata: &ImageMetadata) {
    let texts = |e: &mut Encoder, map: &BTreeMap<String, String>| {
        e.slice(map.iter(), |e, (key, value)| {
            e.bytes(key.as_bytes());
            e.bytes(value.as_bytes());
        });
    };
    let set = |e: &mut Encoder, keys: &[String]| {
        let mut keys: Vec<&String> = keys.iter().collect();
        keys.sort_unstable();
        keys.dedup();
        e.slice(keys.into_iter(), |e, key| {
            e.bytes(key.as_bytes());
            e.structure(|_| {});
        });
    };
    encoder.structure(|f| {
        f.bytes(0, metadata.name.as_bytes());
        f.bytes(1, metadata.digest.as_bytes());
        f.strings(2, &metadata.repo_tags);
        if let Some(created) = &metadata.created {
            f.bytes(3, &encode_time(created));
        }
        f.bytes(4, metadata.docker_version.as_bytes());
        texts(f.field(5), &metadata.labels);
        f.bytes(6, metadata.architecture.as_bytes());
        f.bytes(7, metadata.os.as_bytes());
        f.bytes(8, metadata.variant.as_bytes());
        f.bytes(9, metadata.author.as_bytes());
        f.strings(10, &metadata.env);
        f.strings(11, &metadata.cmd);
        f.strings(12, &metadata.entrypoint);
        f.bytes(13, metadata.user.as_bytes());
        f.bytes(14, metadata.working_dir.as_bytes());
        set(f.field(15), &metadata.exposed_ports);
        set(f.field(16), &metadata.volumes);
        f.bytes(17, metadata.stop_signal.as_bytes());
        f.strings(18, &metadata.layers);
        if !metadata.layers_data.is_empty() {
            f.field(19).slice(metadata.layers_data.iter(), |e, layer| {
                e.structure(|f| {
                    f.bytes(0, layer.media_type.as_bytes());
                    f.bytes(1, layer.digest.as_bytes());
                    f.int(2, layer.size);
                    if !layer.annotations.is_empty() {
                        texts(f.field(3), &layer.annotations);
                    }
                });
            });
        }
    });
}

/// Reads the storage info of an archive; gives the special nodes that travel in it too.
pub(super) fn decode(bytes: &[u8]) -> Result<(StorageInfo, Vec<Node>), ClipError> {
    let mut d = Decoder::new(bytes);
    let id = d.begin()?;
    let plan = d.plan(id, &WRAPPER)?;
    let (mut kind, mut data) = (&b""[..], &b""[..]);
    d.structure(&plan, |d, field, id| {
        match field {
            0 => kind = d.string(id)?,
            _ => data = d.bytes(id)?,
        }
        Ok(())
    })?;
    match kind {
        b"s3" => Ok((StorageInfo::S3(decode_s3(data)?), Vec::new())),
        b"oci" => {
            let (image, special) = decode_oci(data)?;
            Ok((StorageInfo::Oci(Box::new(image)), special))
        }
        other => {
            let shown = String::from_utf8_lossy(&other[..other.len().min(40)]);
            Err(ClipError::Storage(format!("type {shown:?} is neither s3 nor oci")))
        }
    }
}

fn decode_s3(bytes: &[u8]) -> Result<S3StorageInfo, ClipError> {
    let mut d = Decoder::new(bytes);
    let id = d.begin()?;
    let plan = d.plan(id, &S3)?;
    let mut object = S3StorageInfo::default();
    d.structure(&plan, |d, field, id| {
        match field {
            0 => object.bucket = d.text(id)?,
            1 => object.region = d.text(id)?,
            2 => object.key = d.text(id)?,
            3 => object.endpoint = d.text(id)?,
            _ => object.force_path_style = d.boolean(id)?,
        }
        Ok(())
    })?;
    Ok(object)
}

fn decode_oci(bytes: &[u8]) -> Result<(OciStorageInfo, Vec<Node>), ClipError> {
    let mut d = Decoder::new(bytes);
    let id = d.begin()?;
    let plan = d.plan(id, &OCI)?;
    let mut image = OciStorageInfo::default();
    let mut special = Ok(Vec::new());
    d.structure(&plan, |d, field, id| {
        match field {
            0 => image.registry_url = d.text(id)?,
            1 => image.repository = d.text(id)?,
            2 => image.reference = d.text(id)?,
            3 => d.slice(id, |d, id| {
                image.layers.push(digest(d, id)?);
                Ok(())
            })?,
            4 => d.map(id, |d, key, value| {
                let layer = digest(d, key)?;
                image.gzip_checkpoints.insert(layer, decode_gzip_index(d, value)?);
                Ok(())
            })?,
            5 => d.map(id, |d, key, value| {
                let layer = digest(d, key)?;
                let text = d.text(value)?;
                let plain = Digest::from_hex(&text).map_err(|_| {
                    d.wrong(format!("the decompressed hash of {layer} is not 64 hex digits"))
                })?;
                image.plain_digests.insert(layer, plain);
                Ok(())
            })?,
            6 => image.image_metadata = Some(decode_metadata(d, id)?),
            _ => {
                special = NodeDecoder::default().nodes(d, id);
                // The stream can't be read on from inside a node; the cause is told below.
                if special.is_err() {
                    return Err(d.wrong("a special node is malformed"));
                }
            }
        }
        Ok(())
    })
    .or_else(|e| if special.is_err() { Ok(()) } else { Err(e) })?;
    Ok((image, special?))
}

fn digest(d: &mut Decoder<'_>, id: TypeId) -> Result<Digest, GobError> {
    let text = d.text(id)?;
    text.parse().map_err(|e| d.wrong(format!("{e}")))
}

fn decode_gzip_index(d: &mut Decoder<'_>, id: TypeId) -> Result<Vec<GzipCheckpoint>, GobError> {
    let mut checkpoints = Vec::new();
    let plan = d.plan(id, &GZIP_INDEX)?;
    d.structure(&plan, |d, field, id| match field {
        1 => d.slice(id, |d, id| {
            let plan = d.plan(id, &CHECKPOINT)?;
            let mut checkpoint = GzipCheckpoint { compressed_offset: 0, plain_offset: 0 };
            d.structure(&plan, |d, field, id| {
                let value = d.int(id)?;
                match field {
                    0 => checkpoint.compressed_offset = value,
                    _ => checkpoint.plain_offset = value,
                }
                Ok(())
            })?;
            checkpoints.push(checkpoint);
            Ok(())
        }),
        _ => d.skip(id),
    })?;
    Ok(checkpoints)
}

fn decode_metadata(d: &mut Decoder<'_>, id: TypeId) -> Result<ImageMetadata, GobError> {
    let plan = d.plan(id, &METADATA)?;
    let mut metadata = ImageMetadata::default();
    let m = &mut metadata;
    d.structure(&plan, |d, field, id| {
        match field {
            0 => m.name = d.text(id)?,
            1 => m.digest = d.text(id)?,
            2 => m.repo_tags = texts(d, id)?,
            3 => m.created = decode_time(d, id)?,
            4 => m.docker_version = d.text(id)?,
            5 => m.labels = text_map(d, id)?,
            6 => m.architecture = d.text(id)?,
            7 => m.os = d.text(id)?,
            8 => m.variant = d.text(id)?,
            9 => m.author = d.text(id)?,
            10 => m.env = texts(d, id)?,
            11 => m.cmd = texts(d, id)?,
            12 => m.entrypoint = texts(d, id)?,
            13 => m.user = d.text(id)?,
            14 => m.working_dir = d.text(id)?,
            15 => m.exposed_ports = set(d, id)?,
            16 => m.volumes = set(d, id)?,
            17 => m.stop_signal = d.text(id)?,
            18 => m.layers = texts(d, id)?,
            _ => d.slice(id, |d, id| {
                m.layers_data.push(decode_layer(d, id)?);
                Ok(())
            })?,
        }
        Ok(())
    })?;
    Ok(metadata)
}

fn decode_layer(d: &mut Decoder<'_>, id: TypeId) -> Result<LayerMetadata, GobError> {
    let plan = d.plan(id, &LAYER)?;
    let mut layer = LayerMetadata::default();
    d.structure(&plan, |d, field, id| {
        match field {
            0 => layer.media_type = d.text(id)?,
            1 => layer.digest = d.text(id)?,
            2 => layer.size = d.int(id)?,
            _ => layer.annotations = text_map(d, id)?,
        }
        Ok(())
    })?;
    Ok(layer)
}

fn texts(d: &mut Decoder<'_>, id: TypeId) -> Result<Vec<String>, GobError> {
    let mut texts = Vec::new();
    d.slice(id, |d, id| {
        texts.push(d.text(id)?);
        Ok(())
    })?;
    Ok(texts)
}

fn text_map(d: &mut Decoder<'_>, id: TypeId) -> Result<BTreeMap<String, String>, GobError> {
    let mut map = BTreeMap::new();
    d.map(id, |d, key, value| {
        map.insert(d.text(key)?, d.text(value)?);
        Ok(())
    })?;
    Ok(map)
}

/// The keys of a `map[string]struct{}`, sorted.
fn set(d: &mut Decoder<'_>, id: TypeId) -> Result<Vec<String>, GobError> {
    let mut keys = Vec::new();
    d.map(id, |d, key, value| {
        keys.push(d.text(key)?);
        d.skip(value)
    })?;
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// Seconds from 0001-01-01 to 1970-01-01, both UTC.
const YEAR_1: i64 = -62_135_596_800;

/// Go's `time.Time.MarshalBinary`: version 1, or 2 where the offset is not a whole minute.
fn encode_time(time: &DateTime<FixedOffset>) -> Vec<u8> {
    let offset = time.offset().local_minus_utc();
    let (minutes, seconds) = (offset / 60, offset % 60);
    let mut bytes = vec![if seconds == 0 { 1 } else { 2 }];
    bytes.extend_from_slice(&(time.timestamp() - YEAR_1).to_be_bytes());
    // Leap seconds count as the second before, as in Go.
    let nanos = time.timestamp_subsec_nanos().min(999_999_999);
    bytes.extend_from_slice(&nanos.to_be_bytes());
    // Go writes -1 for UTC, and the Go time that a zero offset was read as is UTC.
    let minutes = if offset == 0 { -1 } else { i16::try_from(minutes).unwrap_or(-1) };
    bytes.extend_from_slice(&minutes.to_be_bytes());
    if seconds != 0 {
        bytes.push(i8::try_from(seconds).unwrap_or(0).cast_unsigned());
    }
    bytes
}

/// `None` is Go's zero time.
fn decode_time(d: &mut Decoder<'_>, id: TypeId) -> Result<Option<DateTime<FixedOffset>>, GobError> {
    let bytes = d.opaque(id)?;
    let wrong = |d: &Decoder<'_>| {
        let (length, start) = (bytes.len(), &bytes[..bytes.len().min(16)]);
        d.wrong(format!("expected a time as Go marshals it, found {length} bytes: {start:?}"))
    };
    let (length, seconds_of_offset) = match bytes.first() {
        Some(1) => (15, 0),
        Some(2) => (16, bytes.get(15).map_or(0, |b| i32::from(b.cast_signed()))),
        _ => return Err(wrong(d)),
    };
    if bytes.len() != length {
        return Err(wrong(d));
    }
    let seconds = bytes[1..9].iter().fold(0_i64, |n, b| (n << 8) | i64::from(*b));
    let nanos = bytes[9..13].iter().fold(0_u32, |n, b| (n << 8) | u32::from(*b));
    let minutes = i16::from_be_bytes([bytes[13], bytes[14]]);
    let offset = if minutes == -1 { 0 } else { i32::from(minutes) * 60 + seconds_of_offset };
    let unix = seconds.checked_add(YEAR_1);
    // chrono takes a second and more of nanoseconds as a leap second, which Go does not know.
    let unix = unix.filter(|_| nanos < 1_000_000_000);
    let utc = unix.and_then(|unix| Utc.timestamp_opt(unix, nanos).single());
    let offset = FixedOffset::east_opt(offset);
    let (Some(utc), Some(offset)) = (utc, offset) else { return Err(wrong(d)) };
    let zero = seconds == 0 && nanos == 0;
    Ok((!zero).then(|| utc.with_timezone(&offset.fix())))
}

impl StorageInfo {
    /// Reads storage info alone, without the archive that it belongs to.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClipError> {
        decode(bytes).map(|(storage, _)| storage)
    }
}

#[cfg(test)]
mod tests;
