//! The record of rewrites as an artifact holds it: JSON, deflated.

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use std::io::{Read, Write};

/// A longer text is refused: a few bytes can claim to hold any amount.
const MAX_UNPACKED: u64 = 64 << 20;

/// What goes into the artifact. The same text gives the same bytes.
pub fn pack_record(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = ZlibEncoder::new(vec![], Compression::best());
    packed.write_all(text)?;
    packed.finish()
}

/// The text of a record. An artifact may have none; then the text is empty.
///
/// # Errors
/// What is wrong with the bytes.
pub fn unpack_record(packed: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    if packed.is_empty() {
        return Ok(text);
    }
    let fail = |e: &dyn ToString| format!("rewrite record: {}", e.to_string());
    let unpacked = ZlibDecoder::new(packed).take(MAX_UNPACKED + 1).read_to_string(&mut text);
    match unpacked.map_err(|e| fail(&e))? as u64 {
        ..=MAX_UNPACKED => Ok(text),
        _ => Err(fail(&format_args!("it has more than {MAX_UNPACKED} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_bombs_do_not() {
        let text = r#"{"rewrites": [], "notes": []}"#.repeat(100);
        let packed = pack_record(text.as_bytes()).unwrap();
        assert!(packed.len() < text.len() / 10);
        assert_eq!(unpack_record(&packed).unwrap(), text);
        assert_eq!(unpack_record(b"").unwrap(), "");
        for bad in [&packed[..packed.len() - 1], b"{}", &packed[1..]] {
            assert!(unpack_record(bad).unwrap_err().starts_with("rewrite record: "));
        }
        let bomb = pack_record(&vec![b' '; MAX_UNPACKED as usize + 1]).unwrap();
        assert!(unpack_record(&bomb).unwrap_err().contains("more than"));
    }
}
