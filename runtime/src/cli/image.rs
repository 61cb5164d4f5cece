//! Pictures as inputs: decode, resize, rescale, normalise, as the manifest's `image.*` keys say.

use super::CliError;
use super::tensors::read_up_to;
use crate::Tensor;
use crate::format::{ElemType, Manifest};
use png::{ColorType, Transformations};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Decoded pictures may not be larger than this, so that a small file cannot fill the memory.
const MAX_DECODED: usize = 256 << 20;

/// Samples from 0 to 255, by channel, row and column.
struct Picture {
    channels: usize,
    height: usize,
    width: usize,
    samples: Vec<f32>,
}

pub(super) fn is_png(path: &Path) -> Result<bool, CliError> {
    let mut start = [0; 8];
    let mut file = File::open(path).map_err(CliError::read(path))?;
    let n = read_up_to(&mut file, &mut start).map_err(CliError::read(path))?;
    Ok(start[..n] == *b"\x89PNG\r\n\x1a\n")
}

/// The picture as the entry's input: `f32`, one picture, channels, height, width.
pub(super) fn read(path: &Path, manifest: &Manifest, entry: &str) -> Result<Vec<(String, Tensor)>, CliError> {
    let fail = |e: String| CliError::file(path, e);
    let settings = Settings::of(manifest, entry).map_err(fail)?;
    let picture = decode(path).map_err(fail)?.with_channels(settings.channels);
    let picture = picture.resized(settings.height, settings.width, settings.nearest);
    let area = settings.height * settings.width;
    let mut values = picture.samples;
    for (channel, samples) in values.chunks_exact_mut(area.max(1)).enumerate() {
        let (mean, std) = (settings.mean(channel), settings.std(channel));
        samples.iter_mut().for_each(|v| *v = (*v * settings.rescale - mean) / std);
    }
    let tensor = Tensor::of(&[1, settings.channels, settings.height, settings.width], &values)?;
    Ok(vec![(settings.input, tensor)])
}

struct Settings {
    input: String,
    channels: usize,
    height: usize,
    width: usize,
    nearest: bool,
    rescale: f32,
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Settings {
    fn of(manifest: &Manifest, entry: &str) -> Result<Settings, String> {
        let get = |key: &str| manifest.metadata.get(key).map(String::as_str);
        let size = get("image.size").ok_or("the artifact takes no pictures: it has no `image.size`")?;
        let bad = |key: &str, value: &str| format!("the artifact's `{key}` is {value:?}");
        let (height, width) = size.split_once('x').ok_or_else(|| bad("image.size", size))?;
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=1 << 14).contains(n));
        let (height, width) = number(height).zip(number(width)).ok_or_else(|| bad("image.size", size))?;
        let channels = get("image.channels").unwrap_or("3");
        let channels =
            number(channels).filter(|c| matches!(c, 1 | 3)).ok_or_else(|| bad("image.channels", channels))?;
        let floats = |key: &str, default: &str| -> Result<Vec<f32>, String> {
            let text = get(key).unwrap_or(default);
            let values: Option<Vec<f32>> = text.split(',').map(|v| v.trim().parse().ok()).collect();
            values.filter(|v| matches!(v.len(), 1) || v.len() == channels).ok_or_else(|| bad(key, text))
        };
        let nearest = match get("image.resample").unwrap_or("bilinear") {
            "bilinear" => false,
            "nearest" => true,
            other => return Err(bad("image.resample", other)),
        };
        let of_entry = manifest.entries.iter().find(|e| e.name == entry).map_or(&[][..], |e| &e.inputs);
        let takes = |p: &&crate::format::Port| p.dims.len() == 4 && p.elem == ElemType::F32;
        let input = match get("image.input") {
            Some(name) => name.to_owned(),
            None => of_entry.iter().find(takes).ok_or("the entry takes no pictures")?.name.clone(),
        };
        let (mean, std) = (floats("image.mean", "0")?, floats("image.std", "1")?);
        Ok(Settings { input, channels, height, width, nearest, rescale: floats("image.rescale", "1")?[0], mean, std })
    }

    fn mean(&self, channel: usize) -> f32 {
        self.mean[channel % self.mean.len()]
    }

    fn std(&self, channel: usize) -> f32 {
        self.std[channel % self.std.len()]
    }
}

fn decode(path: &Path) -> Result<Picture, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let limits = png::Limits { bytes: MAX_DECODED };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let len = reader.output_buffer_size().filter(|len| *len <= MAX_DECODED);
    let mut bytes = vec![0; len.ok_or_else(|| format!("it has more than {MAX_DECODED} bytes of samples"))?];
    let info = reader.next_frame(&mut bytes).map_err(|e| e.to_string())?;
    let (height, width) = (info.height as usize, info.width as usize);
    // What of a pixel is colour: the rest is transparency.
    let (stride, channels) = match info.color_type {
        ColorType::Grayscale => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (4, 3),
        ColorType::Indexed => return Err("its palette was not expanded".to_owned()),
    };
    let pixels = &bytes[..(height * width * stride).min(bytes.len())];
    let samples = (0..channels).flat_map(|c| pixels.chunks_exact(stride).map(move |p| f32::from(p[c]))).collect();
    Ok(Picture { channels, height, width, samples })
}

impl Picture {
    fn with_channels(self, channels: usize) -> Picture {
        let area = self.height * self.width;
        let samples = match (self.channels, channels) {
            (3, 1) => {
                let at = |i: usize, c: usize| self.samples[c * area + i];
                // Luma of ITU-R 601, as Pillow computes it.
                (0..area).map(|i| (at(i, 0) * 0.299 + at(i, 1) * 0.587 + at(i, 2) * 0.114).round()).collect()
            }
            (1, 3) => self.samples.repeat(3),
            _ => return self,
        };
        Picture { channels, samples, ..self }
    }

    /// In another size. Bilinear filtering widens its triangle when it shrinks, and rounds after each direction, as
    /// Pillow does on 8-bit samples.
    fn resized(self, height: usize, width: usize, nearest: bool) -> Picture {
        if (self.height, self.width) == (height, width) {
            return self;
        }
        let (across, down) = (filter(self.width, width, nearest), filter(self.height, height, nearest));
        let mut samples = Vec::with_capacity(self.channels * height * width);
        for plane in self.samples.chunks_exact((self.height * self.width).max(1)) {
            let row = |row: &[f32]| across.iter().map(|taps| weigh(taps, |i| row[i])).collect::<Vec<f32>>();
            let rows: Vec<Vec<f32>> = plane.chunks_exact(self.width).map(row).collect();
            for taps in &down {
                samples.extend((0..width).map(|x| weigh(taps, |i| rows[i][x])));
            }
        }
        Picture { channels: self.channels, height, width, samples }
    }
}

/// The first source sample and the weights of one output sample.
type Taps = (usize, Vec<f32>);

fn weigh((first, weights): &Taps, at: impl Fn(usize) -> f32) -> f32 {
    weights.iter().enumerate().map(|(i, w)| w * at(first + i)).sum::<f32>().round().clamp(0.0, 255.0)
}

fn filter(from: usize, to: usize, nearest: bool) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        if nearest {
            return ((centre as usize).min(from - 1), vec![1.0]);
        }
        let first = ((centre - support + 0.5).max(0.0)) as usize;
        let end = ((centre + support + 0.5) as usize).clamp(first + 1, from);
        let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - centre) / support).abs()).max(0.0);
        let total: f64 = (first..end).map(weight).sum();
        (first, (first..end).map(|j| (weight(j) / total) as f32).collect())
    };
    (0..to).map(taps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(height: usize, width: usize, samples: &[f32]) -> Picture {
        Picture { channels: 1, height, width, samples: samples.to_vec() }
    }

    /// The expected values are Pillow's: `Image.fromarray(a).resize((w, h), Image.BILINEAR)`.
    #[test]
    fn bilinear_is_pillows() {
        let up = grey(1, 2, &[0.0, 100.0]).resized(1, 4, false);
        assert_eq!(up.samples, [0.0, 25.0, 75.0, 100.0]);
        let down = grey(1, 6, &[0.0, 10.0, 20.0, 30.0, 40.0, 50.0]).resized(1, 3, false);
        assert_eq!(down.samples, [7.0, 25.0, 43.0]);
        let flat = grey(3, 3, &[7.0; 9]).resized(5, 2, false);
        assert_eq!(flat.samples, [7.0; 10]);
    }

    #[test]
    fn channels_are_converted() {
        let colour = Picture { channels: 3, height: 1, width: 1, samples: vec![255.0, 0.0, 0.0] };
        assert_eq!(colour.with_channels(1).samples, [76.0]);
        assert_eq!(grey(1, 1, &[9.0]).with_channels(3).samples, [9.0; 3]);
    }
}
