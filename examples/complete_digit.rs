//! Digits from a circuit: packs rows of them and gives them back, then fills in halves that are missing.
//!
//! ```text
//! kiln compile examples/models/digits-hclt/digits-hclt-16.jpc.gz -o digits.kiln
//! cargo run --release -p kiln-runtime --example complete_digit -- digits.kiln \
//!     examples/models/digits-hclt/test-rows.csv.gz completed.png
//! ```
//!
//! The picture has a column for each digit: the digit, its upper half, the most probable completion by max-product, and
//! three completions drawn from the distribution that the upper half leaves.

use flate2::read::MultiGzDecoder;
use kiln_runtime::codec::Codec;
use kiln_runtime::format::ElemType;
use kiln_runtime::{Artifact, Session, SessionOptions, Tensor};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter};

const SIDE: usize = 8;
const PIXELS: usize = SIDE * SIDE;
/// The largest value of a pixel.
const INK: f64 = 16.0;
/// Digits in the picture, and rows of it.
const DIGITS: usize = 16;
const SAMPLES: usize = 3;
/// Pixels of the picture for one of a digit, and between digits.
const SCALE: usize = 6;
const GAP: usize = 6;

type Digit = Vec<f64>;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, artifact, rows, picture] = &args[..] else {
        return Err("usage: complete_digit ARTIFACT ROWS.csv.gz OUT.png".into());
    };
    complete(artifact, rows, picture)
}

/// Packs the rows and draws the first digits with their completions.
///
/// # Errors
/// An artifact of another circuit, rows of another width, files that cannot be read or written.
pub(crate) fn complete(artifact: &str, rows: &str, picture: &str) -> Result<(), Box<dyn Error>> {
    let artifact = Artifact::open(artifact)?;
    let rows = read(rows)?;
    pack(&artifact, &rows)?;

    let originals: Vec<Digit> =
        rows.iter().take(DIGITS).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect();
    // Half of the pixels are not given.
    let given: Vec<Digit> = originals
        .iter()
        .map(|digit| digit.iter().enumerate().map(|(i, v)| if i < PIXELS / 2 { *v } else { f64::NAN }).collect())
        .collect();
    let mut session = Session::new(&artifact, SessionOptions::default())?;
    let mut strips = vec![originals, given.clone(), ask(&mut session, "mpe", &given, None)?];
    for seed in 1..=SAMPLES as i64 {
        strips.push(ask(&mut session, "sample", &given, Some(seed))?);
    }
    draw(picture, &strips)?;
    println!("{picture}: {} digits, upper halves given, lower halves filled in", strips[0].len());
    Ok(())
}

/// The rows of a text file that gzip has compressed.
fn read(path: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let lines = BufReader::new(MultiGzDecoder::new(File::open(path)?)).lines();
    let mut rows = vec![];
    for line in lines {
        let row = line?.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>()?;
        if row.len() != PIXELS {
            return Err(format!("{path}: a row of {} pixels, expected {PIXELS}", row.len()).into());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Encodes the rows, decodes them, and says what that came to.
fn pack(artifact: &Artifact, rows: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
    let codec = Codec::new(artifact)?;
    let all = Tensor::of(&[rows.len(), PIXELS], &rows.concat())?;
    let stream = codec.encode(all.view())?;
    let again = codec.decode(&stream, 1 << 30)?;
    assert_eq!(again.bytes(), all.bytes(), "the rows come back as they were");
    let bits = 8.0 * stream.len() as f64 / all.bytes().len() as f64;
    println!("{} digits: {} bytes to {}, {bits:.3} bits a pixel", rows.len(), all.bytes().len(), stream.len());
    Ok(())
}

/// The digits that an entry makes of digits with missing pixels, which are NaN.
fn ask(session: &mut Session, entry: &str, given: &[Digit], seed: Option<i64>) -> Result<Vec<Digit>, Box<dyn Error>> {
    let manifest = session.artifact().manifest();
    let found =
        manifest.entries.iter().find(|e| e.name == entry).ok_or_else(|| format!("there is no entry {entry}"))?;
    let elem = found.inputs.iter().find(|p| p.name == "x").map(|p| p.elem);
    let (shape, numbers) = ([given.len(), PIXELS], given.concat());
    let x = match elem {
        Some(ElemType::F32) => Tensor::of(&shape, &numbers.iter().map(|v| *v as f32).collect::<Vec<_>>())?,
        _ => Tensor::of(&shape, &numbers)?,
    };
    // Each row draws from numbers of its own.
    let seeds: Vec<i64> =
        seed.into_iter().flat_map(|s| (0..given.len() as i64).map(move |row| 1000 * s + row)).collect();
    let seeds = Tensor::of(&[seeds.len()], &seeds)?;
    let mut inputs = vec![("x", x.view())];
    inputs.extend(seed.map(|_| ("seed", seeds.view())));
    let outputs = session.entry(entry)?.run(&inputs)?;
    let states = outputs.get("states").ok_or("there is no output `states`")?;
    let floats = states.as_slice::<f32>().map(|s| s.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
    let states = floats.or_else(|| states.as_slice::<f64>().map(<[f64]>::to_vec)).ok_or("`states` are no floats")?;
    Ok(states.chunks(PIXELS).map(<[f64]>::to_vec).collect())
}

/// Dark on light, a strip below the other; what is not given is red.
fn draw(path: &str, strips: &[Vec<Digit>]) -> Result<(), Box<dyn Error>> {
    let cell = SIDE * SCALE + GAP;
    let (width, height) = (strips[0].len() * cell + GAP, strips.len() * cell + GAP);
    let mut pixels = vec![255u8; 3 * width * height];
    for (top, strip) in strips.iter().enumerate() {
        for (left, digit) in strip.iter().enumerate() {
            for (y, x) in (0..SIDE * SCALE).flat_map(|y| (0..SIDE * SCALE).map(move |x| (y, x))) {
                let value = digit[y / SCALE * SIDE + x / SCALE];
                let grey = (255.0 * (1.0 - value / INK)).round() as u8;
                let colour = if value.is_nan() { [230, 120, 120] } else { [grey; 3] };
                let at = (top * cell + GAP + y) * width + left * cell + GAP + x;
                pixels[3 * at..3 * at + 3].copy_from_slice(&colour);
            }
        }
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}
