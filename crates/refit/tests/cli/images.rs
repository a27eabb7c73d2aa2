//! Images made by hand, whole and broken.

use std::path::Path;

/// A BMP of `side` by `side` pixels of noise around a colour (red, green, blue).
pub fn bmp(side: usize, [r, g, b]: [u8; 3], seed: u64) -> Vec<u8> {
    let row = (3 * side).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    let head = [(54 + row * side) as u32, 0, 54, 40, side as u32, side as u32];
    bytes.extend(head.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 58) as u8
    };
    for _ in 0..side {
        let pixels = (0..side).flat_map(|_| [b, g, r].map(|c| c.saturating_add(noise())));
        bytes.extend(pixels.collect::<Vec<u8>>());
        bytes.extend(vec![0; row - 3 * side]);
    }
    bytes
}

/// Writes `count` reddish images to `folder/red`, bluish ones to `folder/blue`.
pub fn two_classes(folder: &Path, count: usize) {
    for (class, colour, first) in [("red", [180, 40, 30], 1), ("blue", [20, 50, 170], 1000)] {
        let class = folder.join(class);
        std::fs::create_dir_all(&class).unwrap();
        for i in 0..count {
            std::fs::write(class.join(format!("{i:02}.bmp")), bmp(40, colour, first + i as u64))
                .unwrap();
        }
    }
}

/// A grey JPEG of 256 by 256 pixels: every block has the same mean and nothing else.
pub fn jpeg() -> Vec<u8> {
    let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0];
    bytes.extend([1; 64]);
    bytes.extend([0xFF, 0xC0, 0, 11, 8, 1, 0, 1, 0, 1, 1, 0x11, 0]);
    let huffman = |class: u8, by_length: [u8; 2], symbols: &[u8]| {
        let mut table = vec![0xFF, 0xC4, 0, 19 + symbols.len() as u8, class];
        table.extend(by_length);
        table.extend([0; 14]);
        table.extend(symbols);
        table
    };
    // Means that differ by nothing are `00`, by seven bits `01`; a block's end is `0`.
    bytes.extend(huffman(0x00, [0, 2], &[0, 7]));
    bytes.extend(huffman(0x10, [1, 0], &[0]));
    bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0]);
    let mut bits = "0111001000".to_owned();
    bits.push_str(&"000".repeat(1023));
    bits.push_str(&"1".repeat(bits.len().next_multiple_of(8) - bits.len()));
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    bytes.extend(bits.as_bytes().chunks(8).map(byte));
    bytes.extend([0xFF, 0xD9]);
    bytes
}

/// The header of a PNG that says 50000 by 50000 pixels, and next to no data.
pub fn png_bomb() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        bytes.extend((data.len() as u32).to_be_bytes());
        let content = [kind.as_slice(), data].concat();
        bytes.extend(&content);
        bytes.extend(crc32(&content).to_be_bytes());
    };
    let side = 50_000_u32.to_be_bytes();
    chunk(b"IHDR", &[&side[..], &side, &[8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[0x78, 0x01, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
    chunk(b"IEND", &[]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}
