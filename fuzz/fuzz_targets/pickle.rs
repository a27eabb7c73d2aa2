//! A pickle in the archive that PyTorch puts it in, beside a storage of 256 bytes.
#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fuzz_target!(|pickle: &[u8]| {
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in
        [("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", &[7; 256]), ("x/version", b"3\n")]
    {
        archive.start_file(name, stored).expect("a new name");
        archive.write_all(bytes).expect("room in memory");
    }
    let archive = archive.finish().expect("room in memory").into_inner();
    refit_fuzz::read_all("x.pth", &archive);
});
