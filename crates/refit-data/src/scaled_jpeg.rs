//! JPEG at a half, a quarter or an eighth of its sides, for pictures far larger than a network
//! looks at.
//!
//! A JPEG holds 8x8 pixels as 64 frequencies. The lowest `n` x `n` of them are the block at `n` x `n`
//! pixels, as in libjpeg's scaled decoding: what is not seen is neither transformed nor coloured,
//! and its codes are passed over several at a time. Channels stored at half the sides give twice
//! as many pixels a block, so none is interpolated.
//!
//! This reads the common kind: sequential, eight bits, grey or YCbCr, all channels in one scan. Of any
//! other kind, and of anything at all that is out of order, it gives nothing, and the full decoder
//! says what there is or what is wrong.

use std::f64::consts::PI;

use memchr::memchr;

use crate::RgbImage;

/// Decodes a picture from its segments, each from its marker on. `kept` of 8 pixels are kept on each
/// side: 1, 2 or 4; the last in a row or column may stand for fewer.
pub(crate) fn decode<'a>(
    segments: impl Iterator<Item = &'a [u8]>,
    kept: usize,
) -> Option<RgbImage> {
    let mut tables = Tables::default();
    let mut image = None;
    for segment in segments {
        let marker = *segment.get(1)?;
        if matches!(marker, 0x01 | 0xd0..=0xd9) {
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*segment.get(2)?, *segment.get(3)?]));
        let (body, rest) = segment.get(4..)?.split_at_checked(length.checked_sub(2)?)?;
        match marker {
            0xc0 | 0xc1 if tables.frame.is_none() => tables.frame = Some(Frame::read(body)?),
            0xc4 => tables.read_huffman(body)?,
            0xda if image.is_none() => image = Some(Scan::read(body, &tables, kept)?.decode(rest)?),
            0xc0..=0xcf | 0xda => return None,
            0xdb => tables.read_quantization(body)?,
            0xdd => tables.restart_interval = usize::from(u16::from_be_bytes(*body.first_chunk()?)),
            0xee => tables.read_adobe(body)?,
            _ => {}
        }
    }
    image
}

/// What stands before a scan.
#[derive(Default)]
struct Tables {
    frame: Option<Frame>,
    quantization: [Option<[f32; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
    /// Whether a marker says that three channels are YCbCr.
    says_ycbcr: bool,
}

struct Frame {
    width: usize,
    height: usize,
    components: Vec<Component>,
}

#[derive(Clone, Copy)]
struct Component {
    id: u8,
    across: usize,
    down: usize,
    table: usize,
}

impl Frame {
    /// The frames that are read here: grey, or three channels of which the last two may be stored
    /// at half a side.
    fn read(body: &[u8]) -> Option<Self> {
        let (&[precision, h0, h1, w0, w1, count], rest) = body.split_first_chunk()?;
        let components: Vec<Component> = rest
            .as_chunks::<3>()
            .0
            .iter()
            .map(|&[id, sampling, table]| Component {
                id,
                across: usize::from(sampling >> 4),
                down: usize::from(sampling & 15),
                table: usize::from(table),
            })
            .collect();
        let (width, height) = (u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]));
        let sampling: Vec<_> = components.iter().map(|c| (c.across, c.down)).collect();
        let common = matches!(sampling[..], [(1, 1)] | [(1 | 2, 1 | 2), (1, 1), (1, 1)]);
        let whole = precision == 8 && width > 0 && height > 0;
        (common && whole && components.len() == usize::from(count)).then_some(Self {
            width: width.into(),
            height: height.into(),
            components,
        })
    }
}

impl Tables {
    fn read_huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&which, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let kind = if which >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *kind.get_mut(usize::from(which & 15))? = Some(Huffman::new(counts, symbols)?);
            body = rest;
        }
        Some(())
    }

    fn read_quantization(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&which, rest)) = body.split_first() {
            let table = self.quantization.get_mut(usize::from(which & 15))?;
            if which >> 4 == 0 {
                let (values, rest) = rest.split_first_chunk::<64>()?;
                (*table, body) = (Some(values.map(f32::from)), rest);
            } else {
                let (values, rest) = rest.split_at_checked(128)?;
                let pairs = values.as_chunks::<2>().0;
                *table = Some(std::array::from_fn(|k| u16::from_be_bytes(pairs[k]).into()));
                body = rest;
            }
        }
        Some(())
    }

    /// Adobe's marker says how colours are stored; here they are YCbCr.
    fn read_adobe(&mut self, body: &[u8]) -> Option<()> {
        if body.starts_with(b"Adobe") {
            self.says_ycbcr = true;
            return (*body.get(11)? == 1).then_some(());
        }
        Some(())
    }
}

// ---- a scan ----

struct Scan<'a> {
    /// Sides of the result.
    width: usize,
    height: usize,
    /// A unit is a block of each channel, or several of one that has more pixels than others.
    units_across: usize,
    unit_height: usize,
    /// Units from one restart marker to the next; 0 for none.
    restart_interval: usize,
    channels: Vec<Channel<'a>>,
}

/// A channel and its part of a strip of units.
struct Channel<'a> {
    dc: &'a Huffman,
    ac: &'a Huffman,
    quantization: [f32; 64],
    /// Blocks in a unit.
    across: usize,
    down: usize,
    inverse: Inverse,
    /// The last of the frequencies, in the order of the file, that decides pixels.
    last: usize,
    predicted: i32,
    strip: Vec<u8>,
    stride: usize,
}

impl<'a> Scan<'a> {
    fn read(body: &[u8], tables: &'a Tables, kept: usize) -> Option<Self> {
        let frame = tables.frame.as_ref()?;
        let (&count, rest) = body.split_first()?;
        let (chosen, rest) = rest.split_at_checked(2 * frame.components.len())?;
        let chosen = chosen.as_chunks::<2>().0;
        let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
        // Without Adobe's marker, names other than these may stand for red, green and blue.
        let known = tables.says_ycbcr || ids.len() == 1 || ids == [1, 2, 3] || ids == [0, 1, 2];
        let in_order = chosen.iter().map(|pair| pair[0]).eq(ids.iter().copied());
        if usize::from(count) != ids.len() || !in_order || !known || rest != [0, 63, 0] {
            return None;
        }
        let most =
            frame.components.iter().fold((1, 1), |m, c| (m.0.max(c.across), m.1.max(c.down)));
        let (unit_width, unit_height) = (kept * most.0, kept * most.1);
        let units_across = frame.width.div_ceil(8 * most.0);
        let channel = |(component, &[_, huffman]): (&Component, &[u8; 2])| {
            let (width, height) = (unit_width / component.across, unit_height / component.down);
            let stride = units_across * unit_width;
            Some(Channel {
                dc: tables.dc.get(usize::from(huffman >> 4))?.as_ref()?,
                ac: tables.ac.get(usize::from(huffman & 15))?.as_ref()?,
                quantization: tables.quantization.get(component.table).copied()??,
                across: component.across,
                down: component.down,
                inverse: Inverse::new(width, height),
                last: (0..64).rfind(|&k| column(k) < width && row(k) < height)?,
                predicted: 0,
                strip: vec![0; stride * unit_height],
                stride,
            })
        };
        Some(Self {
            width: (frame.width * kept).div_ceil(8),
            height: (frame.height * kept).div_ceil(8),
            units_across,
            unit_height,
            restart_interval: tables.restart_interval,
            channels: frame.components.iter().zip(chosen).map(channel).collect::<Option<_>>()?,
        })
    }

    /// Decodes the scan's data, all of them.
    fn decode(mut self, data: &[u8]) -> Option<RgbImage> {
        let mut bits = Bits::new(data)?;
        let mut pixels = vec![0; self.width * self.height * 3];
        let mut left = self.restart_interval;
        for strip in pixels.chunks_mut(self.width * 3 * self.unit_height) {
            for unit in 0..self.units_across {
                if left == 0 && self.restart_interval > 0 {
                    bits.restart()?;
                    self.channels.iter_mut().for_each(|channel| channel.predicted = 0);
                    left = self.restart_interval;
                }
                left = left.saturating_sub(1);
                for channel in &mut self.channels {
                    channel.read_unit(&mut bits, unit)?;
                }
            }
            self.colour(strip);
        }
        bits.are_all_used().then(|| RgbImage::new(self.width as u32, self.height as u32, pixels))
    }

    /// Writes a strip's rows as RGB.
    fn colour(&self, strip: &mut [u8]) {
        for (y, row) in strip.chunks_exact_mut(self.width * 3).enumerate() {
            let pixels = row.as_chunks_mut::<3>().0.iter_mut();
            let values = |c: usize| self.channels[c].strip[y * self.channels[c].stride..].iter();
            match self.channels.len() {
                1 => pixels.zip(values(0)).for_each(|(pixel, &l)| *pixel = [l; 3]),
                _ => {
                    for (((pixel, &l), &b), &r) in
                        pixels.zip(values(0)).zip(values(1)).zip(values(2))
                    {
                        *pixel = rgb(l, b, r);
                    }
                }
            }
        }
    }
}

/// JFIF's conversion, in libjpeg's fixed point.
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y) << 16, i32::from(cb) - 128, i32::from(cr) - 128);
    let byte = |v: i32| ((v + 0x8000) >> 16).clamp(0, 255) as u8;
    [byte(y + 91_881 * cr), byte(y - 22_554 * cb - 46_802 * cr), byte(y + 116_130 * cb)]
}

impl Channel<'_> {
    /// Reads the channel's blocks of one unit and writes their pixels into the strip.
    fn read_unit(&mut self, bits: &mut Bits, unit: usize) -> Option<()> {
        for block_y in 0..self.down {
            for block_x in 0..self.across {
                let mut block = [0.0; 64];
                let rows = self.read_block(bits, &mut block)?;
                let x = (unit * self.across + block_x) * self.inverse.width;
                let at = block_y * self.inverse.height * self.stride + x;
                self.inverse.write(&block, rows, &mut self.strip[at..], self.stride);
            }
        }
        Some(())
    }

    /// Reads one block's lower frequencies and passes over the others; how many rows of them there
    /// are, and none for a block of one colour.
    fn read_block(&mut self, bits: &mut Bits, block: &mut [f32; 64]) -> Option<usize> {
        let size = self.dc.symbol(bits)?;
        self.predicted = self.predicted.wrapping_add(bits.value(size)?);
        block[0] = self.predicted as f32 * self.quantization[0];
        let (mut k, mut rows) = (1, 0);
        while k <= self.last {
            let symbol = self.ac.symbol(bits)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            match (run, size) {
                (0, 0) => return Some(rows),
                (15, 0) => k += 16,
                (_, 0) => return None,
                _ => {
                    k += run;
                    let value = bits.value(size)? as f32;
                    let at = usize::from(*ZIGZAG.get(k)?);
                    block[at] = value * self.quantization[k];
                    rows = rows.max(at / 8 + 1);
                    k += 1;
                }
            }
        }
        self.ac.pass_over(bits, k)?;
        Some(rows)
    }
}

// ---- bits ----

/// The bits of a scan, from one restart marker to the next.
struct Bits<'a> {
    /// The data of this interval, without the zeros stuffed after each 255, and padding.
    interval: Vec<u8>,
    length: usize,
    /// What follows the interval's restart marker.
    rest: Option<&'a [u8]>,
    restarts: u8,
    /// The next byte to come into the window.
    at: usize,
    /// The next bits from the top down, and how many of them count.
    window: u64,
    count: u32,
}

/// The longest code with the longest value behind it takes 31 bits.
const ENOUGH: u32 = 32;

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Option<Self> {
        let (interval, rest) = (Vec::with_capacity(data.len() + 8), Some(data));
        let mut bits = Self { interval, length: 0, rest, restarts: 0, at: 0, window: 0, count: 0 };
        bits.read_interval()?;
        Some(bits)
    }

    fn read_interval(&mut self) -> Option<()> {
        (self.at, self.window, self.count) = (0, 0, 0);
        self.interval.clear();
        let mut rest = self.rest.take()?;
        while let Some(found) = memchr(0xff, rest) {
            self.interval.extend_from_slice(&rest[..found]);
            let (&marker, after) = rest[found + 1..].split_first()?;
            rest = after;
            match marker {
                0 => self.interval.push(0xff),
                _ if marker == 0xd0 + self.restarts % 8 => {
                    self.restarts = self.restarts.wrapping_add(1);
                    self.rest = Some(rest);
                    rest = &[];
                }
                _ => return None,
            }
        }
        self.interval.extend_from_slice(rest);
        self.length = self.interval.len();
        self.interval.extend([0; 8]);
        Some(())
    }

    /// Goes on behind the next restart marker, if that is where the bits have come to.
    fn restart(&mut self) -> Option<()> {
        if !self.interval_is_used() {
            return None;
        }
        self.read_interval()
    }

    /// Whether all has been read, and no more than all. Up to seven bits fill the last byte.
    fn are_all_used(&self) -> bool {
        self.rest.is_none() && self.interval_is_used()
    }

    fn interval_is_used(&self) -> bool {
        (self.at * 8 - self.count as usize).div_ceil(8) == self.length
    }

    /// Makes the window hold enough for a code and its value; behind the end come zeros.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count < ENOUGH {
            let next = self.interval.get(self.at..).and_then(|rest| rest.first_chunk());
            self.window |= next.map_or(0, |&bytes| u64::from_be_bytes(bytes)) >> self.count;
            let bytes = (63 - self.count) >> 3;
            self.at += bytes as usize;
            self.count += 8 * bytes;
        }
    }

    #[inline(always)]
    fn drop(&mut self, count: u32) {
        self.window <<= count;
        self.count -= count;
    }

    /// The value of `size` bits: the upper half of the range is positive, the lower stands for
    /// negative numbers.
    #[inline(always)]
    fn value(&mut self, size: u8) -> Option<i32> {
        let size = u32::from(size);
        if size == 0 {
            return Some(0);
        }
        if size > 15 {
            return None;
        }
        let value = (self.window >> (64 - size)) as i32;
        self.drop(size);
        let lower = value < 1 << (size - 1);
        Some(if lower { value + 1 - (1 << size) } else { value })
    }
}

// ---- codes ----

/// Codes up to this long are looked up.
const LOOKED_UP: u32 = 10;

struct Huffman {
    /// By the next bits: a code's length, 0 for those that are longer, and its symbol.
    short: Vec<(u8, u8)>,
    /// By the next bits: what a number of whole codes with their values come to.
    leaps: Vec<Leap>,
    /// By length: the first 16 bits that no code of this length or shorter begins with.
    limits: [u32; 17],
    /// By length: what to add to a code to come to its symbol's place.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

/// Codes and their values in a row.
#[derive(Clone, Copy, Default)]
struct Leap {
    /// Bits they take; 0 if not even one code fits.
    bits: u8,
    /// How many frequencies they bring.
    frequencies: u8,
    /// Whether the block ends with them.
    ends: bool,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut short = vec![(0, 0); 1 << LOOKED_UP];
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut place) = (0u32, 0);
        for length in 1..=16 {
            let count = usize::from(counts[length as usize - 1]);
            code <<= 1;
            offsets[length as usize] = place as i32 - code as i32;
            for &symbol in symbols.get(place..place + count)? {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKED_UP {
                    let spare = LOOKED_UP - length;
                    short[(code << spare) as usize..][..1 << spare].fill((length as u8, symbol));
                }
                code += 1;
            }
            place += count;
            limits[length as usize] = code << (16 - length);
        }
        let leaps = (0..1 << LOOKED_UP).map(|window| Leap::of(window, &short)).collect();
        Some(Self { short, leaps, limits, offsets, symbols: symbols.into() })
    }

    /// The next symbol.
    #[inline(always)]
    fn symbol(&self, bits: &mut Bits) -> Option<u8> {
        bits.fill();
        let (length, symbol) = self.short[(bits.window >> (64 - LOOKED_UP)) as usize];
        if length == 0 {
            return self.long_symbol(bits);
        }
        bits.drop(length.into());
        Some(symbol)
    }

    #[cold]
    fn long_symbol(&self, bits: &mut Bits) -> Option<u8> {
        let next = (bits.window >> 48) as u32;
        let length = (LOOKED_UP + 1..=16).find(|&l| next < self.limits[l as usize])?;
        bits.drop(length);
        let place = (next >> (16 - length)) as i32 + self.offsets[length as usize];
        self.symbols.get(place as usize).copied()
    }

    /// Passes over the frequencies of a block from `k` on.
    fn pass_over(&self, bits: &mut Bits, mut k: usize) -> Option<()> {
        while k < 64 {
            bits.fill();
            let leap = self.leaps[(bits.window >> (64 - LOOKED_UP)) as usize];
            let after = k + usize::from(leap.frequencies);
            // A block that is full has no end code: what follows would be the next block's.
            if leap.bits > 0 && after < 64 {
                bits.drop(leap.bits.into());
                if leap.ends {
                    return Some(());
                }
                k = after;
                continue;
            }
            match self.symbol(bits)? {
                0 => return Some(()),
                0xf0 => k += 16,
                symbol => {
                    let size = symbol & 15;
                    (size > 0).then(|| bits.value(size))??;
                    k += usize::from(symbol >> 4) + 1;
                }
            }
        }
        (k == 64).then_some(())
    }
}

impl Leap {
    fn of(window: usize, short: &[(u8, u8)]) -> Self {
        let mut leap = Self::default();
        while u32::from(leap.bits) < LOOKED_UP && !leap.ends {
            let (length, symbol) = short[(window << leap.bits) & (short.len() - 1)];
            let size = symbol & 15;
            let fits = length > 0 && u32::from(leap.bits + length) <= LOOKED_UP;
            if !fits || (size == 0 && !matches!(symbol, 0 | 0xf0)) {
                break;
            }
            leap.bits += length + size;
            leap.ends = symbol == 0;
            leap.frequencies += if leap.ends { 0 } else { (symbol >> 4) + 1 };
        }
        leap
    }
}

// ---- frequencies to pixels ----

/// Where the frequencies stand in a block, in the order of the file.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

fn column(k: usize) -> usize {
    usize::from(ZIGZAG[k] % 8)
}

fn row(k: usize) -> usize {
    usize::from(ZIGZAG[k] / 8)
}

/// The inverse cosine transform of a block's lowest `width` by `height` frequencies.
struct Inverse {
    width: usize,
    height: usize,
    /// By frequency and pixel.
    across: [[f32; 8]; 8],
    down: [[f32; 8]; 8],
    run: fn(&Self, &[f32; 64], usize, &mut [u8], usize),
}

impl Inverse {
    fn new(width: usize, height: usize) -> Self {
        let run = match (width, height) {
            (1, 1) => Self::run::<1, 1>,
            (1, 2) => Self::run::<1, 2>,
            (2, 1) => Self::run::<2, 1>,
            (2, 2) => Self::run::<2, 2>,
            (2, 4) => Self::run::<2, 4>,
            (4, 2) => Self::run::<4, 2>,
            (4, 4) => Self::run::<4, 4>,
            (4, 8) => Self::run::<4, 8>,
            (8, 4) => Self::run::<8, 4>,
            _ => Self::run::<8, 8>,
        };
        Self { width, height, across: cosines(width), down: cosines(height), run }
    }

    /// Writes a block's pixels at the start of `out`, whose rows are `stride` apart.
    fn write(&self, block: &[f32; 64], rows: usize, out: &mut [u8], stride: usize) {
        if rows > 0 {
            return (self.run)(self, block, rows, out, stride);
        }
        let value = byte(block[0] / 8.0);
        for row in out.chunks_mut(stride).take(self.height) {
            row[..self.width].fill(value);
        }
    }

    fn run<const W: usize, const H: usize>(
        &self,
        block: &[f32; 64],
        rows: usize,
        out: &mut [u8],
        stride: usize,
    ) {
        let block = block.as_chunks::<8>().0;
        for (y, out) in out.chunks_mut(stride).take(H).enumerate() {
            let mut columns = [0.0; W];
            for (block, down) in block.iter().zip(&self.down).take(rows.min(H)) {
                for u in 0..W {
                    columns[u] += block[u] * down[y];
                }
            }
            let mut pixels = [0.0; W];
            for (column, across) in columns.iter().zip(&self.across) {
                for x in 0..W {
                    pixels[x] += column * across[x];
                }
            }
            out[..W].copy_from_slice(&pixels.map(byte));
        }
    }
}

/// The cosines of an inverse transform to `n` pixels that leaves a block's mean as it is.
fn cosines(n: usize) -> [[f32; 8]; 8] {
    let value = |u: usize, x: usize| match u {
        0 => 0.125f64.sqrt(),
        _ => libm::cos((2 * x + 1) as f64 * u as f64 * PI / (2 * n) as f64) / 2.0,
    };
    std::array::from_fn(|u| std::array::from_fn(|x| value(u, x) as f32))
}

/// A value around zero as a byte, rounded.
fn byte(value: f32) -> u8 {
    (value + 128.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jpeg::part;
    use crate::preprocess::resize;
    use crate::test_data::{encoded, mean_difference, real, rgb8, synthetic};
    use crate::{DecodeOptions, Detail, Interpolation, Stream, decode_in};
    use image::{DynamicImage, ImageFormat};

    /// A smooth picture: what a smaller one can show.
    fn smooth(width: u32, height: u32) -> RgbImage {
        resize(&synthetic(6, 5, 9), width, height, Interpolation::Bicubic)
    }

    #[test]
    fn a_part_of_the_sides_is_the_picture_made_smaller() {
        for (width, height) in [(160, 120), (161, 119), (8, 8), (7, 300), (333, 17)] {
            let image = smooth(width, height);
            let grey = DynamicImage::from(rgb8(&image).to_luma8());
            for (name, picture) in [("colour", rgb8(&image)), ("grey", grey)] {
                let jpeg = encoded(picture, ImageFormat::Jpeg);
                let whole = crate::decode(&jpeg, &DecodeOptions::default()).unwrap();
                for kept in [4, 2, 1] {
                    let part = part(&jpeg, kept as usize).unwrap();
                    let sides = [width, height].map(|side| (side * kept).div_ceil(8));
                    assert_eq!([part.width(), part.height()], sides, "{name}, {kept} of 8");
                    if width.min(height) >= 119 {
                        let smaller = resize(&whole, sides[0], sides[1], Interpolation::Bilinear);
                        let difference = mean_difference(part.pixels(), smaller.pixels());
                        assert!(difference < 3.0, "{name}, {kept} of 8: {difference}");
                    }
                }
            }
        }
    }

    #[test]
    fn transforms_keep_the_mean_and_agree_with_the_definition() {
        let mut stream = Stream::new(1, "block", &[]);
        for (width, height) in [(1, 1), (2, 1), (1, 2), (4, 4), (8, 4), (4, 8), (8, 8)] {
            let block: [f32; 64] =
                std::array::from_fn(|k| stream.range(-300.0, 300.0) as f32 / (1 + k) as f32);
            let (inverse, mut out) = (Inverse::new(width, height), [0; 128]);
            inverse.write(&block, 8, &mut out, 16);
            for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                let cosine = |n: usize, u: usize, x: usize| {
                    let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
                    scale * libm::cos((2 * x + 1) as f64 * u as f64 * PI / (2 * n) as f64)
                };
                let sum: f64 = (0..64)
                    .filter(|k| k % 8 < width && k / 8 < height)
                    .map(|k| {
                        f64::from(block[k]) * cosine(width, k % 8, x) * cosine(height, k / 8, y)
                    })
                    .sum();
                let expected = (sum / 4.0 + 128.0).clamp(0.0, 255.0);
                assert!((f64::from(out[16 * y + x]) - expected).abs() < 0.51, "{width}x{height}");
            }
            inverse.write(&[80.0; 64], 0, &mut out, 16);
            assert!(out[..width].iter().all(|&v| v == 138));
        }
    }

    #[test]
    fn damage_is_refused_as_by_the_full_decoder() {
        // Whatever the scaled decoder takes, the full one takes: it never sees less than is wrong.
        let jpeg = encoded(rgb8(&synthetic(96, 80, 4)), ImageFormat::Jpeg);
        let mut stream = Stream::new(7, "damage", &[]);
        let mut refused = 0;
        let mut missed = Vec::new();
        for _ in 0..3000 {
            let mut broken = jpeg.clone();
            for _ in 0..=stream.below(3) {
                let at = 2 + stream.below(broken.len() - 2);
                match stream.below(3) {
                    0 => broken[at] = stream.below(256) as u8,
                    1 => drop(broken.remove(at)),
                    _ => broken.truncate(at.max(100)),
                }
            }
            let whole = crate::decode(&broken, &DecodeOptions::default());
            let part = decode_in(&broken, &DecodeOptions::default(), Detail::Least);
            match (whole, part) {
                (Err(error), Err(part)) => {
                    assert_eq!(part.to_string(), error.to_string());
                    refused += 1;
                }
                (Err(error), Ok(_)) => missed.push(error.to_string()),
                (Ok(_), part) => _ = part.unwrap(),
            }
        }
        assert_eq!(missed, [""; 0]);
        assert!(refused > 500, "{refused}");
    }

    #[test]
    fn restart_markers_are_followed_in_their_order() {
        let mut bits = Bits::new(&[0xab, 0xff, 0, 0xff, 0xd0, 0x3c, 0xff, 0xd1, 0xf0]).unwrap();
        bits.fill();
        assert_eq!((bits.length, bits.window >> 48), (2, 0xabff));
        assert!(bits.restart().is_none(), "nothing of the first interval was read");
        let mut bits = Bits::new(&[0xab, 0xff, 0xd0, 0x3c, 0xff, 0xd1, 0xf0]).unwrap();
        for (byte, last) in [(0xab, false), (0x3c, false), (0xf0, true)] {
            bits.fill();
            assert_eq!(bits.window >> 56, byte);
            bits.drop(5);
            assert_eq!(bits.are_all_used(), last);
            assert_eq!(bits.restart().is_some(), !last);
        }
        assert!(Bits::new(&[0xab, 0xff, 0xd1, 0x3c]).is_none(), "the second marker comes first");
        assert!(Bits::new(&[0xab, 0xff]).is_none());
    }

    #[test]
    fn leaps_end_where_single_steps_do() {
        // Codes of 2 to 16 bits; values of up to 3 bits.
        let counts = [0, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1];
        let symbols = [0x01, 0x02, 0x00, 0x11, 0x21, 0xf0, 0x03, 0x12, 0x31, 0x42];
        let huffman = Huffman::new(&counts, &symbols).unwrap();
        let mut stream = Stream::new(3, "leaps", &[]);
        for _ in 0..2000 {
            let data: Vec<u8> = (0..200).map(|_| stream.below(255) as u8).collect();
            let start = 1 + stream.below(63);
            let (mut leaping, mut stepping) =
                (Bits::new(&data).unwrap(), Bits::new(&data).unwrap());
            let mut k = start;
            let steps = loop {
                match huffman.symbol(&mut stepping) {
                    _ if k == 64 => unreachable!("the loop ends there"),
                    None => break None,
                    Some(0) => break Some(()),
                    Some(symbol) => {
                        stepping.value(symbol & 15).unwrap();
                        k += usize::from(symbol >> 4) + 1;
                        if k >= 64 {
                            break (k == 64).then_some(());
                        }
                    }
                }
            };
            assert_eq!(huffman.pass_over(&mut leaping, start), steps);
            let read = |bits: &Bits| bits.at * 8 - bits.count as usize;
            assert!(steps.is_none() || read(&leaping) == read(&stepping));
        }
    }

    #[test]
    fn photos_look_alike_in_every_orientation() {
        let Some(folder) = real("exif") else { return };
        for path in crate::list_images(&[folder]).unwrap() {
            let bytes = std::fs::read(&path).unwrap();
            let whole = crate::decode(&bytes, &DecodeOptions::default()).unwrap();
            for kept in [4, 2, 1] {
                let (width, height) = (whole.width() * kept / 8, whole.height() * kept / 8);
                let (shorter, longer) = (width.min(height), width.max(height));
                let detail = Detail::AtLeast { shorter, longer };
                let part = decode_in(&bytes, &DecodeOptions::default(), detail).unwrap();
                assert_eq!((part.width(), part.height()), (width, height));
                let small = |image| resize(image, width / 2, height / 2, Interpolation::Bicubic);
                let difference = mean_difference(small(&whole).pixels(), small(&part).pixels());
                assert!(difference < 1.0, "{}, {kept} of 8: {difference}", path.display());
            }
        }
    }

    #[test]
    fn what_is_not_read_here_is_left_to_the_full_decoder() {
        let Some(folder) = real("trouble") else { return };
        for path in crate::list_images(&[folder]).unwrap() {
            let bytes = std::fs::read(&path).unwrap();
            let read = |detail| match decode_in(&bytes, &DecodeOptions::default(), detail) {
                Ok(_) => "whole".to_string(),
                Err(error) => error.to_string(),
            };
            assert_eq!(read(Detail::Least), read(Detail::Full), "{}", path.display());
        }
    }
}
