//! JPEG, strictly: a picture that is not all there is refused.
//!
//! JPEG goes to its decoder directly: `image` would use it in its lenient mode, which fills missing
//! rows with grey. Its strict mode refuses data that run out, but not a file that was closed early
//! with an end marker, and it refuses junk between segments, which is harmless. So the markers are
//! walked first: junk is cut out, and what the markers promise is compared with what is there.
//!
//! A progressive JPEG brings the whole picture coarsely and then refines it; closed early between or
//! within refinements it is a whole picture with less detail, and read as such.

use std::ops::Range;

use image::metadata::Orientation;
use memchr::memchr;
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors as JpegError};

use crate::decode::{check_size, oriented, said};
use crate::{DecodeError, DecodeOptions, Detail, RgbImage, scaled_jpeg};

const FORMAT: &str = "JPEG";

/// Decodes a JPEG that begins with its start-of-image marker, in the detail wanted or more.
pub(crate) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
    detail: Detail,
) -> Result<RgbImage, DecodeError> {
    let layout = Layout::of(bytes)?;
    if let Some(frame) = &layout.frame {
        check_size(FORMAT, frame.width.into(), frame.height.into(), options)?;
    }
    if let Some(missing) = layout.missing() {
        return Err(DecodeError::Truncated { format: FORMAT, detail: missing });
    }
    let data = layout.data(bytes);
    let settings = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into())
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&data), settings);
    decoder.decode_headers().map_err(refusal)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    check_size(FORMAT, width as u64, height as u64, options)?;
    let image = match layout.scaled(bytes, detail) {
        Some(image) => image,
        None => {
            let pixels = decoder.decode().map_err(refusal)?;
            if pixels.len() != width * height * 3 {
                let detail = format!("{} bytes for {width}x{height} pixels", pixels.len());
                return Err(DecodeError::Unsupported { format: FORMAT, detail });
            }
            RgbImage::new(width as u32, height as u32, pixels)
        }
    };
    let exif = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    Ok(oriented(image, exif.unwrap_or(Orientation::NoTransforms)))
}

/// Columns and rows of the pixels as they are stored, and how they are to be turned.
pub(crate) fn stored(bytes: &[u8]) -> Option<(u32, u32, Orientation)> {
    let data = Layout::of(bytes).ok()?.data(bytes);
    let mut decoder = JpegDecoder::new(ZCursor::new(&data));
    decoder.decode_headers().ok()?;
    let (width, height) = decoder.dimensions()?;
    let exif = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    Some((width as u32, height as u32, exif.unwrap_or(Orientation::NoTransforms)))
}

fn refusal(error: JpegError) -> DecodeError {
    let (format, detail) = (FORMAT, said(&error));
    match error {
        JpegError::ExhaustedData
        | JpegError::IoErrors(_)
        | JpegError::FormatStatic("Premature end of buffer") => {
            DecodeError::Truncated { format, detail: ENDS_EARLY.into() }
        }
        JpegError::Unsupported(_) => DecodeError::Unsupported { format, detail },
        _ => DecodeError::Damaged { format, detail },
    }
}

const ENDS_EARLY: &str = "its data end before the picture does";

/// What a walk over the markers finds.
#[derive(Default)]
struct Layout {
    /// The segments, scans with their data, in order; what lies between is junk.
    segments: Vec<Range<usize>>,
    frame: Option<Frame>,
    scans: Vec<Scan>,
    /// Whether the end-of-image marker was met.
    ended: bool,
}

#[derive(Default)]
struct Frame {
    width: u16,
    height: u16,
    progressive: bool,
    components: Vec<Component>,
}

/// A channel, and how many of its 8x8 blocks make up a unit, across and down.
struct Component {
    id: u8,
    across: usize,
    down: usize,
}

struct Scan {
    components: Vec<u8>,
    /// The first of the 64 frequencies it brings; 0 is the mean of a block.
    first_frequency: u8,
    /// Units from one restart marker to the next; 0 for none.
    restart_interval: usize,
    /// Restart markers in its data.
    restarts: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Result<Self, DecodeError> {
        let start_of_image = 0..2;
        let mut layout = Self { segments: vec![start_of_image], ..Self::default() };
        let (mut at, mut restart_interval) = (2, 0);
        while let Some((start, marker)) = next_marker(bytes, at) {
            at = start + 2;
            let mut body: &[u8] = &[];
            if !matches!(marker, 0x01 | 0xd0..=0xd9) {
                let Some(length) = u16_at(bytes, at) else { break };
                if length < 2 {
                    let detail = format!("its segment {marker:02x} has no length");
                    return Err(DecodeError::Damaged { format: FORMAT, detail });
                }
                let Some(segment) = bytes.get(at + 2..at + length) else { break };
                (at, body) = (at + length, segment);
            }
            match marker {
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    layout.frame = Frame::read(body, marker)
                }
                0xdd => restart_interval = u16_at(body, 0).unwrap_or(0),
                0xda => {
                    let (end, restarts) = end_of_scan(bytes, at);
                    at = end;
                    layout.scans.extend(Scan::read(body, restart_interval, restarts));
                }
                _ => {}
            }
            layout.segments.push(start..at);
            layout.ended = marker == 0xd9;
            if layout.ended {
                break;
            }
        }
        Ok(layout)
    }

    /// What the markers promise and the file does not hold.
    fn missing(&self) -> Option<String> {
        if !self.ended {
            return Some("it ends before its end-of-image marker".into());
        }
        let frame = self.frame.as_ref()?;
        let begun = |component: &Component| {
            self.scans
                .iter()
                .any(|scan| scan.first_frequency == 0 && scan.components.contains(&component.id))
        };
        let coarse = frame.progressive && self.scans.iter().all(|scan| scan.first_frequency == 0);
        if coarse || !frame.components.iter().all(begun) {
            return Some(ENDS_EARLY.into());
        }
        self.scans.iter().find_map(|scan| {
            let wanted = scan.restarts_wanted(frame);
            (scan.restarts < wanted)
                .then(|| format!("it has {} of {wanted} restart markers", scan.restarts))
        })
    }

    /// The picture at a part of its sides, if that is detail enough and its kind can be.
    fn scaled(&self, bytes: &[u8], detail: Detail) -> Option<RgbImage> {
        let frame = self.frame.as_ref()?;
        match detail.of_eight(frame.width.into(), frame.height.into()) {
            8 => None,
            kept => scaled_jpeg::decode(self.segments_of(bytes), kept as usize),
        }
    }

    fn segments_of<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.segments.iter().map(|range| &bytes[range.clone()])
    }

    /// The bytes to decode, without junk.
    ///
    /// At an end marker the decoder goes on with zeros for as long as there are rows to fill. It
    /// refuses only an end of all data. So where one run of data is the whole picture, the end marker
    /// is left out: as many zeros stand in for it as the decoder reads ahead.
    fn data(&self, bytes: &[u8]) -> Vec<u8> {
        let one_run = matches!(&self.frame, Some(frame) if !frame.progressive)
            && matches!(&self.scans[..], [scan] if scan.restart_interval == 0);
        let count = if one_run { self.segments.len() - 1 } else { self.segments.len() };
        let mut data = Vec::with_capacity(bytes.len() + 8);
        self.segments_of(bytes).take(count).for_each(|segment| data.extend_from_slice(segment));
        if one_run {
            data.extend([0; 8]);
        }
        data
    }
}

impl Frame {
    fn read(body: &[u8], marker: u8) -> Option<Self> {
        let components = body.get(6..)?.as_chunks::<3>().0.iter();
        let component = |&[id, sampling, _]: &[u8; 3]| Component {
            id,
            across: usize::from(sampling >> 4).max(1),
            down: usize::from(sampling & 15).max(1),
        };
        Some(Self {
            width: u16_at(body, 3)? as u16,
            height: u16_at(body, 1)? as u16,
            progressive: matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce),
            components: components.map(component).collect(),
        })
    }
}

impl Scan {
    fn read(body: &[u8], restart_interval: usize, restarts: usize) -> Option<Self> {
        let count = usize::from(*body.first()?);
        let components =
            body.get(1..1 + 2 * count)?.as_chunks::<2>().0.iter().map(|[id, _]| *id).collect();
        Some(Self {
            components,
            first_frequency: *body.get(1 + 2 * count)?,
            restart_interval,
            restarts,
        })
    }

    /// How many restart markers a whole scan has.
    fn restarts_wanted(&self, frame: &Frame) -> usize {
        let most =
            |side: fn(&Component) -> usize| frame.components.iter().map(side).max().unwrap_or(1);
        let (across, down) = (most(|c| c.across), most(|c| c.down));
        let (width, height) = (usize::from(frame.width), usize::from(frame.height));
        let alone = frame.components.iter().find(|c| self.components == [c.id]);
        let units = match alone {
            Some(c) => {
                (width * c.across).div_ceil(8 * across) * (height * c.down).div_ceil(8 * down)
            }
            None => width.div_ceil(8 * across) * height.div_ceil(8 * down),
        };
        units.saturating_sub(1).checked_div(self.restart_interval).unwrap_or(0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

/// Where the next marker begins, and its code. Fill bytes before it are passed over.
fn next_marker(bytes: &[u8], from: usize) -> Option<(usize, u8)> {
    let mut pairs = bytes.get(from..)?.windows(2).zip(from..);
    let (pair, at) = pairs.find(|(pair, _)| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))?;
    Some((at, pair[1]))
}

/// Where the entropy-coded data that begin at `from` end, at the next marker that is no restart,
/// and how many restarts they hold.
fn end_of_scan(bytes: &[u8], from: usize) -> (usize, usize) {
    let (mut at, mut restarts) = (from, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr(0xff, rest)) {
        at += found;
        match bytes.get(at + 1) {
            Some(0x00) => at += 2,
            Some(0xd0..=0xd7) => (at, restarts) = (at + 2, restarts + 1),
            Some(0xff) => at += 1,
            Some(_) => return (at, restarts),
            None => break,
        }
    }
    (bytes.len(), restarts)
}

/// A JPEG at `kept` of 8 pixels on each side, as it is stored.
#[cfg(test)]
pub(crate) fn part(bytes: &[u8], kept: usize) -> Option<RgbImage> {
    scaled_jpeg::decode(Layout::of(bytes).ok()?.segments_of(bytes), kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{encoded, real, rgb8, synthetic};
    use image::ImageFormat;

    fn read(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
        decode(bytes, &DecodeOptions::default(), Detail::Full)
    }

    const END: [u8; 2] = [0xff, 0xd9];

    #[test]
    fn a_picture_closed_early_is_refused() {
        let jpeg = encoded(rgb8(&synthetic(200, 200, 3)), ImageFormat::Jpeg);
        let scan = Layout::of(&jpeg).unwrap().segments.iter().rev().nth(1).unwrap().clone();
        for share in [1, 10, 50, 90, 97] {
            let cut = scan.start + 20 + (scan.len() - 20) * share / 100;
            let message = read(&[&jpeg[..cut], &END].concat()).unwrap_err().to_string();
            assert_eq!(
                message, "the JPEG is cut short: its data end before the picture does",
                "{share}%"
            );
            let message = read(&jpeg[..cut]).unwrap_err().to_string();
            assert_eq!(
                message, "the JPEG is cut short: it ends before its end-of-image marker",
                "{share}%"
            );
        }
    }

    #[test]
    fn small_and_plain_pictures_are_whole() {
        // Their rows take so few bytes that the decoder reads far ahead of them.
        for (width, height) in [(1, 1), (1, 200), (8, 64), (200, 1), (17, 33), (500, 500)] {
            for colour in [[0; 3], [255; 3], [128; 3], [255, 0, 0]] {
                let jpeg =
                    encoded(rgb8(&RgbImage::filled(width, height, colour)), ImageFormat::Jpeg);
                let image = read(&jpeg).unwrap();
                assert!(
                    image
                        .pixels()
                        .as_chunks::<3>()
                        .0
                        .iter()
                        .all(|p| p.iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 4))
                );
            }
        }
    }

    #[test]
    fn missing_restarts_and_scans_are_noticed() {
        let component = |id| Component { id, across: 1, down: 1 };
        let frame = |progressive| {
            Some(Frame {
                width: 33,
                height: 16,
                progressive,
                components: vec![component(1), component(2)],
            })
        };
        let scan = |components: &[u8], first_frequency, restarts| Scan {
            components: components.into(),
            first_frequency,
            restart_interval: 2,
            restarts,
        };
        let missing = |progressive, scans| {
            Layout { frame: frame(progressive), scans, ended: true, ..Layout::default() }.missing()
        };
        assert_eq!(
            missing(false, vec![scan(&[1, 2], 0, 4)]),
            None,
            "five by two units, a restart after each two but the last"
        );
        assert_eq!(
            missing(false, vec![scan(&[1, 2], 0, 3)]),
            Some("it has 3 of 4 restart markers".into())
        );
        assert_eq!(
            missing(false, vec![scan(&[1], 0, 4)]),
            Some(ENDS_EARLY.into()),
            "a channel is missing"
        );
        assert_eq!(
            missing(true, vec![scan(&[1, 2], 0, 4)]),
            Some(ENDS_EARLY.into()),
            "only the means of blocks"
        );
        assert_eq!(missing(true, vec![scan(&[1, 2], 0, 4), scan(&[1], 1, 4)]), None);
    }

    #[test]
    fn photos_closed_early_are_refused() {
        let Some(folder) = real("ants_bees/train/ants") else { return };
        for path in crate::list_images(&[folder]).unwrap() {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.starts_with(&[0xff, 0xd8]) && Layout::of(&bytes).unwrap().scans.len() == 1 {
                let closed = [&bytes[..bytes.len() / 2], &END].concat();
                assert!(read(&closed).is_err(), "half of {}, closed", path.display());
            }
        }
    }
}
